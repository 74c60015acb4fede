package registry

import (
	"context"
	"fmt"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
)

// createSub answers a create on a subresource, and of the kind Binding, which is
// one under another address.
func (w *op) createSub(ctx context.Context, body runtime.Object) (Result, error) {
	q := w.q
	if q.Kind == api.Bindings.Facts {
		b, ok := body.(*core.Binding)
		if !ok {
			return Result{}, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", body))
		}
		w = w.r.newOp(q, w.r.For(api.Pods.Facts), Create, w.Options, w.manager)
		w.DryRun = dryRun(w.Options)
		q.Kind, q.Name, q.Subresource = api.Pods.Facts, b.Name, "binding"
		w.Name, w.Subresource, w.sub = q.Name, "binding", "binding"
	}
	if q.Name == "" {
		return Result{}, apierrors.NewBadRequest("name must be provided")
	}
	switch {
	case w.res.Facts == api.Pods.Facts && q.Subresource == "binding":
		return w.bind(ctx, body)
	case w.res.Facts == api.Pods.Facts && q.Subresource == "eviction":
		return w.evict(ctx, body)
	}
	fn := w.r.subs[subKey{w.res.Facts, q.Subresource}]
	if fn == nil {
		return Result{}, apierrors.NewMethodNotSupported(w.res.GroupResource(), "create")
	}
	parent, err := w.r.current(w.res, q.Namespace, q.Name)
	if err != nil {
		return Result{}, err
	}
	if parent == nil {
		return Result{}, w.notFound()
	}
	w.Object = body
	if err := w.r.Admit(ctx, &w.Attributes); err != nil {
		return Result{}, err
	}
	out, err := fn(ctx, *q, parent.Object(), w.Object)
	return Result{Object: out, Created: true}, err
}

func dryRun(options runtime.Object) bool {
	o, ok := options.(*metav1.CreateOptions)
	return ok && len(o.DryRun) > 0
}

func created() Result {
	return Result{Created: true, Object: &metav1.Status{Status: metav1.StatusSuccess, Code: 201}}
}

// bind assigns a pod to a node, once.
func (w *op) bind(ctx context.Context, body runtime.Object) (Result, error) {
	b, ok := body.(*core.Binding)
	if !ok {
		return Result{}, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", body))
	}
	if b.Name != "" && b.Name != w.q.Name {
		return Result{}, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	b.Name = w.q.Name
	if err := w.checkNamespace(b); err != nil {
		return Result{}, err
	}
	if errs := checkBindingTarget(b); len(errs) > 0 {
		return Result{}, apierrors.NewInvalid(api.Bindings.GroupKind(), b.Name, errs)
	}
	w.Object = b
	if err := w.r.Admit(ctx, &w.Attributes); err != nil {
		return Result{}, err
	}
	b = w.Object.(*core.Binding)
	_, err := w.quiet().retry(ctx, false, func(old *Item) (api.Object, error) {
		pod := old.Object().(*core.Pod)
		if err := w.checkBinding(pod, b); err != nil {
			return nil, err
		}
		pod = pod.DeepCopy()
		assign(pod, b, metav1.Time{Time: w.r.now().UTC().Truncate(1e9)})
		return pod, nil
	}, &bindMode)
	if err != nil {
		return Result{}, err
	}
	return created(), nil
}

// bindMode takes the object as the engine itself made it. To be bound is no change of what a
// pod is to be: its generation stays.
var bindMode = mode{still: true, prepare: func(*op, api.Object, api.Object) {}}

// quiet is the op for a write that the engine makes itself: admission has seen the
// request in its own form, and as upstream nobody comes to own what is set.
func (w *op) quiet() *op {
	c := *w
	c.Operation, c.inner, c.applied = Update, true, true
	return &c
}

func checkBindingTarget(b *core.Binding) (errs field.ErrorList) {
	if k := b.Target.Kind; k != "" && k != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

func (w *op) checkBinding(pod *core.Pod, b *core.Binding) error {
	fail := func(format string, a ...any) error {
		return apierrors.NewConflict(schemaResource("pods/binding"), pod.Name, fmt.Errorf(format, a...))
	}
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return fail("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return fail("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
	case pod.DeletionTimestamp != nil:
		return fail("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fail("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return fail("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	return nil
}

func assign(pod *core.Pod, b *core.Binding, now metav1.Time) {
	pod.Spec.NodeName = b.Target.Name
	for k, v := range b.Annotations {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[k] = v
	}
	for k, v := range b.Labels {
		if pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		pod.Labels[k] = v
	}
	setCondition(pod, core.PodCondition{Type: core.PodScheduled, Status: core.ConditionTrue, LastTransitionTime: now})
}

func setCondition(pod *core.Pod, c core.PodCondition) {
	c.ObservedGeneration = 0
	for i := range pod.Status.Conditions {
		old := &pod.Status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}
