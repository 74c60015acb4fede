package expression

import (
	"container/list"
	"sync"
)

// Cache keeps what was compiled, up to a number of entries; when it is full, the entry
// that was asked for longest ago goes and is compiled anew when it is needed. It is safe for
// parallel use.
type Cache[K comparable, V any] struct {
	most int

	mu   sync.Mutex
	byK  map[K]*list.Element
	last *list.List // of *cached, the newest in front
}

type cached[K comparable, V any] struct {
	key  K
	make func() V
}

// NewCache keeps up to most entries.
func NewCache[K comparable, V any](most int) *Cache[K, V] {
	return &Cache[K, V]{most: most, byK: map[K]*list.Element{}, last: list.New()}
}

// Get returns the entry of the key, made once by make. Others do not wait while it is made,
// unless they ask for the same.
func (c *Cache[K, V]) Get(key K, make func() V) V {
	c.mu.Lock()
	e := c.byK[key]
	if e == nil {
		e = c.last.PushFront(&cached[K, V]{key, sync.OnceValue(make)})
		c.byK[key] = e
		if c.last.Len() > c.most {
			old := c.last.Back()
			delete(c.byK, old.Value.(*cached[K, V]).key)
			c.last.Remove(old)
		}
	} else {
		c.last.MoveToFront(e)
	}
	c.mu.Unlock()
	return e.Value.(*cached[K, V]).make()
}

// Drop forgets the entry of a key.
func (c *Cache[K, V]) Drop(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byK[key]; e != nil {
		delete(c.byK, key)
		c.last.Remove(e)
	}
}

// Len counts the entries.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.Len()
}
