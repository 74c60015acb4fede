package cronjob

import (
	"testing"
	"time"

	batch "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile/plantest"
)

type input struct {
	Now  metav1.Time
	Cron batch.CronJob
	Jobs []batch.Job
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) any {
		var jobs []*batch.Job
		for i := range in.Jobs {
			jobs = append(jobs, &in.Jobs[i])
		}
		p := makePlan(&in.Cron, jobs, in.Now.Time)
		names := func(jobs []*batch.Job) (out []string) {
			for _, j := range jobs {
				out = append(out, j.Name)
			}
			return out
		}
		var told []string
		for _, e := range p.events {
			told = append(told, e.kind+" "+e.reason+": "+e.message)
		}
		out := map[string]any{"remove": names(p.remove), "replace": names(p.replace), "status": p.status, "events": told, "after": p.after.String()}
		if p.create != nil {
			out["create"] = p.create
		}
		return out
	})
}

func TestSchedules(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	cases := []struct {
		name, schedule, zone, created, now string
		last                               string // empty: nothing is due
		count                              int64
		fails                              bool
	}{
		{"not yet", "0 * * * *", "", "2026-01-02T03:04:05Z", "2026-01-02T03:59:59Z", "", 0, false},
		{"one", "0 * * * *", "", "2026-01-02T03:04:05Z", "2026-01-02T04:00:00Z", "2026-01-02T04:00:00Z", 0, false},
		{"several", "0 * * * *", "", "2026-01-02T03:04:05Z", "2026-01-02T07:30:00Z", "2026-01-02T07:00:00Z", 4, false},
		{"irregular", "30 6-16/4 * * 1-5", "", "2026-01-02T03:04:05Z", "2026-01-06T08:00:00Z", "2026-01-06T06:30:00Z", 25, false},
		{"in a zone", "0 9 * * *", "America/New_York", "2026-01-02T03:04:05Z", "2026-01-02T14:00:30Z", "2026-01-02T14:00:00Z", 0, false},
		{"every", "@every 5m", "", "2026-01-02T03:00:00Z", "2026-01-02T03:12:00Z", "2026-01-02T03:10:00Z", 2, false},
		{"never", "59 23 31 2 *", "", "2026-01-02T03:04:05Z", "2026-02-02T03:04:05Z", "", 0, true},
	}
	for _, c := range cases {
		cj := &batch.CronJob{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(at(c.created))}, Spec: batch.CronJobSpec{Schedule: c.schedule}}
		if c.zone != "" {
			cj.Spec.TimeZone = &c.zone
		}
		s, err := parse(cj)
		if err != nil {
			t.Fatal(err)
		}
		m, err := due(cj, s, at(c.now), true)
		got := ""
		if !m.last.IsZero() {
			got = m.last.UTC().Format(time.RFC3339)
		}
		if got != c.last || m.count != c.count || (err != nil) != c.fails {
			t.Errorf("%s: %s, %d missed, %v; want %s, %d", c.name, got, m.count, err, c.last, c.count)
		}
	}
	if _, err := parse(&batch.CronJob{Spec: batch.CronJobSpec{Schedule: "TZ=0"}}); err == nil {
		t.Error("a schedule on which the parser panics is taken")
	}
}
