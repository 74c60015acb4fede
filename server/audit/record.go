package audit

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authn "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"orch/server/registry"
)

// maxUserAgent bounds what is recorded of a client's own words, as upstream does.
const maxUserAgent = 1024

// Record is what is written of one request, while the request goes on. A nil Record is
// one of a request that no rule wants: every method may be called on it.
type Record struct {
	auditor *Auditor
	verdict verdict

	mu sync.Mutex
	ev auditv1.Event
}

type recordKey struct{}

// With puts a record into the context of its request.
func With(ctx context.Context, r *Record) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, recordKey{}, r)
}

// From is the record of the request, nil if it is not recorded.
func From(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// begin fills what is known as soon as the user is.
func begin(a *Auditor, v verdict, r *http.Request, q *Request, id string) *Record {
	now := metav1.NewMicroTime(a.now())
	rec := &Record{auditor: a, verdict: v, ev: auditv1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "audit.k8s.io/v1"},
		Level:    v.level, AuditID: types.UID(id), RequestURI: r.URL.RequestURI(), Verb: q.Verb, User: userInfo(&q.User),
		UserAgent: r.UserAgent(), RequestReceivedTimestamp: now,
	}}
	if len(rec.ev.UserAgent) > maxUserAgent {
		rec.ev.UserAgent = rec.ev.UserAgent[:maxUserAgent] + "...TRUNCATED"
	}
	for _, ip := range utilnet.SourceIPs(r) {
		rec.ev.SourceIPs = append(rec.ev.SourceIPs, ip.String())
	}
	if q.Resource != "" {
		rec.ev.ObjectRef = &auditv1.ObjectReference{Namespace: q.Namespace, Name: q.Name, Resource: q.Resource,
			Subresource: q.Subresource, APIGroup: q.Group, APIVersion: q.Version}
	}
	return rec
}

func userInfo(u *registry.User) authn.UserInfo {
	out := authn.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if out.Extra == nil {
			out.Extra = map[string]authn.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

// Impersonated notes whom the user acts as.
func (r *Record) Impersonated(u registry.User) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ev.ImpersonatedUser = new(userInfo(&u))
	if u.Mode != "" {
		r.ev.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: u.Mode}
	}
}

// Annotate notes something beside the request; the first value of a key stays. What webhooks
// patched is part of the object: it is left out where the object is.
func (r *Record) Annotate(key, value string) {
	if r == nil || strings.HasPrefix(key, "patch.") && !r.WantsRequest() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ev.Annotations == nil {
		r.ev.Annotations = map[string]string{}
	}
	if _, there := r.ev.Annotations[key]; !there {
		r.ev.Annotations[key] = value
	}
}

// Annotate notes something in the record of a request, if there is one.
func Annotate(ctx context.Context, key, value string) { From(ctx).Annotate(key, value) }

func (r *Record) atLeast(l auditv1.Level) bool {
	return r != nil && slices.Index(levels, r.verdict.level) >= slices.Index(levels, l)
}

// WantsRequest and WantsResponse tell whether the objects are to be recorded.
func (r *Record) WantsRequest() bool  { return r.atLeast(auditv1.LevelRequest) }
func (r *Record) WantsResponse() bool { return r.atLeast(auditv1.LevelRequestResponse) }

// Request records the object that was sent, as JSON.
func (r *Record) Request(raw []byte) {
	if !r.WantsRequest() || len(raw) == 0 {
		return
	}
	raw = r.clean(raw)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ev.RequestObject = &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
	var meta struct {
		Metadata struct{ Name, Namespace, ResourceVersion, UID string }
	}
	// What an object says of itself completes the reference, as upstream does; a patch that is a list says nothing.
	if o := r.ev.ObjectRef; o != nil && json.Unmarshal(raw, &meta) == nil {
		fill(&o.Name, meta.Metadata.Name)
		fill(&o.Namespace, meta.Metadata.Namespace)
		fill(&o.ResourceVersion, meta.Metadata.ResourceVersion)
		if o.UID == "" {
			o.UID = types.UID(meta.Metadata.UID)
		}
	}
}

func fill(to *string, from string) {
	if *to == "" {
		*to = from
	}
}

// Response records the object that was answered, as JSON.
func (r *Record) Response(raw []byte) {
	if !r.WantsResponse() || len(raw) == 0 {
		return
	}
	raw = r.clean(raw)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ev.ResponseObject = &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
}

// clean takes managed fields out, where the policy says so. It gives bytes of its own.
func (r *Record) clean(raw []byte) []byte {
	if r.verdict.omitManaged {
		var o map[string]any
		if json.Unmarshal(raw, &o) == nil {
			dropManaged(o)
			items, _ := o["items"].([]any)
			for _, i := range items {
				if m, ok := i.(map[string]any); ok {
					dropManaged(m)
				}
			}
			if out, err := json.Marshal(o); err == nil {
				return out
			}
		}
	}
	return slices.Clone(raw)
}

func dropManaged(o map[string]any) {
	if meta, ok := o["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
	}
}

// Status notes a failure in its own words.
func (r *Record) Status(s metav1.Status) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ev.ResponseStatus = &metav1.Status{Status: s.Status, Message: s.Message, Reason: s.Reason, Details: s.Details, Code: s.Code}
}

// code notes what was answered; a Status that is there already keeps its words.
func (r *Record) code(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ev.ResponseStatus == nil {
		r.ev.ResponseStatus = &metav1.Status{}
	}
	r.ev.ResponseStatus.Code = int32(code)
}

func (r *Record) answered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ev.ResponseStatus != nil
}

// stage writes the record as it is now; false if a strict sink failed.
func (r *Record) stage(s auditv1.Stage) bool {
	if slices.Contains(r.verdict.omit, s) {
		return true
	}
	r.mu.Lock()
	ev := r.ev
	ev.Stage = s
	ev.StageTimestamp = metav1.NewMicroTime(r.auditor.now())
	if s == auditv1.StageRequestReceived {
		ev.StageTimestamp = r.ev.RequestReceivedTimestamp
	}
	if ev.ObjectRef != nil {
		ev.ObjectRef = new(*ev.ObjectRef)
	}
	if r.ev.Annotations != nil {
		ev.Annotations = make(map[string]string, len(r.ev.Annotations))
		for k, v := range r.ev.Annotations {
			ev.Annotations[k] = v
		}
	}
	if s == auditv1.StageRequestReceived { // upstream's first events have neither
		ev.Annotations = nil
	}
	r.mu.Unlock()
	return r.auditor.write(&ev)
}

// since is how long ago the request came.
func (r *Record) since(now time.Time) time.Duration {
	return now.Sub(r.ev.RequestReceivedTimestamp.Time)
}
