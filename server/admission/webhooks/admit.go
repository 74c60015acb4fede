package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/server/admission/match"
	"orch/server/apply"
	"orch/server/registry"
)

// Step is the name under which upstream knows the mutating webhooks.
const Step = "MutatingAdmissionWebhook"

// rounds is what has to be known in the second round.
type rounds struct {
	// left is the object as the webhooks left it.
	left runtime.Object
	// invoked are hooks that were called and may be called again; due those of them
	// whose object has changed since.
	invoked, due []string
}

func (r *rounds) changed() {
	for _, id := range r.invoked {
		if !slices.Contains(r.due, id) {
			r.due = append(r.due, id)
		}
	}
}

// Admit asks the mutating webhooks in order and changes the object as they say.
//
//	round 0: every hook that is wanted; one that changes the object asks for round 1
//	round 1: those of reinvocationPolicy IfNeeded that were called before a change
func (w *Webhooks) Admit(ctx context.Context, a *registry.Attributes) error {
	list := w.candidates(a, true)
	if len(list) == 0 {
		return nil
	}
	r, _ := a.Mutation.Memory[Step].(*rounds)
	if r == nil {
		r = &rounds{}
		if a.Mutation.Memory == nil {
			a.Mutation.Memory = map[string]any{}
		}
		a.Mutation.Memory[Step] = r
	}
	if a.Mutation.Second && !equality.Semantic.DeepEqual(r.left, a.Object) {
		r.changed()
	}
	v := w.matcher.Request(a)
	for i := range list {
		if err := w.admitOne(ctx, &list[i], v, r); err != nil {
			return err
		}
	}
	if a.Object != nil && a.Operation != registry.Delete {
		r.left = a.Object.DeepCopyObject()
	}
	return nil
}

func (w *Webhooks) admitOne(ctx context.Context, c *candidate, v *match.Request, r *rounds) error {
	a := v.A
	ok, err := w.wanted(ctx, c, v, "admit")
	if err != nil || !ok || a.Mutation.Second && !slices.Contains(r.due, c.id) {
		return err
	}
	begin, n := time.Now(), note{candidate: c, a: a}
	changed, err := w.mutate(ctx, c, v, &n)
	n.mutated(changed)
	if changed {
		a.Mutation.Changed, a.Mutation.Again = true, true
		r.changed()
		v.Changed()
	}
	if c.again {
		r.invoked = append(r.invoked, c.id)
	}
	failed := err
	err = w.outcome(ctx, c, asking{"admit", string(a.Operation), begin}, failed)
	if failed != nil && err == nil {
		n.failedOpen()
	}
	return err
}

// mutate calls a hook and does what it says.
func (w *Webhooks) mutate(ctx context.Context, c *candidate, v *match.Request, n *note) (changed bool, err error) {
	shown, err := v.As(c.as)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	answer, err := w.call(ctx, c, shown, true)
	if err != nil {
		return false, err
	}
	tell(v.A, c, answer)
	switch {
	case !answer.Allowed:
		return false, &rejection{denied(c.name, answer.Result)}
	case len(answer.Patch) == 0:
		return false, nil
	case *answer.PatchType != admissionv1.PatchTypeJSONPatch:
		return false, &callError{c.name, fmt.Errorf("unsupported patch type %q", *answer.PatchType), 400}
	}
	var operations []json.RawMessage
	if err := json.Unmarshal(answer.Patch, &operations); err != nil {
		return false, &callError{c.name, fmt.Errorf("received undecodable patch in webhook response: %w", err), 503}
	}
	if len(operations) == 0 {
		return false, nil
	}
	if shown.Object == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", c.name))
	}
	now, err := w.patched(shown, answer.Patch)
	if err != nil {
		return false, err
	}
	changed = !equality.Semantic.DeepEqual(shown.Object, now)
	n.patched(operations)
	return changed, w.take(v.A, now, shown)
}

// patched is the object that a patch makes of the one that a hook saw.
func (w *Webhooks) patched(shown *match.View, patch []byte) (runtime.Object, error) {
	doc, _, err := shown.JSON()
	if err == nil {
		doc, err = (&apply.Applier{}).Patch(types.JSONPatchType, doc, patch, nil)
	}
	if err != nil {
		if both, ok := err.(interface{ Unwrap() []error }); ok && errors.Is(err, apply.ErrCannotApply) {
			err = both.Unwrap()[1] // the library's words, as upstream shows them
		}
		return nil, apierrors.NewInternalError(err)
	}
	now := reflect.New(reflect.TypeOf(shown.Object).Elem()).Interface().(runtime.Object)
	if _, err := apply.Decode(doc, now, false); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return now, nil
}

// take makes what a hook left the request's object: defaults of the version that the
// hook saw, then back to the request's.
func (w *Webhooks) take(a *registry.Attributes, now runtime.Object, shown *match.View) error {
	as, whole := shown.As, shown.Whole()
	if !as.Dynamic || !whole {
		now.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // in memory the type says it
	}
	if whole {
		if res := w.cfg.Registry.For(as); res != nil {
			res.Complete(now)
		}
		if as != a.Resource.Facts {
			back, err := w.cfg.Registry.Convert(now.(api.Object), as, a.Resource.Facts)
			if err != nil {
				return apierrors.NewInternalError(err)
			}
			now = back
		}
	}
	a.Object = now
	return nil
}

// tell passes on what a hook says beside its answer.
func tell(a *registry.Attributes, c *candidate, r *admissionv1.AdmissionResponse) {
	for k, text := range r.AuditAnnotations {
		a.Annotate(c.name+"/"+k, text)
	}
	for _, text := range r.Warnings {
		if text != "" {
			a.Warn(text)
		}
	}
}

// note is what the audit log is told of one mutating call.
type note struct {
	*candidate
	a *registry.Attributes
}

func (n *note) key(prefix string) string {
	round := 0
	if n.a.Mutation.Second {
		round = 1
	}
	return fmt.Sprintf("%sround_%d_index_%d", prefix, round, n.index)
}

func (n *note) mutated(yes bool) {
	n.write("mutation.webhook.admission.k8s.io/", struct {
		Configuration string `json:"configuration"`
		Webhook       string `json:"webhook"`
		Mutated       bool   `json:"mutated"`
	}{n.configuration, n.name, yes})
}

func (n *note) patched(operations []json.RawMessage) {
	n.write("patch.webhook.admission.k8s.io/", struct {
		Configuration string            `json:"configuration"`
		Webhook       string            `json:"webhook"`
		Patch         []json.RawMessage `json:"patch,omitempty"`
		PatchType     string            `json:"patchType,omitempty"`
	}{n.configuration, n.name, operations, string(admissionv1.PatchTypeJSONPatch)})
}

func (n *note) write(prefix string, v any) {
	if b, err := json.Marshal(v); err == nil { // texts and JSON that was parsed: always
		n.a.Annotate(n.key(prefix), string(b))
	}
}

func (n *note) failedOpen() {
	n.a.Annotate(n.key("failed-open.mutation.webhook.admission.k8s.io/"), n.name)
}
