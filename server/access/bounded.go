package access

import "sync"

// bounded is a map with a limit; when full it drops an arbitrary entry, which
// costs its owner one more verification.
type bounded[K comparable, V any] struct {
	limit int

	mu sync.RWMutex
	m  map[K]V
}

func newBounded[K comparable, V any](limit int) *bounded[K, V] {
	return &bounded[K, V]{limit: limit, m: map[K]V{}}
}

func (b *bounded[K, V]) get(k K) (V, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	v, ok := b.m[k]
	return v, ok
}

func (b *bounded[K, V]) put(k K, v V) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, there := b.m[k]; !there && len(b.m) >= b.limit {
		for old := range b.m {
			delete(b.m, old)
			break
		}
	}
	b.m[k] = v
}

func (b *bounded[K, V]) drop(k K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.m, k)
}
