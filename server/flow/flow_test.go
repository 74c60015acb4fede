package flow

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	flowcontrol "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"net/http/httptest"
)

// standard is a Control with the objects of every cluster.
func standard(seats int) *Control {
	c := New(Config{Seats: seats})
	levels, schemas := append(suggestedLevels(), mandatoryLevels()...), append(suggestedSchemas(), mandatorySchemas()...)
	for _, o := range levels {
		o.UID = types.UID("level-" + o.Name)
	}
	for _, o := range schemas {
		o.UID = types.UID("schema-" + o.Name)
	}
	c.digest(levels, schemas)
	return c
}

func TestClassify(t *testing.T) {
	c := standard(600)
	account := func(ns, name string) Request {
		return Request{User: "system:serviceaccount:" + ns + ":" + name, Groups: []string{groupServiceAccounts, groupAuthenticated}}
	}
	node := Request{User: "system:node:n1", Groups: []string{groupNodes, groupAuthenticated}}
	with := func(q Request, verb, group, resource, namespace string) Request {
		q.Verb, q.Group, q.Namespace = verb, group, namespace
		q.Resource, q.Subresource, _ = strings.Cut(resource, "/")
		return q
	}
	path := func(q Request, verb, path string) Request { q.Verb, q.Path = verb, path; return q }
	for _, x := range []struct {
		name string
		q    Request
		want string
	}{
		{"administrator", with(Request{User: "a", Groups: []string{"system:masters"}}, "list", "", "pods", ""), "exempt"},
		{"anonymous probe", path(Request{User: "system:anonymous", Groups: []string{groupUnauthenticated}}, "get", "/readyz"), "probes"},
		{"below a probe", path(Request{Groups: []string{groupUnauthenticated}}, "get", "/readyz/ping"), "probes"},
		{"not quite a probe", path(Request{Groups: []string{groupAuthenticated}}, "get", "/readyzz"), "global-default"},
		{"node lease", with(node, "update", "coordination.k8s.io", "leases", "kube-node-lease"), "system-node-high"},
		{"node status", with(node, "patch", "", "nodes/status", ""), "system-node-high"},
		{"node's pods", with(node, "list", "", "pods", ""), "system-nodes"},
		{"node, a page", path(node, "get", "/version"), "system-nodes"},
		{"leader election", with(account("kube-system", "x"), "update", "coordination.k8s.io", "leases", "kube-system"), "system-leader-election"},
		{"lease list", with(account("kube-system", "x"), "list", "coordination.k8s.io", "leases", "kube-system"), "kube-system-service-accounts"},
		{"controller manager", with(Request{User: controllerManager, Groups: []string{groupAuthenticated}}, "create", "", "pods", "x"), "kube-controller-manager"},
		{"scheduler", with(Request{User: scheduler, Groups: []string{groupAuthenticated}}, "create", "", "pods/binding", "x"), "kube-scheduler"},
		{"service account", with(account("default", "x"), "get", "", "pods", "default"), "service-accounts"},
		{"account of a namespace like kube-system", with(account("kube-system2", "x"), "get", "", "pods", "default"), "service-accounts"},
		{"user", with(Request{User: "u", Groups: []string{groupAuthenticated}}, "get", "", "pods", "default"), "global-default"},
		{"nobody known", with(Request{User: "u"}, "get", "", "pods", "default"), "catch-all"},
	} {
		if got := c.plan.Load().classify(&x.q); got.name != x.want {
			t.Errorf("%s: %s, want %s", x.name, got.name, x.want)
		}
	}
}

// The shares of upstream's objects come to upstream's seats.
func TestSeatsOfTheStandardLevels(t *testing.T) {
	c := standard(600)
	want := map[string]bounds{
		"exempt": {0, 0, 600}, "catch-all": {13, 13, 613}, "system": {74, 50, 674}, "node-high": {98, 73, 698}, "leader-election": {25, 25, 625},
		"workload-high": {98, 49, 698}, "workload-low": {245, 24, 845}, "global-default": {49, 24, 649},
	}
	for name, l := range c.plan.Load().levels {
		if l.bounds != want[name] {
			t.Errorf("%s: %+v, want %+v", name, l.bounds, want[name])
		}
	}
}

