package events

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

// server keeps the events it is sent.
type server struct {
	client.Transport
	mu      sync.Mutex
	created []*core.Event
	patched []string
	gone    bool // patches find nothing
	down    int  // so many calls fail
}

func (s *server) Create(_ context.Context, _ client.Target, o runtime.Object, _ metav1.CreateOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down > 0 {
		s.down--
		return nil, fmt.Errorf("connection refused")
	}
	s.created = append(s.created, o.(*core.Event))
	return o, nil
}

func (s *server) Patch(_ context.Context, t client.Target, _ types.PatchType, p []byte, _ metav1.PatchOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, apierrors.NewNotFound(api.Events.GroupResource(), t.Name)
	}
	s.patched = append(s.patched, t.Name+" "+string(p))
	return &core.Event{}, nil
}

func run(t *testing.T, s *server, act func(r *Recorder)) {
	runAs(t, Config{Client: s, Component: "deployment-controller"}, act)
}

func runAs(t *testing.T, c Config, act func(r *Recorder)) {
	synctest.Test(t, func(t *testing.T) {
		r, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		act(r)
		time.Sleep(time.Minute)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func pod() *core.Pod {
	return &core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u", ResourceVersion: "7"}}
}

func TestEventIsStored(t *testing.T) {
	s := &server{}
	run(t, s, func(r *Recorder) { r.As("other").Event(pod(), core.EventTypeNormal, "Created", "made %d", 3) })
	if len(s.created) != 1 {
		t.Fatalf("created = %d, want 1", len(s.created))
	}
	e := s.created[0]
	if e.Namespace != "ns" || !strings.HasPrefix(e.Name, "web.") || e.Message != "made 3" || e.Count != 1 || e.Source.Component != "other" {
		t.Errorf("event = %+v", e)
	}
	if io := e.InvolvedObject; io.Kind != "Pod" || io.APIVersion != "v1" || io.UID != "u" {
		t.Errorf("involved object = %+v", io)
	}
}

func TestRepeatsAreCounted(t *testing.T) {
	s := &server{}
	run(t, s, func(r *Recorder) {
		for range 3 {
			r.Event(pod(), core.EventTypeNormal, "Created", "made")
		}
	})
	if len(s.created) != 1 || len(s.patched) != 2 || !strings.Contains(s.patched[1], `"count":3`) {
		t.Errorf("created %d, patched %v; want 1 created and its count raised to 3", len(s.created), s.patched)
	}
}

// TestSchedulersEventsAreSeries: with a last timestamp "Scheduled" was shown behind
// "Pulled" by kubectl describe, which sorts by it and by nothing finer than a second.
func TestSchedulersEventsAreSeries(t *testing.T) {
	s := &server{}
	runAs(t, Config{Client: s, Component: "default-scheduler", Series: true}, func(r *Recorder) {
		for range 2 {
			r.Event(pod(), core.EventTypeNormal, "Scheduled", "Successfully assigned")
		}
	})
	if len(s.created) != 1 || len(s.patched) != 1 {
		t.Fatalf("created %d, patched %d", len(s.created), len(s.patched))
	}
	e := s.created[0]
	if e.EventTime.IsZero() || !e.LastTimestamp.IsZero() || !e.FirstTimestamp.IsZero() || e.Count != 0 || e.Series != nil || e.Source.Component != "" ||
		e.Action != "Binding" || e.ReportingController != "default-scheduler" || e.ReportingInstance != "default-scheduler" {
		t.Errorf("event = %+v", e)
	}
	if !strings.Contains(s.patched[0], `"series":{"count":2,"lastObservedTime":"`) || strings.Contains(s.patched[0], "lastTimestamp") {
		t.Errorf("repeat = %s", s.patched[0])
	}
}

// TestSeriesIsWrittenSeldom: a pod that cannot be scheduled was written at each attempt.
func TestSeriesIsWrittenSeldom(t *testing.T) {
	s := &server{}
	count := func(writes int, last string) {
		t.Helper()
		if len(s.created) != 1 || len(s.patched) != writes || !strings.Contains(s.patched[writes-1], last) {
			t.Errorf("created %d, patched %v, want %d patches, the last with %s", len(s.created), s.patched, writes, last)
		}
	}
	runAs(t, Config{Client: s, Component: "default-scheduler", Series: true}, func(r *Recorder) {
		again := func(times int) {
			for range times {
				r.Event(pod(), core.EventTypeWarning, "FailedScheduling", "no room")
				time.Sleep(5 * time.Minute)
			}
			synctest.Wait()
		}
		again(6)
		count(1, `"count":2`)
		again(2) // half an hour after the second
		count(2, `"count":8`)
		again(2)
		time.Sleep(2 * time.Minute) // quiet for more than six
		synctest.Wait()
		count(3, `"count":10`)
		again(1)
	})
	count(4, `"count":11`)
}

func TestExpiredEventIsMadeAnew(t *testing.T) {
	s := &server{gone: true}
	run(t, s, func(r *Recorder) {
		for range 2 {
			r.Event(pod(), core.EventTypeNormal, "Created", "made")
			time.Sleep(time.Second)
		}
	})
	if len(s.created) != 2 || s.created[1].Count != 2 {
		t.Errorf("created = %v", s.created)
	}
}

func TestFloodIsCutOffAndSimilarOnesCombined(t *testing.T) {
	s := &server{}
	run(t, s, func(r *Recorder) {
		for i := range 100 {
			r.Event(pod(), core.EventTypeWarning, "Failed", "try %d", i)
		}
	})
	total := len(s.created) + len(s.patched)
	if total != floodBurst {
		t.Errorf("writes = %d, want %d", total, floodBurst)
	}
	if len(s.created) != similarLimit || !strings.HasPrefix(s.created[similarLimit-1].Message, combinedPrefix) {
		t.Errorf("created = %d, want %d with the last one combined", len(s.created), similarLimit)
	}
}

func TestLostConnectionIsRetried(t *testing.T) {
	s := &server{down: 2}
	run(t, s, func(r *Recorder) { r.Event(pod(), core.EventTypeNormal, "Created", "made") })
	if len(s.created) != 1 {
		t.Errorf("created = %d, want 1", len(s.created))
	}
}

func TestCallerNeverBlocks(t *testing.T) {
	r, err := New(Config{Client: &server{}, Component: "c"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range queueLimit + 10 { // nobody runs the recorder
		r.Event(pod(), core.EventTypeNormal, "Created", "made %d", i)
	}
	var none *Recorder
	none.Event(pod(), core.EventTypeNormal, "Created", "made")
}
