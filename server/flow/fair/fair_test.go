package fair

import (
	"container/heap"
	"fmt"
	"math"
	"testing"
	"time"
)

// world runs a Set in simulated time.
type world struct {
	t   *testing.T
	now time.Time
	set *Set
	due events
	// served is seat-seconds by flow.
	served map[string]float64
}

type event struct {
	at time.Time
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// job is one request of a client.
type job struct {
	flow  string
	takes time.Duration
	after func() // when it has run or was refused
	ok    bool
}

func newWorld(t *testing.T, cfg Config, limit int) *world {
	w := &world{t: t, now: time.Unix(1_700_000_000, 0), served: map[string]float64{}}
	w.set = New(w.now, cfg, limit, func(r *Request) { w.run(r) })
	return w
}

func (w *world) at(d time.Duration, do func()) { heap.Push(&w.due, event{w.now.Add(d), do}) }

func (w *world) until(end time.Duration) {
	stop := w.now.Add(end)
	for len(w.due) > 0 && !w.due[0].at.After(stop) {
		e := heap.Pop(&w.due).(event)
		w.now = e.at
		e.do()
	}
	w.now = stop
}

func (w *world) run(r *Request) {
	j := r.Note.(*job)
	j.ok = true
	w.at(j.takes, func() {
		w.served[j.flow] += j.takes.Seconds() * float64(r.Seats)
		if w.set.Finish(w.now, r) {
			w.at(r.Linger, func() { w.set.Vacate(w.now, r) })
		}
		if j.after != nil {
			j.after()
		}
	})
}

func hashOf(flow string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(flow) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func (w *world) arrive(r *Request) Decision {
	j := r.Note.(*job)
	d := w.set.Arrive(w.now, hashOf(j.flow), r)
	if d == Run && !j.ok {
		w.run(r)
	}
	return d
}

// client keeps so many requests going, each as wide and as long as said.
func (w *world) client(flow string, at, seats int, takes time.Duration) {
	var one func()
	one = func() {
		r := &Request{Seats: seats, Note: &job{flow: flow, takes: takes, after: one}}
		if d := w.arrive(r); d == QueueFull || d == NoSeats {
			w.at(10*time.Millisecond, one)
		}
	}
	for range at {
		one()
	}
}

var queued = Config{Queues: 64, HandSize: 6, QueueLength: 50}

// A client with 200 requests open gets no more than one with 20, once both want more
// than their half.
func TestNoisyClientGetsItsShareOnly(t *testing.T) {
	w := newWorld(t, queued, 10)
	w.client("noisy", 200, 1, 10*time.Millisecond)
	w.client("quiet", 20, 1, 10*time.Millisecond)
	w.until(20 * time.Second)
	// Shuffle sharding spreads a flow over up to 6 queues, as far as its requests wait.
	noisy, quiet := w.served["noisy"], w.served["quiet"]
	if total := noisy + quiet; math.Abs(total-200) > 2 {
		t.Errorf("served %.1f seat-seconds of 200", total)
	}
	if quiet < 80 {
		t.Errorf("quiet got %.1f of 200 seat-seconds, noisy %.1f", quiet, noisy)
	}
}

// Wide and slow requests are charged for what they take: counted by number, thin ones
// would get a twentieth.
func TestWideAndSlowRequestsPayMore(t *testing.T) {
	w := newWorld(t, queued, 20)
	w.client("wide", 60, 5, 20*time.Millisecond)
	w.client("thin", 60, 1, 5*time.Millisecond)
	w.until(20 * time.Second)
	if r := w.served["thin"] / w.served["wide"]; r < 0.5 || r > 2 {
		t.Errorf("thin/wide = %.2f: %v", r, w.served)
	}
}

// One that comes now and then is served before the backlog of a flood.
func TestOccasionalRequestPassesTheFlood(t *testing.T) {
	w := newWorld(t, queued, 10)
	w.client("flood", 290, 1, 10*time.Millisecond)
	var worst time.Duration
	for i := range 50 {
		w.at(time.Duration(i)*200*time.Millisecond, func() {
			r := &Request{Seats: 1, Note: &job{flow: "now-and-then", takes: time.Millisecond}}
			w.arrive(r)
			r.Note.(*job).after = func() { worst = max(worst, r.Started.Sub(r.Arrived)) }
		})
	}
	w.until(11 * time.Second)
	if w.served["now-and-then"] < 0.049 {
		t.Errorf("served %v", w.served)
	}
	if worst > 15*time.Millisecond { // a place becomes free every millisecond
		t.Errorf("waited %v behind the flood", worst)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, Config{}, 2)
	hold := func() *Request { return &Request{Seats: 1, Note: &job{takes: time.Hour}} }
	for i, want := range []Decision{Run, Run, NoSeats} {
		if got := w.arrive(hold()); got != want {
			t.Errorf("without queues, request %d: %d, want %d", i, got, want)
		}
	}
	w = newWorld(t, Config{Queues: 1, HandSize: 1, QueueLength: 2}, 1)
	for i, want := range []Decision{Run, Wait, Wait, QueueFull} {
		if got := w.arrive(hold()); got != want {
			t.Errorf("with a queue, request %d: %d, want %d", i, got, want)
		}
	}
	c := w.set.Counts()
	if c.Waiting != 2 || c.Executing != 1 || c.Rejected != 1 || c.SeatsWaiting != 2 {
		t.Errorf("%+v", c)
	}
	w = newWorld(t, Config{Exempt: true}, 0)
	for range 100 {
		if w.arrive(hold()) != Run {
			t.Fatal("exempt requests always run")
		}
	}
}

func TestCancelAndResize(t *testing.T) {
	w := newWorld(t, queued, 1)
	var all []*Request
	for i := range 10 {
		r := &Request{Seats: 1, Note: &job{flow: fmt.Sprint(i), takes: time.Second}}
		all = append(all, r)
		w.arrive(r)
	}
	if !w.set.Cancel(w.now, all[9]) || w.set.Cancel(w.now, all[9]) || w.set.Cancel(w.now, all[0]) {
		t.Error("only one that waits can be cancelled, once")
	}
	w.set.Configure(w.now, queued, 5)
	if c := w.set.Counts(); c.Executing != 5 || c.Waiting != 4 {
		t.Errorf("five seats: %+v", c)
	}
	w.set.Configure(w.now, Config{Queues: 4, HandSize: 2, QueueLength: 50}, 2)
	w.until(10 * time.Second)
	if c := w.set.Counts(); c.Executing+c.Waiting != 0 || c.Dispatched != 9 || !w.set.Idle() {
		t.Errorf("in the end: %+v", c)
	}
	if n := len(w.set.Queues()); n != 4 {
		t.Errorf("%d queues are left", n)
	}
	if w.set.active != 0 {
		t.Errorf("%d queues count as active", w.set.active)
	}
}

func TestLingeringSeats(t *testing.T) {
	w := newWorld(t, queued, 4)
	w.arrive(&Request{Seats: 1, FinalSeats: 4, Linger: time.Second, Note: &job{takes: time.Second}})
	second := &Request{Seats: 1, Note: &job{flow: "b", takes: time.Second}}
	if w.arrive(second) != Wait {
		t.Error("the widest stage counts from the start")
	}
	w.until(1500 * time.Millisecond)
	if second.Note.(*job).ok {
		t.Error("ran while the seats were kept")
	}
	w.until(time.Second)
	if !second.Note.(*job).ok {
		t.Error("did not run after")
	}
}

// One wider than the level runs alone.
func TestWiderThanTheLevel(t *testing.T) {
	w := newWorld(t, queued, 2)
	w.client("thin", 4, 1, 10*time.Millisecond)
	r := &Request{Seats: 10, Note: &job{flow: "wide", takes: 10 * time.Millisecond}}
	w.arrive(r)
	w.until(time.Second)
	if !r.Note.(*job).ok {
		t.Error("never ran")
	}
}

func TestDealIsDistinctAndEven(t *testing.T) {
	var cards [maxHand]int
	seen := make([]int, 64)
	for i := range 20_000 {
		hand := deal(hashOf(fmt.Sprint("flow-", i))>>3, 64, 6, &cards)
		got := map[int]bool{}
		for _, c := range hand {
			if c < 0 || c >= 64 || got[c] {
				t.Fatalf("hand %v", hand)
			}
			got[c] = true
			seen[c]++
		}
	}
	for c, n := range seen { // 1,875 each on average
		if n < 1500 || n > 2250 {
			t.Errorf("card %d was dealt %d times", c, n)
		}
	}
}

func TestDivide(t *testing.T) {
	for _, c := range []struct {
		name   string
		total  float64
		shares []Share
		want   []float64
	}{
		{"by target", 30, []Share{{0, 100, 10}, {0, 100, 20}}, []float64{10, 20}},
		{"one hits its upper bound", 30, []Share{{0, 5, 10}, {0, 100, 20}}, []float64{5, 25}},
		{"one is kept up by its lower bound", 30, []Share{{15, 100, 15}, {0, 100, 135}}, []float64{15, 15}},
		{"nobody wants anything", 30, []Share{{10, 100, 0}, {5, 100, 0}}, []float64{15, 15}},
		{"less than the lower bounds", 3, []Share{{2, 9, 2}, {2, 9, 2}}, []float64{2, 2}},
	} {
		got, _ := Divide(c.total, c.shares)
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 0.01 {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
				break
			}
		}
	}
}

func TestDemandPeriods(t *testing.T) {
	now := time.Unix(0, 0)
	var d Demand
	d.begin(now)
	d.set(now, 10)
	d.set(now.Add(time.Second), 20)
	p := d.reset(now.Add(2 * time.Second))
	if p.Average != 15 || p.Deviation != 5 || p.High != 20 || p.Length != 2*time.Second {
		t.Errorf("%+v", p)
	}
	if p := d.reset(now.Add(3 * time.Second)); p.Average != 20 || p.Deviation != 0 || p.High != 20 {
		t.Errorf("the next: %+v", p)
	}
}

func BenchmarkUncontended(b *testing.B) {
	now := time.Unix(0, 0)
	s := New(now, Config{Queues: 128, HandSize: 6, QueueLength: 50}, 100, func(*Request) {})
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Microsecond)
		r := &Request{Seats: 1}
		s.Arrive(now, 0x1234567812345678, r)
		s.Finish(now.Add(5*time.Microsecond), r)
	}
}
