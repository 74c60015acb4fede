// Package audit writes who asked what of the API, and what came of it: audit.k8s.io/v1
// events by upstream's policy, to a file and to a webhook. It owns the policy's meaning,
// the record of a request, and the sinks with their bounds. It refuses to know how
// requests are served: server/rest tells it where a request stands, and whoever has
// something to note annotates the record in the request's context.
//
// Without a policy there is no Auditor, and nothing here runs. Start reading at Auditor,
// then record.go, policy.go; sinks are file.go, webhook.go and batch.go.
package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"orch/api/calls"
	"orch/server/registry"
)

// Auditor is safe for many goroutines. Make it with New; nil audits nothing.
type Auditor struct {
	policy *auditv1.Policy
	sinks  []sink
	log    *slog.Logger
	now    func() time.Time

	events, rejected atomic.Int64
	perLevel         [4]atomic.Int64
}

// sink takes events; false means that the event is lost and the request must not go on.
type sink interface {
	take(*auditv1.Event) bool
	run(context.Context) error
	name() string
	lost() int64
}

// New is nil without a policy or without a sink. counted counts what is sent to a webhook;
// nil for nobody.
func New(cfg Config, counted *calls.Calls, log *slog.Logger) (*Auditor, error) {
	if err := cfg.validate(); err != nil || cfg.PolicyFile == "" {
		return nil, err
	}
	policy, err := LoadPolicy(cfg.PolicyFile)
	if err != nil {
		return nil, err
	}
	if cfg.Log.Path == "" && cfg.Webhook.ConfigFile == "" {
		log.Warn("there is an audit policy, but nothing is recorded: give --audit-log-path or --audit-webhook-config-file")
		return nil, nil
	}
	a := &Auditor{policy: policy, log: log, now: time.Now}
	if cfg.Log.Path != "" {
		s, err := newFileSink(cfg.Log, log)
		if err != nil {
			return nil, err
		}
		a.sinks = append(a.sinks, s)
	}
	if cfg.Webhook.ConfigFile != "" {
		s, err := newWebhookSink(cfg.Webhook, counted, log)
		if err != nil {
			return nil, err
		}
		a.sinks = append(a.sinks, s)
	}
	return a, nil
}

// Run drives the sinks until ctx ends, then lets them write what they hold.
func (a *Auditor) Run(ctx context.Context) error {
	ends := make(chan error, len(a.sinks))
	for _, s := range a.sinks {
		go func() { ends <- s.run(ctx) }()
	}
	var first error
	for range a.sinks {
		if err := <-ends; err != nil && first == nil {
			first = err
		}
	}
	if len(a.sinks) == 0 {
		<-ctx.Done()
	}
	return first
}

func (a *Auditor) write(ev *auditv1.Event) bool {
	a.events.Add(1)
	ok := true
	for _, s := range a.sinks {
		ok = s.take(ev) && ok
	}
	return ok
}

// Begin opens the record of a request; nil if no rule wants it.
func (a *Auditor) Begin(r *http.Request, q *Request, id string) *Record {
	v := decide(a.policy, q)
	a.perLevel[slices.Index(levels, v.level)].Add(1)
	if v.level == auditv1.LevelNone {
		return nil
	}
	return begin(a, v, r, q, id)
}

// Serve runs next with the record in its context, and writes the stages as they come.
// lasting requests, such as watches, have a stage for the head of their answer.
func (a *Auditor) Serve(w http.ResponseWriter, r *http.Request, rec *Record, lasting bool, next func(http.ResponseWriter, *http.Request)) {
	if !rec.stage(auditv1.StageRequestReceived) {
		a.rejected.Add(1)
		http.Error(w, `Internal Server Error: "`+r.URL.RequestURI()+`": failed to store audit event`, http.StatusInternalServerError)
		return
	}
	tap := &tap{ResponseWriter: w, record: rec, lasting: lasting}
	defer func() {
		if p := recover(); p != nil {
			rec.Status(metav1.Status{Code: 500, Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: fmt.Sprintf("APIServer panic'd: %v", p)})
			rec.stage(auditv1.StagePanic)
			panic(p)
		}
		if !rec.answered() {
			rec.Status(metav1.Status{Code: 200, Status: metav1.StatusSuccess, Message: "Connection closed early"})
			if lasting {
				rec.stage(auditv1.StageResponseStarted)
			}
		}
		rec.stage(auditv1.StageResponseComplete)
	}()
	next(tap, r.WithContext(With(r.Context(), rec)))
}

