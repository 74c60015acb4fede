// Package events records what happens to objects as core/v1 Events, as
// `kubectl describe` shows them. A Recorder never blocks and never fails its
// caller: what it cannot write in time it drops. Repeats of an event raise the
// count of the one that is there; many events that differ in their message only
// become one; an object that causes a flood is cut off for a while.
// Start reading at Recorder.Event, then correlate.go (pure).
package events

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

const (
	// queueLimit is how many events may wait; further ones are dropped.
	queueLimit = 1000
	// messageLimit is the server's limit of an event's message.
	messageLimit = 1024
	// attempts and retryWait bound how long one event may hold up the others.
	attempts  = 3
	retryWait = 2 * time.Second
)

// Config says for whom a Recorder speaks.
type Config struct {
	Client client.Transport
	// Component becomes source.component and reportingComponent.
	Component string
	// Host is the node's name for an agent, else empty.
	Host string
	// Series says that events are written as users of events.k8s.io write them, the
	// scheduler among them: with eventTime and a series for repeats, and neither
	// count nor first and last timestamp. kubectl describe shows such events first.
	Series bool
}

// Recorder writes events. A nil *Recorder does nothing.
type Recorder struct {
	config Config
	queue  chan occurrence
}

// occurrence is one call of Event.
type occurrence struct {
	object          core.ObjectReference
	kind            string // core.EventTypeNormal or core.EventTypeWarning
	component       string
	reason, message string
	action          string // set where Config.Series is
	at              time.Time
}

// New checks the config.
func New(c Config) (*Recorder, error) {
	if c.Client == nil || c.Component == "" {
		return nil, errors.New("making an event recorder: no client or no component name")
	}
	return &Recorder{config: c, queue: make(chan occurrence, queueLimit)}, nil
}

// As returns a Recorder that speaks for another component and shares the queue
// and the Run of r.
func (r *Recorder) As(component string) *Recorder {
	if r == nil {
		return nil
	}
	c := r.config
	c.Component = component
	return &Recorder{config: c, queue: r.queue}
}

// Event notes that something happened to obj. eventType is core.EventTypeNormal
// or core.EventTypeWarning.
func (r *Recorder) Event(obj runtime.Object, eventType, reason, format string, args ...any) {
	if r == nil {
		return
	}
	message := format
	if len(args) > 0 {
		message = fmt.Sprintf(format, args...)
	}
	r.EventAt(Reference(obj), eventType, reason, message)
}

// EventAt is Event for something named by a reference, such as one container of
// a pod (FieldPath) or a node that the caller has no object of.
func (r *Recorder) EventAt(ref core.ObjectReference, eventType, reason, message string) {
	if r == nil {
		return
	}
	if len(message) > messageLimit {
		message = message[:messageLimit-3] + "..."
	}
	select {
	case r.queue <- occurrence{object: ref, kind: eventType, component: r.config.Component, reason: reason, message: message, action: r.config.action(reason), at: time.Now()}:
	default: // full: the newest goes, as the oldest tell how the trouble began
	}
}

// actions are what a scheduler does when it says so, in upstream's words.
var actions = map[string]string{"Scheduled": "Binding", "FailedScheduling": "Scheduling", "Preempted": "Preempting"}

func (c Config) action(reason string) string {
	if !c.Series {
		return ""
	}
	return cmp.Or(actions[reason], reason)
}

// Reference makes the reference that an event of the object carries.
func Reference(obj runtime.Object) core.ObjectReference {
	ref := core.ObjectReference{}
	if gvk := obj.GetObjectKind().GroupVersionKind(); gvk.Kind != "" {
		ref.APIVersion, ref.Kind = gvk.ToAPIVersionAndKind()
	} else if gvks, _, err := api.Scheme().ObjectKinds(obj); err == nil && len(gvks) > 0 {
		ref.APIVersion, ref.Kind = gvks[0].ToAPIVersionAndKind()
	}
	if o, ok := obj.(metav1.Object); ok {
		ref.Namespace, ref.Name, ref.UID, ref.ResourceVersion = o.GetNamespace(), o.GetName(), o.GetUID(), o.GetResourceVersion()
	}
	return ref
}

