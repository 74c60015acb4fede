// Package allocate hands out what Services need and no two may share: cluster IPs
// and node ports. A Pool lives in memory and follows the cache of Services: what
// is stored is taken, what is deleted is free again. Between the moment a number
// is handed out and the moment its Service shows up in the cache it is pending, and
// falls back if the Service never comes; so a failed write needs no undo.
//
// Start reading at Pool, then Services.
package allocate

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// pendingFor is longer than any request may take.
const pendingFor = 90 * time.Second

var (
	// ErrTaken: somebody else has the number.
	ErrTaken = errors.New("already allocated")
	// ErrFull: no number is free.
	ErrFull = errors.New("range is full")
)

// Pool hands out numbers or addresses to owners. It is safe for parallel use.
type Pool[K comparable] struct {
	now func() time.Time

	mu   sync.Mutex
	held map[K]holder
}

type holder struct {
	owner string
	// until is zero for what is stored.
	until time.Time
}

// span is a row of what a pool may hand out.
type span[K any] struct {
	size int
	// quiet ones at the start are handed out last, as they are what people ask
	// for by hand.
	quiet int
	at    func(n int) K
}

// NewPool makes a pool that holds nothing.
func NewPool[K comparable](now func() time.Time) *Pool[K] {
	return &Pool[K]{now: now, held: map[K]holder{}}
}

// Reserve takes n for owner; ErrTaken if another has it.
func (p *Pool[K]) Reserve(n K, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.freeLocked(n, owner) {
		return ErrTaken
	}
	if h, ok := p.held[n]; !ok || h.owner != owner || !h.until.IsZero() {
		p.held[n] = holder{owner, p.now().Add(pendingFor)}
	}
	return nil
}

// Check is Reserve without taking (dry runs).
func (p *Pool[K]) Check(n K, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.freeLocked(n, owner) {
		return ErrTaken
	}
	return nil
}

// Next takes any free one of a span; with dry it only says which.
func (p *Pool[K]) Next(owner string, s span[K], dry bool) (K, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, band := range [][2]int{{s.quiet, s.size}, {0, s.quiet}} {
		width := band[1] - band[0]
		if width <= 0 {
			continue
		}
		start := rand.IntN(width)
		for i := range width {
			n := s.at(band[0] + (start+i)%width)
			// Not even the owner's own: it may ask for several.
			if h, ok := p.held[n]; ok && (h.until.IsZero() || p.now().Before(h.until)) {
				continue
			}
			if !dry {
				p.held[n] = holder{owner, p.now().Add(pendingFor)}
			}
			return n, nil
		}
	}
	var none K
	return none, ErrFull
}

func (p *Pool[K]) freeLocked(n K, owner string) bool {
	h, ok := p.held[n]
	return !ok || h.owner == owner || (!h.until.IsZero() && !p.now().Before(h.until))
}

// Stored notes that owner's stored object has n, whoever else had it.
func (p *Pool[K]) Stored(n K, owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[n] = holder{owner: owner}
}

// Has tells whether owner has n.
func (p *Pool[K]) Has(n K, owner string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[n].owner == owner
}

// Release gives n back if owner has it.
func (p *Pool[K]) Release(n K, owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[n].owner == owner {
		delete(p.held, n)
	}
}

// Held counts numbers that are stored or pending.
func (p *Pool[K]) Held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held)
}