// enter is Enter with a ticket of its own.
func enter(ctx context.Context, c *Control, q *Request) (*Ticket, bool) {
	t := new(Ticket)
	return t, c.Enter(ctx, q, t)
}

func user(name string) *Request {
	return &Request{User: name, Groups: []string{groupAuthenticated}, Verb: "get", Resource: "pods", Namespace: "default"}
}

// One noisy user fills his level and its queues; node leases and controllers go on at once.
func TestNoisyUserStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := standard(60)
		ctx, stop := context.WithCancel(t.Context())
		var refusals atomic.Int32
		for range 2000 {
			go func() {
				for ctx.Err() == nil {
					ticket, ok := enter(ctx, c, user("noisy"))
					if !ok {
						refusals.Add(1)
						time.Sleep(time.Duration(ticket.RetryAfter) * time.Second)
						continue
					}
					time.Sleep(100 * time.Millisecond)
					ticket.Leave()
				}
			}()
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		node := &Request{User: "system:node:n1", Groups: []string{groupNodes, groupAuthenticated}, Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", Writes: true}
		controller := &Request{User: controllerManager, Groups: []string{groupAuthenticated}, Verb: "create", Resource: "pods", Namespace: "x", Writes: true}
		for _, q := range []*Request{node, controller} {
			for range 20 {
				began := time.Now()
				ticket, ok := enter(ctx, c, q)
				if !ok || time.Since(began) > 100*time.Millisecond {
					t.Errorf("%s waited %v, let in: %t", q.User, time.Since(began), ok)
					break
				}
				ticket.Leave()
			}
		}
		// Another user of the same level gets his turn among the noisy one's.
		began := time.Now()
		ticket, ok := enter(ctx, c, user("quiet"))
		if !ok || time.Since(began) > time.Second {
			t.Errorf("the quiet user waited %v, let in: %t", time.Since(began), ok)
		} else {
			ticket.Leave()
		}
		if refusals.Load() == 0 {
			t.Error("nobody was refused")
		}
		stop()
		synctest.Wait()
		time.Sleep(time.Hour) // borrowing comes to rest
		c.mu.Lock()
		if c.armed {
			t.Error("seats are still being moved an hour after")
		}
		c.mu.Unlock()
	})
}

// A level whose seats are taken borrows from those that do not need theirs, and gives
// back.
func TestBorrowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := standard(600)
		l := c.plan.Load().levels["global-default"]
		limit := func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.set.Limit() }
		calm := limit()
		ctx, stop := context.WithCancel(t.Context())
		for i := range 400 {
			go func() {
				for ctx.Err() == nil {
					if ticket, ok := enter(ctx, c, user(fmt.Sprint("u", i))); ok {
						time.Sleep(50 * time.Millisecond)
						ticket.Leave()
					} else {
						time.Sleep(time.Second)
					}
				}
			}()
		}
		time.Sleep(31 * time.Second)
		if n := limit(); n < 2*calm {
			t.Errorf("%d seats under load, %d before", n, calm)
		}
		stop()
		time.Sleep(2 * time.Hour)
		if n := limit(); math.Abs(float64(n-calm)) > float64(calm)/5 {
			t.Errorf("%d seats after, %d before", n, calm)
		}
	})
}

func TestWaitingEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Seats: 1})
		level := limited("one", 100, 0, queues(1, 1))
		s := flowSchema("one", "one", 1000, "", anything(everybody()))
		c.digest([]*flowcontrol.PriorityLevelConfiguration{level}, []*flowcontrol.FlowSchema{s})
		held, ok := enter(t.Context(), c, user("a"))
		if !ok {
			t.Fatal("the first was refused")
		}
		for _, x := range []struct{ deadline, want time.Duration }{{0, usualWait}, {40 * time.Second, 10 * time.Second}, {time.Hour, longestWait}} {
			ctx, cancel := t.Context(), func() {}
			if x.deadline > 0 {
				ctx, cancel = context.WithTimeout(ctx, x.deadline)
			}
			began := time.Now()
			ticket, ok := enter(ctx, c, user("b"))
			if ok || time.Since(began) != x.want || ticket.RetryAfter < 1 {
				t.Errorf("deadline %v: let in %t after %v, retry after %d", x.deadline, ok, time.Since(began), ticket.RetryAfter)
			}
			cancel()
		}
		gone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, ok := enter(gone, c, user("b")); ok {
			t.Error("let in a client that has gone")
		}
		go func() { time.Sleep(time.Second); held.Leave(); held.Leave() }()
		next, ok := enter(t.Context(), c, user("b"))
		if !ok || next.Waited != time.Second {
			t.Errorf("let in %t after %v", ok, next.Waited)
		}
		next.Leave()
	})
}

