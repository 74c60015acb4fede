package job

import (
	"fmt"
	"slices"
	"testing"
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile/plantest"
)

type input struct {
	Now  metav1.Time
	Job  batch.Job
	Pods []core.Pod
	// Failures and Last are the record of earlier looks.
	Failures int32
	Last     metav1.Time
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) any {
		o := observed{job: &in.Job, record: record{in.Failures, in.Last.Time}, now: in.Now.Time}
		for i := range in.Pods {
			o.pods = append(o.pods, &in.Pods[i])
		}
		l := newLook(o)
		untrack := l.conclude(outcome{created: len(l.create), deleted: true})
		names := func(pods []*core.Pod) (out []string) {
			for _, p := range pods {
				out = append(out, p.Name)
			}
			return out
		}
		out := map[string]any{"status": l.status}
		for what, pods := range map[string][]*core.Pod{"remove": l.remove, "end": l.end, "untrack": untrack} {
			if len(pods) > 0 {
				out[what] = names(pods)
			}
		}
		var create, told []string
		for _, c := range l.create {
			create = append(create, fmt.Sprintf("index %d after %d failures and %d ignored", c.index, c.counted, c.ignored))
		}
		for _, e := range l.events {
			told = append(told, e.kind+" "+e.reason+": "+e.message)
		}
		if len(create) > 0 {
			out["create"] = create
		}
		if len(told) > 0 {
			out["events"] = told
		}
		if l.after > 0 {
			out["after"] = l.after.String()
		}
		if l.newRecord.failures > 0 {
			out["failures"] = l.newRecord.failures
		}
		return out
	})
}

func TestIndexes(t *testing.T) {
	for in, want := range map[string]string{"": "", "0": "0", "0,1": "0,1", "0,1,2": "0-2", "5,3-4,0": "0,3-5", "1-3,x,2-,7": "1-3,7", "8-20": "8,9", "12": ""} {
		if got := parseIndexes(in, 10).String(); got != want {
			t.Errorf("%q = %q, want %q", in, got, want)
		}
	}
	x := parseIndexes("1-3,5,8-9", 10)
	if x.total() != 6 || !x.has(2) || x.has(4) || !x.has(9) || x.has(0) {
		t.Errorf("%v", x)
	}
	if got := x.free(3, 10); !slices.Equal(got, []int{0, 4, 6}) {
		t.Errorf("free = %v", got)
	}
	if got := x.free(9, 10); !slices.Equal(got, []int{0, 4, 6, 7}) {
		t.Errorf("free = %v", got)
	}
	if n := x.common(parseIndexes("0-1,3-8", 10)); n != 4 {
		t.Errorf("common = %d", n)
	}
}

func TestSuccessPolicy(t *testing.T) {
	text := func(s string) *string { return &s }
	count := func(n int32) *int32 { return &n }
	for _, c := range []struct {
		rule batch.SuccessPolicyRule
		done string
		want bool
	}{
		{batch.SuccessPolicyRule{SucceededIndexes: text("0-2")}, "0,2", false},
		{batch.SuccessPolicyRule{SucceededIndexes: text("0-2")}, "0-3", true},
		{batch.SuccessPolicyRule{SucceededIndexes: text("0-2"), SucceededCount: count(1)}, "1", true},
		{batch.SuccessPolicyRule{SucceededIndexes: text("0-2"), SucceededCount: count(1)}, "4", false},
		{batch.SuccessPolicyRule{SucceededCount: count(2)}, "4", false},
		{batch.SuccessPolicyRule{SucceededCount: count(2)}, "4,7", true},
	} {
		message, ok := succeeds(&batch.SuccessPolicy{Rules: []batch.SuccessPolicyRule{c.rule}}, 10, parseIndexes(c.done, 10))
		if ok != c.want || (ok && message != "Matched rules at index 0") {
			t.Errorf("%+v of %s: %q, %v", c.rule, c.done, message, ok)
		}
	}
}

func TestWaitDoubles(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for n, want := range map[int32]time.Duration{0: 0, 1: 10, 2: 20, 3: 40, 7: 600, 100: 600} {
		if got := (record{n, now}).wait(now); got != want*time.Second {
			t.Errorf("after %d failures %v", n, got)
		}
	}
	if got := (record{1, now}).wait(now.Add(time.Minute)); got != 0 {
		t.Errorf("a minute later %v", got)
	}
}
