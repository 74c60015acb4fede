package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/api/client"
	"orch/api/histogram"
)

const (
	backoffFirst = 5 * time.Millisecond
	backoffMost  = time.Minute
	// drainTime is how long a Do that is under way at shutdown may go on before
	// its context ends.
	drainTime = 2 * time.Second
	// holdTime bounds the wait for the cache to show a key's own writes. It only
	// ends when a cache is cut off, or was scoped so that it never sees the write.
	holdTime = 10 * time.Second
)

// Loop runs some controllers.
type Loop struct {
	client *client.Client
	parts  []*part
}

// New checks the specs. The client needs a cache that holds the watched kinds.
func New(c *client.Client, specs ...Spec) (*Loop, error) {
	if c == nil || c.Cache == nil {
		return nil, errors.New("making a reconcile loop: client without a cache")
	}
	l := &Loop{client: c}
	names := map[string]bool{}
	for _, s := range specs {
		if s.Name == "" || s.Do == nil || (len(s.Watches) == 0 && s.Source == nil) || names[s.Name] {
			return nil, fmt.Errorf("making a reconcile loop: controller %q lacks its own name, a watch or Do", s.Name)
		}
		names[s.Name] = true
		p := &part{Spec: s, client: c, queue: newQueue(), failures: map[Key]int{}, metrics: Metrics{Name: s.Name, Worked: histogram.New(queueBounds)}, watched: map[*api.Facts]bool{}}
		for _, w := range s.Watches {
			p.watched[w.Kind] = true
		}
		l.parts = append(l.parts, p)
	}
	return l, nil
}

// Run is New and Loop.Run in one.
func Run(ctx context.Context, c *client.Client, specs ...Spec) error {
	l, err := New(c, specs...)
	if err != nil {
		return err
	}
	return l.Run(ctx)
}

// Run works until ctx ends, lets what is under way finish, and returns nil; or
// returns why a watch could not be set up.
func (l *Loop) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make(chan error, len(l.parts))
	var wg sync.WaitGroup
	for _, p := range l.parts {
		wg.Go(func() {
			if err := p.run(ctx); err != nil && ctx.Err() == nil {
				errs <- fmt.Errorf("running controller %s: %w", p.Name, err)
				stop()
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// Metrics returns the numbers of every controller, in the order of the specs.
func (l *Loop) Metrics() []Metrics {
	out := make([]Metrics, len(l.parts))
	for i, p := range l.parts {
		out[i] = p.snapshot()
	}
	return out
}

// part is one controller at work. Lock order: queue.mu and mu are never held together.
type part struct {
	Spec
	client  *client.Client
	queue   *queue
	watched map[*api.Facts]bool

	mu       sync.Mutex
	metrics  Metrics
	failures map[Key]int // in a row; absent: none
}

func (p *part) run(ctx context.Context) error {
	defer p.queue.close()
	for _, w := range p.Watches {
		err := p.client.Subscribe(ctx, w.Kind, func(c client.Change) {
			if c.Old != nil || c.New != nil {
				p.queue.add(w.Keys(c)...)
			}
		})
		if err != nil {
			return fmt.Errorf("watching %s: %w", w.Kind.Plural, err)
		}
	}
	ctx, stop := context.WithCancel(ctx) // ends the workers if the source fails
	defer stop()
	var workers, held sync.WaitGroup
	var failed error
	if p.Source != nil {
		workers.Go(func() {
			if err := p.Source(ctx, p.queue.add); err != nil && ctx.Err() == nil {
				failed = fmt.Errorf("running source: %w", err)
				stop()
			}
		})
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	unhook := context.AfterFunc(ctx, func() {
		p.queue.close()
		drain := time.AfterFunc(drainTime, cancel)
		context.AfterFunc(work, func() { drain.Stop() })
	})
	defer unhook()
	for range max(p.Workers, 1) {
		workers.Go(func() {
			for {
				key, ok := p.queue.take()
				if !ok {
					return
				}
				p.step(ctx, work, key, &held)
			}
		})
	}
	workers.Wait()
	held.Wait()
	return failed
}

// step runs Do once and gives the key back, after the cache has seen what Do
// wrote. The wait takes no worker: a slow cache holds its own key only.
func (p *part) step(ctx, work context.Context, key Key, held *sync.WaitGroup) {
	doCtx, writes := client.WithWrites(work)
	start := time.Now()
	result, err := p.do(doCtx, key)
	after := p.settle(ctx, key, result, err, time.Since(start))
	behind := p.behind(writes)
	if behind == nil || ctx.Err() != nil {
		p.queue.finish(key, after)
		return
	}
	held.Go(func() {
		p.catchUp(ctx, behind)
		p.queue.finish(key, after)
	})
}

// do calls Do and makes an error of a panic.
func (p *part) do(ctx context.Context, key Key) (r Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			p.mu.Lock()
			p.metrics.Panics++
			p.mu.Unlock()
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return p.Do(ctx, key)
}

// settle is the policy of the loop: it counts and logs how a run ended and says
// when the key is looked at again (0: when something changes).
func (p *part) settle(ctx context.Context, key Key, r Result, err error, took time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.metrics.Runs++
	p.metrics.Busy += took
	p.metrics.Worked.Observe(took.Seconds())
	if err == nil {
		delete(p.failures, key)
		return r.After
	}
	if ctx.Err() != nil {
		return 0 // cut off by the shutdown
	}
	p.metrics.Failed++
	log := slog.With("controller", p.Name, "key", key.String(), "error", err)
	switch {
	case isTerminal(err):
		delete(p.failures, key)
		log.Warn("reconcile failed for good")
		return 0
	case apierrors.IsConflict(err):
		p.metrics.Conflicts++ // somebody else wrote first: ordinary, and the retry sees it
		p.failures[key]++
		log.Debug("reconcile lost a race")
	default:
		p.failures[key]++
		log.Warn("reconcile failed", "attempt", p.failures[key])
	}
	p.metrics.Retried++
	return backoff(p.failures[key])
}

// backoff is the delay after so many failures in a row: doubled each time, with
// up to half of it taken off at random so that keys do not march in step.
func backoff(failures int) time.Duration {
	d := backoffMost
	if shift := failures - 1; shift < 14 {
		d = min(backoffFirst<<shift, backoffMost)
	}
	return d - rand.N(d/2)
}

// behind lists the written revisions that the caches have not reached; nil if none.
func (p *part) behind(w *client.Writes) map[*api.Facts]int64 {
	newest := w.Newest()
	for f, rev := range newest {
		if !p.watched[f] || p.client.Revision(f) >= rev {
			delete(newest, f)
		}
	}
	if len(newest) == 0 {
		return nil
	}
	return newest
}

func (p *part) catchUp(ctx context.Context, behind map[*api.Facts]int64) {
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	for f, rev := range behind {
		if err := p.client.WaitRevision(ctx, f, rev); err != nil {
			return // shut down, or cut off: going on with an old cache is safe, only wasteful
		}
	}
}

func (p *part) snapshot() Metrics {
	p.mu.Lock()
	m := p.metrics
	p.mu.Unlock()
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	m.Added, m.Waited = p.queue.added, p.queue.waited
	for _, r := range p.queue.running {
		since := time.Since(r.since)
		m.Unfinished += since
		m.Longest = max(m.Longest, since)
	}
	m.Ready, m.Running, m.Later = len(p.queue.ready), len(p.queue.running), len(p.queue.later.heap)
	return m
}