// Run writes what Event notes until ctx ends; it then writes what still waits,
// for a moment.
func (r *Recorder) Run(ctx context.Context) error {
	known, behind := newCorrelator(), newBehind()
	for {
		select {
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx), known, behind)
			return nil
		case o := <-r.queue:
			r.observe(ctx, known, behind, o)
		case <-behind.timer.C:
			for _, s := range behind.due(time.Now()) {
				r.write(ctx, s)
			}
		}
	}
}

func (r *Recorder) flush(ctx context.Context, known *correlator, behind *behind) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case o := <-r.queue:
			r.observe(ctx, known, behind, o)
			continue
		default:
		}
		for _, s := range behind.all() {
			r.write(ctx, s)
		}
		return
	}
}

// observe writes what happened, unless it is one too many, or one more of a series that
// the store has heard of lately.
func (r *Recorder) observe(ctx context.Context, known *correlator, behind *behind, o occurrence) {
	s, pass := known.observe(o)
	if !pass || r.config.Series && s.name != "" && behind.wait(s) {
		return
	}
	r.write(ctx, s)
}

func (r *Recorder) write(ctx context.Context, seen *series) {
	o := seen.occurrence
	seen.written = seen.last
	err := r.store(ctx, seen)
	for i := 1; i < attempts && err != nil && worthRetrying(err) && ctx.Err() == nil; i++ {
		select {
		case <-time.After(retryWait):
		case <-ctx.Done():
		}
		err = r.store(ctx, seen)
	}
	if err != nil && ctx.Err() == nil && !apierrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
		slog.Debug("dropping event", "object", o.object.Namespace+"/"+o.object.Name, "reason", o.reason, "error", err)
	}
}

// worthRetrying: an answer of the server is final, a lost connection is not.
func worthRetrying(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err)
}

// store creates the event, or raises the count of the one that is there.
func (r *Recorder) store(ctx context.Context, s *series) error {
	if s.name != "" {
		patch, err := json.Marshal(r.more(s))
		if err != nil {
			return fmt.Errorf("encoding event patch: %w", err)
		}
		t := client.Target{Namespace: s.namespace(), Name: s.name}
		_, err = client.Patch(ctx, r.config.Client, api.Events, t, types.StrategicMergePatchType, patch)
		if !apierrors.IsNotFound(err) {
			return err
		}
		s.name = "" // expired meanwhile: begin anew
	}
	e := r.event(s)
	_, err := client.Create(ctx, r.config.Client, api.Events, e)
	if err == nil || apierrors.IsAlreadyExists(err) {
		s.name = e.Name
		return nil
	}
	return err
}

// more is the patch for a repeat.
func (r *Recorder) more(s *series) map[string]any {
	if r.config.Series {
		return map[string]any{"message": s.message, "series": core.EventSeries{Count: s.count, LastObservedTime: metav1.NewMicroTime(s.last)}}
	}
	return map[string]any{"count": s.count, "lastTimestamp": metav1.NewTime(s.last), "message": s.message}
}

func (r *Recorder) event(s *series) *core.Event {
	e := &core.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: s.namespace(), Name: fmt.Sprintf("%s.%x", s.object.Name, s.last.UnixNano())},
		InvolvedObject:      s.object,
		Type:                s.kind,
		Reason:              s.reason,
		Message:             s.message,
		ReportingController: s.component,
		ReportingInstance:   r.config.Host,
	}
	if !r.config.Series {
		e.Count, e.FirstTimestamp, e.LastTimestamp = s.count, metav1.NewTime(s.first), metav1.NewTime(s.last)
		e.Source = core.EventSource{Component: s.component, Host: r.config.Host}
		return e
	}
	e.EventTime, e.Action, e.ReportingInstance = metav1.NewMicroTime(s.first), s.action, cmp.Or(r.config.Host, s.component)
	if s.count > 1 {
		e.Series = &core.EventSeries{Count: s.count, LastObservedTime: metav1.NewMicroTime(s.last)}
	}
	return e
}
