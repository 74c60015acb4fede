// Package tally counts requests and how long they took, in the names that
// dashboards for Kubernetes know. Its labels are bounded by the kind table: paths
// and names never become labels. Start reading at Tally.Add.
package tally

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Request is what is counted together. Group and Resource are empty for what is no
// known resource.
type Request struct {
	Verb, Group, Version, Resource, Sub string
	Code                                int
}

// buckets are the upper ends of the histogram's durations.
var buckets = [...]time.Duration{5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second}

// counter of one Request; the last bucket holds what took longer than all.
type counter struct {
	count   atomic.Int64
	nanos   atomic.Int64
	buckets [len(buckets) + 1]atomic.Int64
}

// Tally is ready as its zero value.
type Tally struct {
	counters sync.Map // Request -> *counter
	// Lasting counts the watches, execs and the like that are open now.
	Lasting atomic.Int64
}

// Add counts one request. Lasting requests are counted with a duration of 0.
func (t *Tally) Add(r Request, took time.Duration) {
	v, ok := t.counters.Load(r)
	if !ok {
		v, _ = t.counters.LoadOrStore(r, new(counter))
	}
	c := v.(*counter)
	c.count.Add(1)
	c.nanos.Add(int64(took))
	i, _ := slices.BinarySearch(buckets[:], took)
	c.buckets[i].Add(1)
}

// WriteTo writes everything in Prometheus' text form.
func (t *Tally) WriteTo(w io.Writer) (int64, error) {
	type line struct {
		Request
		*counter
	}
	var lines []line
	t.counters.Range(func(k, v any) bool {
		lines = append(lines, line{k.(Request), v.(*counter)})
		return true
	})
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(fmt.Sprint(a.Request), fmt.Sprint(b.Request)) })
	var b []byte
	b = fmt.Append(b, "# HELP apiserver_longrunning_requests Watches, execs and the like that are open.\n# TYPE apiserver_longrunning_requests gauge\n")
	b = fmt.Appendf(b, "apiserver_longrunning_requests %d\n", t.Lasting.Load())
	b = fmt.Append(b, "# HELP apiserver_request_total Requests answered.\n# TYPE apiserver_request_total counter\n")
	for _, l := range lines {
		b = fmt.Appendf(b, "apiserver_request_total{%s,code=\"%d\"} %d\n", labels(l.Request), l.Code, l.count.Load())
	}
	b = fmt.Append(b, "# HELP apiserver_request_duration_seconds How long requests took that do not last.\n# TYPE apiserver_request_duration_seconds histogram\n")
	for _, l := range lines {
		labels, sum := fmt.Sprintf("%s,code=\"%d\"", labels(l.Request), l.Code), int64(0)
		for i, end := range buckets {
			sum += l.buckets[i].Load()
			b = fmt.Appendf(b, "apiserver_request_duration_seconds_bucket{%s,le=\"%g\"} %d\n", labels, end.Seconds(), sum)
		}
		sum += l.buckets[len(buckets)].Load()
		b = fmt.Appendf(b, "apiserver_request_duration_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, sum)
		b = fmt.Appendf(b, "apiserver_request_duration_seconds_sum{%s} %g\n", labels, time.Duration(l.nanos.Load()).Seconds())
		b = fmt.Appendf(b, "apiserver_request_duration_seconds_count{%s} %d\n", labels, sum)
	}
	n, err := w.Write(b)
	return int64(n), err
}

func labels(r Request) string {
	return fmt.Sprintf("verb=%q,group=%q,version=%q,resource=%q,subresource=%q", r.Verb, r.Group, r.Version, r.Resource, r.Sub)
}