func TestListsAreWide(t *testing.T) {
	for _, x := range []struct {
		stored Stored
		limit  int64
		single bool
		most   int
		want   int
	}{
		{Stored{}, 0, false, 10, 1},
		{Stored{99, 99_999}, 0, false, 0, 1},
		{Stored{1000, 1_000_000}, 0, false, 0, 10},
		{Stored{1000, 1_000_000}, 100, false, 0, 1},
		{Stored{1000, 1_000_000_000}, 0, false, 0, 10},
		{Stored{1000, 1_000_000_000}, 0, false, 8, 8},
		{Stored{1000, 1_000_000_000}, 0, true, 0, 10},
	} {
		if got := listSeats(x.stored, x.limit, x.single, x.most); got != x.want {
			t.Errorf("%+v: %d", x, got)
		}
	}
	if n, d := writeSeats(9, 10); n != 0 || d != 0 {
		t.Errorf("nine watchers: %d for %v", n, d)
	}
	if n, d := writeSeats(1000, 10); n != 10 || d != 50*time.Millisecond {
		t.Errorf("a thousand watchers: %d for %v", n, d)
	}
}

func TestRetryAfterGrowsAndShrinks(t *testing.T) {
	var d drops
	last := 0
	for s := range int64(40) {
		for range 100 {
			last = d.dropped(1000 + s)
		}
	}
	if last != maxRetryAfter {
		t.Errorf("after 40 s of 100 refusals each: %d", last)
	}
	for s := int64(0); s < 4000; s += 100 {
		last = d.dropped(2000 + s)
	}
	if last != 1 {
		t.Errorf("after one each 100 s: %d", last)
	}
}

func TestUnwantedLevelDrainsFirst(t *testing.T) {
	c := New(Config{})
	level := limited("old", 10, 0, queues(4, 2))
	s := flowSchema("old", "old", 1000, byUser, anything(everybody()))
	c.digest([]*flowcontrol.PriorityLevelConfiguration{level}, []*flowcontrol.FlowSchema{s})
	ticket, _ := enter(t.Context(), c, user("a"))
	if ticket.schema.name != "old" {
		t.Fatalf("came under %s", ticket.schema.name)
	}
	c.digest(nil, []*flowcontrol.FlowSchema{s})
	if l := c.plan.Load().levels["old"]; l == nil || !l.unwanted.Load() {
		t.Error("the level went while a request was in it")
	}
	next, _ := enter(t.Context(), c, user("a"))
	if next.schema.name != "catch-all" {
		t.Errorf("a schema whose level goes took a request: %s", next.schema.name)
	}
	ticket.Leave()
	select {
	case <-c.poke:
	default:
		t.Error("nobody was told that the level is idle")
	}
	c.digest(nil, []*flowcontrol.FlowSchema{s})
	if c.plan.Load().levels["old"] != nil {
		t.Error("the idle level stays")
	}
}

func TestDumps(t *testing.T) {
	c := standard(600)
	q := user("alice")
	ticket, _ := enter(t.Context(), c, q)
	defer ticket.Leave()
	for page, want := range map[string]string{
		"dump_priority_levels":                  "global-default,",
		"dump_queues":                           "workload-low,",
		"dump_requests?includeRequestDetails=1": "alice,",
	} {
		name, _, _ := strings.Cut(page, "?")
		w := httptest.NewRecorder()
		c.DebugPages()[DumpPath+name].ServeHTTP(w, httptest.NewRequest("GET", DumpPath+page, nil))
		if !strings.HasPrefix(w.Body.String(), "PriorityLevelName,") || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %s", page, w.Body)
		}
	}
}

func BenchmarkEnter(b *testing.B) {
	c := standard(600)
	for name, q := range map[string]*Request{"user": user("u"), "administrator": {User: "a", Groups: []string{"system:masters"}, Verb: "get", Resource: "pods"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var t Ticket
				c.Enter(b.Context(), q, &t)
				t.Leave()
			}
		})
	}
}
