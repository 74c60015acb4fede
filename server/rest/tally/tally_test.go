package tally

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// text is the page that Prometheus would see.
func text(t *testing.T, c *Tally) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c.Collector())
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range all {
		if _, err := expfmt.MetricFamilyToText(&b, m); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestCounts(t *testing.T) {
	c := New()
	get := c.Of(Request{Verb: "GET", Version: "v1", Resource: "pods", Scope: "resource"})
	get.Done(Outcome{Code: 200, Took: time.Millisecond, Size: 500})
	get.Done(Outcome{Code: 404, Took: 50 * time.Millisecond, Size: 5000})
	get.Done(Outcome{Code: 504, Took: time.Hour, Waited: time.Hour, Terminated: true, Aborted: true})
	end := c.Of(Request{Verb: "WATCH", Version: "v1", Resource: "pods", Scope: "cluster"}).Begin()
	c.Events(Kind{"", "v1", "pods"}).Sizes.Observe(2000)
	c.Listed(Listing{Kind{"", "v1", "pods"}, "namespace"}, time.Second)
	c.AskedFor(Outdated{"", "v1", "endpoints", "", "1.40"})
	c.Authenticated(Success, "a@b", time.Millisecond)
	c.Authenticated(Failure, "", time.Millisecond)
	c.Expiry.Observe(100)
	const of = `component="apiserver",group="",resource="pods",scope="resource",subresource="",verb="GET",version="v1"`
	page := text(t, c)
	for _, want := range []string{
		`apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="resource",subresource="",verb="GET",version="v1"} 1`,
		`apiserver_request_terminations_total{code="504",` + of + `} 1`,
		`apiserver_request_sli_duration_seconds_bucket{` + of + `,le="0.05"} 3`,
		`apiserver_request_sli_duration_seconds_count{` + of + `} 3`,
		`apiserver_response_sizes_bucket{` + of + `,le="1000"} 2`,
		`apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 1`,
		`apiserver_watch_events_total{group="",resource="pods",version="v1"} 1`,
		`apiserver_watch_list_duration_seconds_bucket{group="",resource="pods",scope="namespace",version="v1",le="1"} 1`,
		`apiserver_requested_deprecated_apis{group="",removed_release="1.40",resource="endpoints",subresource="",version="v1"} 1`,
		`authentication_attempts{result="failure"} 1`,
		`authenticated_user_requests{username="email_id"} 1`,
		`apiserver_client_certificate_expiration_seconds_bucket{le="1800"} 1`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
	end()
	if page := text(t, c); !strings.Contains(page, `verb="WATCH",version="v1"} 0`) {
		t.Errorf("the watch still counts: %s", page)
	}
}
