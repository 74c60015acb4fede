// Package tally counts requests, how long they took and what they sent, under the names,
// types and labels that dashboards for Kubernetes know. Its labels are bounded by the
// kind table and the list of pages: paths and names never become labels. Counting is a
// look into a map and some atomic additions. Start reading at Tally.Of.
package tally

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"orch/api/histogram"
)

// Request is what is counted together. Group, Version and Resource are empty for what is
// no known resource; then Sub is the page's path, if it is a known one.
type Request struct {
	// Verb as upstream's metrics have it: GET, LIST, WATCH, POST, PUT, PATCH, APPLY, DELETE, CONNECT.
	Verb, DryRun, Group, Version, Resource, Sub string
	// Scope is resource, namespace, cluster or empty.
	Scope string
}

// Bounds of the histograms, upstream's.
var (
	durationBounds = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
	sliBounds      = durationBounds[2:]
	sizeBounds     = histogram.Exponential(1000, 10, 7)
	listBounds     = []float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300}
	eventBounds    = histogram.Exponential(1024, 2, 8)
	expiryBounds   = []float64{0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000, 31104000}
	authnBounds    = histogram.Exponential(0.001, 2, 15)
)

// Tally is made by New.
type Tally struct {
	series   sync.Map // Request -> *Series
	watches  sync.Map // Kind -> *Watched
	outdated sync.Map // Outdated -> true
	lists    sync.Map // Listing -> *histogram.Histogram

	// Handshakes that failed.
	Handshakes atomic.Uint64
	// Authentications by result: success, failure, error.
	authentications [3]atomic.Uint64
	authnTimes      [3]*histogram.Histogram
	users           sync.Map // compressed name -> *atomic.Uint64
	// Expiry of clients' certificates at the time of their requests.
	Expiry *histogram.Histogram
}

// New makes an empty Tally.
func New() *Tally {
	t := &Tally{Expiry: histogram.New(expiryBounds)}
	for i := range t.authnTimes {
		t.authnTimes[i] = histogram.New(authnBounds)
	}
	return t
}

// Series are the numbers of one Request.
type Series struct {
	codes      sync.Map // int -> *atomic.Uint64
	terminated sync.Map // int -> *atomic.Uint64
	aborted    atomic.Uint64
	// Lasting counts those that are open now, of requests that last.
	Lasting  atomic.Int64
	lasts    atomic.Bool
	duration *histogram.Histogram
	sli      *histogram.Histogram
	sizes    *histogram.Histogram // nil unless it reads
}

// Of gives the numbers of a Request.
func (t *Tally) Of(r Request) *Series {
	if v, ok := t.series.Load(r); ok {
		return v.(*Series)
	}
	s := &Series{duration: histogram.New(durationBounds), sli: histogram.New(sliBounds)}
	if r.Verb == "GET" || r.Verb == "LIST" {
		s.sizes = histogram.New(sizeBounds)
	}
	v, _ := t.series.LoadOrStore(r, s)
	return v.(*Series)
}

// Outcome is how a request ended.
type Outcome struct {
	Code int
	// Took is the whole time; Waited the part of it that the request was not to blame for.
	Took, Waited time.Duration
	Size         int64
	// Terminated requests were ended in self-defense, Aborted ones by their client.
	Terminated, Aborted bool
	// DryRun requests do not count for the service level.
	DryRun bool
}

// Done counts a request that has ended.
func (s *Series) Done(o Outcome) {
	add(&s.codes, o.Code)
	s.duration.Observe(o.Took.Seconds())
	if !o.DryRun {
		s.sli.Observe((o.Took - o.Waited).Seconds())
	}
	if s.sizes != nil {
		s.sizes.Observe(float64(o.Size))
	}
	if o.Terminated {
		add(&s.terminated, o.Code)
	}
	if o.Aborted {
		s.aborted.Add(1)
	}
}

// Begin counts a request that lasts until end is called.
func (s *Series) Begin() (end func()) {
	s.lasts.Store(true)
	s.Lasting.Add(1)
	return func() { s.Lasting.Add(-1) }
}

func add[K any](m *sync.Map, key K) {
	v, ok := m.Load(key)
	if !ok {
		v, _ = m.LoadOrStore(key, new(atomic.Uint64))
	}
	v.(*atomic.Uint64).Add(1)
}

// Kind names what watches see.
type Kind struct{ Group, Version, Resource string }

// Watched are the numbers of a kind's events, all watches together.
type Watched struct{ Sizes *histogram.Histogram }

// Events gives the numbers of a kind's events.
func (t *Tally) Events(k Kind) *Watched {
	if v, ok := t.watches.Load(k); ok {
		return v.(*Watched)
	}
	v, _ := t.watches.LoadOrStore(k, &Watched{Sizes: histogram.New(eventBounds)})
	return v.(*Watched)
}

// Listing is a kind and a scope whose content watches begin with.
type Listing struct {
	Kind
	Scope string
}

// Listed counts a watch that has sent its initial events.
func (t *Tally) Listed(l Listing, took time.Duration) {
	v, ok := t.lists.Load(l)
	if !ok {
		v, _ = t.lists.LoadOrStore(l, histogram.New(listBounds))
	}
	v.(*histogram.Histogram).Observe(took.Seconds())
}

// Outdated is an API that will be gone.
type Outdated struct{ Group, Version, Resource, Sub, Removed string }

// AskedFor notes that somebody uses an outdated API.
func (t *Tally) AskedFor(o Outdated) { t.outdated.Store(o, true) }

// Result of an authentication.
type Result int

const (
	Success Result = iota
	Failure
	Error
)

var resultNames = [...]string{"success", "failure", "error"}

// Authenticated counts one, of a user who is known if it succeeded.
func (t *Tally) Authenticated(r Result, user string, took time.Duration) {
	t.authentications[r].Add(1)
	t.authnTimes[r].Observe(took.Seconds())
	if r == Success {
		add(&t.users, compressed(user))
	}
}

// compressed names few users, as upstream does: names are not for labels.
func compressed(user string) string {
	switch user {
	case "admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default":
		return user
	}
	for _, c := range user {
		if c == '@' {
			return "email_id"
		}
	}
	return "other"
}

// sorted lists a map's content in an order that does not change.
func sorted[K comparable, V any](m *sync.Map) []struct {
	Key   K
	Value V
} {
	var out []struct {
		Key   K
		Value V
	}
	m.Range(func(k, v any) bool {
		out = append(out, struct {
			Key   K
			Value V
		}{k.(K), v.(V)})
		return true
	})
	slices.SortFunc(out, func(a, b struct {
		Key   K
		Value V
	}) int {
		return cmp.Compare(fmt.Sprint(a.Key), fmt.Sprint(b.Key))
	})
	return out
}
