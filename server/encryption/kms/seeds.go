package kms

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/sync/singleflight"
)

const (
	// maxSeeds bounds what is kept. There is one for each key of the KMS and start of an
	// API server that anything is still stored with.
	maxSeeds = 1000
	// failedFor is how long a source that the plugin would not open is not asked for again.
	failedFor = 3 * time.Second
)

// seeds keeps opened sources; the oldest go first when there are too many.
type seeds struct {
	ask     func(ctx context.Context, uid string, s source) ([]byte, error)
	now     func() time.Time
	flights singleflight.Group

	mu     sync.Mutex
	known  map[string]opener
	order  []string // of known, oldest first
	failed map[string]failure
}

type failure struct {
	err   error
	until time.Time
}

func newSeeds(ask func(context.Context, string, source) ([]byte, error), now func() time.Time) *seeds {
	return &seeds{ask: ask, now: now, known: map[string]opener{}, failed: map[string]failure{}}
}

// id names a source: everything that the plugin gets to see, each part with its length.
func (s source) id() string {
	b := cryptobyte.NewBuilder(nil)
	part := func(v []byte) { b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(v) }) }
	b.AddUint32(uint32(s.kind))
	part(s.sealed)
	part([]byte(s.keyID))
	names := make([]string, 0, len(s.notes))
	for k := range s.notes {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		part([]byte(k))
		part(s.notes[k])
	}
	return string(b.BytesOrPanic())
}

// get is the opener of a source that is known, else nil.
func (c *seeds) get(s source) opener {
	id := s.id()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[id]
}

func (c *seeds) put(s source, o opener) { c.keep(s.id(), o) }

func (c *seeds) keep(id string, o opener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failed, id)
	if c.known[id] == nil {
		c.order = append(c.order, id)
	}
	c.known[id] = o
	if len(c.order) > maxSeeds {
		delete(c.known, c.order[0])
		c.order = slices.Delete(c.order, 0, 1)
	}
}

func (c *seeds) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.known)
}

// fetch lets the plugin open a source. Those who want the same one share the answer.
func (c *seeds) fetch(s source) (opener, error) {
	id := s.id()
	if err := c.failure(id); err != nil {
		return nil, err
	}
	v, err, _ := c.flights.Do(id, func() (any, error) {
		if o := c.get(s); o != nil {
			return o, nil
		}
		s.sealed = bytes.Clone(s.sealed) // it is part of a much longer value
		plain, err := c.ask(context.Background(), uuid.NewString(), s)
		if err == nil {
			var o opener
			if o, err = openerOf(s.kind, plain); err == nil {
				c.keep(id, o)
				return o, nil
			}
		}
		c.fail(id, err)
		return nil, err
	})
	if err != nil {
		return nil, err
	}
	return v.(opener), nil
}

func (c *seeds) failure(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.failed[id]
	if f.err != nil && c.now().After(f.until) {
		delete(c.failed, id)
		return nil
	}
	return f.err
}

func (c *seeds) fail(id string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failed) >= maxSeeds {
		clear(c.failed)
	}
	c.failed[id] = failure{err, c.now().Add(failedFor)}
}