// Failed writes the one event of a request whose credentials are not good.
func (a *Auditor) Failed(r *http.Request, rec *Record, code int) {
	if rec == nil {
		return
	}
	rec.Status(metav1.Status{Message: attempted(r), Code: int32(code)})
	rec.stage(auditv1.StageResponseStarted)
}

// attempted says in upstream's words what a client tried to log in with.
func attempted(r *http.Request) string {
	var how []string
	if _, _, ok := r.BasicAuth(); ok {
		how = append(how, "basic")
	}
	if f := strings.Fields(r.Header.Get("Authorization")); len(f) > 1 && strings.EqualFold(f[0], "bearer") {
		how = append(how, "bearer")
	}
	if strings.TrimSpace(r.URL.Query().Get("access_token")) != "" {
		how = append(how, "access_token")
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		how = append(how, "x509")
	}
	if len(how) == 0 {
		return "Authentication failed, no credentials provided"
	}
	return "Authentication failed, attempted: " + strings.Join(how, ", ")
}

// tap sees the status of an answer go by.
type tap struct {
	http.ResponseWriter
	record  *Record
	lasting bool
	seen    bool
}

// Unwrap lets http.ResponseController find what the writer below can do.
func (t *tap) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *tap) saw(code int) {
	if t.seen || code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		return
	}
	t.seen = true
	t.record.code(code)
	if t.lasting {
		t.record.stage(auditv1.StageResponseStarted)
	}
}

func (t *tap) WriteHeader(code int) {
	t.saw(code)
	t.ResponseWriter.WriteHeader(code)
}

func (t *tap) Write(b []byte) (int, error) {
	t.saw(http.StatusOK)
	return t.ResponseWriter.Write(b)
}

func (t *tap) Flush() {
	t.saw(http.StatusOK)
	_ = http.NewResponseController(t.ResponseWriter).Flush() // a writer that cannot needs none
}

func (t *tap) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	t.saw(http.StatusSwitchingProtocols)
	return http.NewResponseController(t.ResponseWriter).Hijack()
}

// Collector shows upstream's numbers.
func (a *Auditor) Collector() prometheus.Collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("apiserver_audit_"+name, help, labels, nil)
	}
	return &collector{a,
		d("event_total", "Audit events made and given to the sinks."), d("error_total", "Audit events that a sink lost.", "plugin"),
		d("level_total", "Requests by the level of their audit.", "level"), d("requests_rejected_total", "Requests refused because their audit event could not be kept.")}
}

type collector struct {
	a                             *Auditor
	made, lost, leveled, rejected *prometheus.Desc
}

func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.made, c.lost, c.leveled, c.rejected} {
		out <- d
	}
}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, n int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	put(c.made, c.a.events.Load())
	for _, s := range c.a.sinks {
		put(c.lost, s.lost(), s.name())
	}
	for i, l := range levels {
		put(c.leveled, c.a.perLevel[i].Load(), string(l))
	}
	put(c.rejected, c.a.rejected.Load())
}

// encode gives an event as one line of JSON, without its objects where it is too large
// with them; nil if it is too large even so.
func encode(ev *auditv1.Event, t Truncate) ([]byte, error) {
	b, err := json.Marshal(ev)
	if err != nil || !t.Enabled || int64(len(b)) <= t.MaxEventSize {
		return b, err
	}
	if ev.Level == auditv1.LevelRequest || ev.Level == auditv1.LevelRequestResponse {
		small := *ev
		small.RequestObject, small.ResponseObject = nil, nil
		small.Annotations = map[string]string{"audit.k8s.io/truncated": "true"}
		for k, v := range ev.Annotations {
			small.Annotations[k] = v
		}
		if b, err = json.Marshal(&small); err != nil || int64(len(b)) <= t.MaxEventSize {
			return b, err
		}
	}
	return nil, fmt.Errorf("event is too large even after truncating")
}

// UserOf names the one who sent the request, behind an impersonation.
func UserOf(u registry.User) registry.User {
	if u.By != nil {
		return *u.By
	}
	return u
}
