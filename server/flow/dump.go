package flow

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	metav1schema "k8s.io/apimachinery/pkg/runtime/schema"

	"orch/server/flow/fair"
)

// DumpPath is where the three pages of DebugPages lie.
const DumpPath = "/debug/api_priority_and_fairness/"

// DebugPages show levels, queues and requests as they are now, as upstream's do.
func (c *Control) DebugPages() map[string]http.Handler {
	page := func(dump func(io.Writer, *http.Request)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			t := tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)
			dump(t, r)
			_ = t.Flush() // the reader is gone if this fails
		})
	}
	return map[string]http.Handler{
		DumpPath + "dump_priority_levels": page(c.dumpLevels),
		DumpPath + "dump_queues":          page(c.dumpQueues),
		DumpPath + "dump_requests":        page(c.dumpRequests),
	}
}

func row(w io.Writer, columns ...string) { fmt.Fprintln(w, strings.Join(columns, ",\t")) }

// eachLevel calls do for every level, by name, with its lock held.
func (c *Control) eachLevel(do func(*level)) {
	p := c.plan.Load()
	for _, name := range slices.Sorted(maps.Keys(p.levels)) {
		l := p.levels[name]
		l.mu.Lock()
		do(l)
		l.mu.Unlock()
	}
}

func (c *Control) dumpLevels(w io.Writer, _ *http.Request) {
	row(w, "PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
		"DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests")
	c.eachLevel(func(l *level) {
		active := 0
		for _, q := range l.set.Queues() {
			if q.Waiting > 0 {
				active++
			}
		}
		n := l.set.Counts()
		row(w, l.name, strconv.Itoa(active), strconv.FormatBool(l.set.Idle()), strconv.FormatBool(l.unwanted.Load()), strconv.Itoa(n.Waiting),
			strconv.Itoa(n.Executing), strconv.Itoa(n.Dispatched), strconv.Itoa(n.Rejected), "0", strconv.Itoa(n.TimedOut))
	})
}

func (c *Control) dumpQueues(w io.Writer, _ *http.Request) {
	row(w, "PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR", "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum")
	c.eachLevel(func(l *level) {
		for i, q := range l.set.Queues() {
			row(w, l.name, strconv.Itoa(i), strconv.Itoa(q.Waiting), strconv.Itoa(q.Executing), strconv.Itoa(q.SeatsInUse),
				fmt.Sprintf("%.8fss", q.NextDispatchR), strconv.Itoa(q.InitialSeats), strconv.Itoa(q.SeatsWaiting), fmt.Sprintf("%.8fss", q.Work))
		}
	})
}

func (c *Control) dumpRequests(w io.Writer, r *http.Request) {
	details := r.URL.Query().Get("includeRequestDetails") != ""
	head := []string{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime", "InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"}
	if details {
		head = append(head, "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
	}
	row(w, head...)
	c.eachLevel(func(l *level) {
		l.set.Requests(func(queue, place int, r *fair.Request) {
			t := r.Note.(*Ticket)
			q := &t.asked
			line := []string{l.name, t.schema.name, strconv.Itoa(queue), strconv.Itoa(place), t.schema.distinguish(q), stamp(r.Arrived),
				strconv.Itoa(r.Seats), strconv.Itoa(r.FinalSeats), r.Linger.String(), stamp(r.Started)}
			if details {
				line = append(line, q.User, q.Verb, q.Path, q.Namespace, q.Name, metav1schema.GroupVersion{Group: q.Group, Version: q.Version}.String(), q.Resource, q.Subresource)
			}
			row(w, line...)
		})
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
