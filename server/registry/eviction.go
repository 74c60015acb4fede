package registry

import (
	"context"
	"errors"
	"fmt"

	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
)

const (
	evictionRefused = "Cannot evict pod as it would violate the pod's disruption budget."
	// maxDisruptedPods bounds the pods that a budget may wait for, as upstream.
	maxDisruptedPods = 2000
)

func schemaResource(s string) schema.GroupResource { return schema.GroupResource{Resource: s} }

// evict deletes a pod if its disruption budget allows it.
func (w *op) evict(ctx context.Context, body runtime.Object) (Result, error) {
	e, ok := body.(*policy.Eviction)
	if !ok {
		return Result{}, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", body))
	}
	if e.Name == "" {
		e.Name = w.q.Name
	}
	if e.Name != w.q.Name {
		return Result{}, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	w.Object = e
	if err := w.r.Admit(ctx, &w.Attributes); err != nil {
		return Result{}, err
	}
	e = w.Object.(*policy.Eviction)
	o := metav1.DeleteOptions{}
	if e.DeleteOptions != nil {
		o = *e.DeleteOptions
	}
	if w.DryRun {
		o.DryRun = []string{metav1.DryRunAll}
	}
	w.DryRun = len(o.DryRun) > 0
	item := w.r.cache.Near(w.res.kind, w.q.Namespace, w.q.Name)
	if item == nil {
		return Result{}, w.notFound()
	}
	pod := item.Object().(*core.Pod)
	if err := w.checkPreconditions(pod, o.Preconditions); err != nil {
		return Result{}, err
	}
	unchanged, err := w.spend(ctx, pod)
	if err != nil {
		return Result{}, err
	}
	if unchanged && o.Preconditions == nil { // the decision holds for the pod as it was
		o.Preconditions = &metav1.Preconditions{ResourceVersion: new(pod.ResourceVersion)}
	}
	if !w.DryRun {
		if o.Preconditions, err = w.announce(ctx, o.Preconditions); err != nil {
			return Result{}, err
		}
	}
	q := *w.q
	q.Subresource = ""
	if _, err := w.r.Delete(ctx, q, o); err != nil {
		return Result{}, err
	}
	return created(), nil
}

// spend takes one disruption from the pod's budget. It returns true when the budget
// was not touched because the pod is not healthy anyway.
func (w *op) spend(ctx context.Context, pod *core.Pod) (unchanged bool, err error) {
	if pod.DeletionTimestamp != nil || pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed || pod.Status.Phase == core.PodPending {
		return false, nil
	}
	pdbs, err := w.budgets(pod)
	if err != nil || len(pdbs) == 0 {
		return false, err
	}
	if len(pdbs) > 1 {
		return false, plainError(500, metav1.StatusReasonInternalError, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
	}
	if pdb := pdbs[0]; !ready(pod) {
		always := pdb.Spec.UnhealthyPodEvictionPolicy != nil && *pdb.Spec.UnhealthyPodEvictionPolicy == policy.AlwaysAllow
		if always || pdb.Status.CurrentHealthy >= pdb.Status.DesiredHealthy && pdb.Status.DesiredHealthy > 0 {
			return true, nil
		}
	}
	b := w.quiet()
	b.res = w.r.For(api.PodDisruptionBudgets.Facts)
	q := *w.q
	q.Kind, q.Name, q.Subresource = api.PodDisruptionBudgets.Facts, pdbs[0].Name, "status"
	b.q, b.Name, b.Subresource, b.sub, b.Resource = &q, q.Name, q.Subresource, q.Subresource, b.res
	_, err = b.retry(ctx, false, func(old *Item) (api.Object, error) {
		pdb := old.Object().(*policy.PodDisruptionBudget)
		if err := allows(pdb); err != nil {
			return nil, err
		}
		pdb = pdb.DeepCopy()
		pdb.Status.DisruptionsAllowed--
		if pdb.Status.DisruptedPods == nil {
			pdb.Status.DisruptedPods = map[string]metav1.Time{}
		}
		pdb.Status.DisruptedPods[pod.Name] = metav1.Time{Time: w.r.now().UTC().Truncate(1e9)}
		noteAllowed(pdb, metav1.Time{Time: w.r.now().UTC().Truncate(1e9)})
		return pdb, nil
	}, &bindMode)
	return false, err
}

// allows refuses when the budget has no disruption left.
func allows(pdb *policy.PodDisruptionBudget) error {
	refuse := func(retry int, cause string) error {
		e := apierrors.NewTooManyRequests(evictionRefused, retry)
		e.ErrStatus.Details.Causes = append(e.ErrStatus.Details.Causes, metav1.StatusCause{Type: policy.DisruptionBudgetCause, Message: cause})
		return e
	}
	gr := schema.GroupResource{Group: "policy", Resource: "poddisruptionbudget"}
	s := &pdb.Status
	switch {
	case s.ObservedGeneration < pdb.Generation:
		return refuse(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", pdb.Name))
	case s.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(gr, pdb.Name, errors.New("pdb disruptions allowed is negative"))
	case len(s.DisruptedPods) > maxDisruptedPods:
		return apierrors.NewForbidden(gr, pdb.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case s.DisruptionsAllowed == 0:
		return refuse(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", pdb.Name, s.DesiredHealthy, s.CurrentHealthy))
	}
	return nil
}

func noteAllowed(pdb *policy.PodDisruptionBudget, now metav1.Time) {
	if pdb.Status.DisruptionsAllowed > 0 {
		return
	}
	for i := range pdb.Status.Conditions {
		c := &pdb.Status.Conditions[i]
		if c.Type == policy.DisruptionAllowedCondition && c.Status != metav1.ConditionFalse {
			c.Status, c.Reason, c.LastTransitionTime = metav1.ConditionFalse, policy.InsufficientPodsReason, now
		}
	}
}

// budgets are those whose selector takes the pod in.
func (w *op) budgets(pod *core.Pod) ([]*policy.PodDisruptionBudget, error) {
	res := w.r.For(api.PodDisruptionBudgets.Facts)
	if res == nil || len(pod.Labels) == 0 {
		return nil, nil
	}
	var out []*policy.PodDisruptionBudget
	var failed error
	w.r.cache.Each(res.kind, pod.Namespace, func(i *Item) bool {
		pdb := i.Object().(*policy.PodDisruptionBudget)
		sel, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err != nil {
			failed = apierrors.NewInternalError(err)
			return false
		}
		if sel.Matches(labels.Set(pod.Labels)) {
			out = append(out, pdb)
		}
		return true
	})
	return out, failed
}

func ready(pod *core.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == core.PodReady {
			return c.Status == core.ConditionTrue
		}
	}
	return false
}

// announce marks the pod as disrupted before it is deleted; preconditions move with
// the version that this makes.
func (w *op) announce(ctx context.Context, p *metav1.Preconditions) (*metav1.Preconditions, error) {
	out, err := w.quiet().retry(ctx, p != nil && p.ResourceVersion != nil, func(old *Item) (api.Object, error) {
		if err := w.checkPreconditions(old.Object(), p); err != nil {
			return nil, err
		}
		pod := old.Object().(*core.Pod).DeepCopy()
		setCondition(pod, core.PodCondition{
			Type: core.DisruptionTarget, Status: core.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			LastTransitionTime: metav1.Time{Time: w.r.now().UTC().Truncate(1e9)},
		})
		return pod, nil
	}, &bindMode)
	if err != nil || p == nil || p.ResourceVersion == nil {
		return p, err
	}
	moved := *p
	moved.ResourceVersion = new(out.Item.Object().GetResourceVersion())
	return &moved, nil
}
