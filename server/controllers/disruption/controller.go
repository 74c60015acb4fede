// Package disruption keeps the status of PodDisruptionBudgets: how many pods
// are healthy, and how many evictions that allows. Start reading at Specs, then
// makePlan (pure).
package disruption

import (
	"cmp"
	"context"
	"fmt"
	"time"

	autoscaling "k8s.io/api/autoscaling/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
	"orch/api/reconcile"
)

// Deps is what the controller needs.
type Deps struct {
	Client *client.Client
	Events *events.Recorder // may be nil
	// Kinds lists every kind that is served now: those with a scale may control pods.
	Kinds func() []*api.Facts
	Now   func() time.Time
}

type controller struct{ Deps }

// Specs is the controller of PodDisruptionBudgets.
func Specs(d Deps) []reconcile.Spec {
	c := &controller{d}
	c.Events = d.Events.As("controllermanager")
	return []reconcile.Spec{{Name: "disruption", Workers: 1, Do: c.do, Watches: []reconcile.Watch{
		reconcile.For(api.PodDisruptionBudgets), reconcile.Map(api.Pods, c.ofPod)}}}
}

func (c *controller) ofPod(was, is *core.Pod) []reconcile.Key {
	one := cmp.Or(is, was)
	return reconcile.Keys(c.Client, api.PodDisruptionBudgets, one.Namespace, func(b *policy.PodDisruptionBudget) bool {
		sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		return err == nil && ((was != nil && sel.Matches(labels.Set(was.Labels))) || (is != nil && sel.Matches(labels.Set(is.Labels))))
	})
}

func (c *controller) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	b := client.Cached(c.Client, api.PodDisruptionBudgets, key.Namespace, key.Name)
	if b == nil {
		return reconcile.Result{}, nil
	}
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, reconcile.Terminal(fmt.Errorf("reading selector: %w", err))
	}
	pods := client.CachedList(c.Client, api.Pods, b.Namespace, sel)
	if len(pods) == 0 {
		c.Events.Event(b, core.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected := int32(0)
	if byController(b) {
		expected, err = c.expected(ctx, pods)
	}
	now := c.Now()
	if err != nil {
		c.Events.Event(b, core.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return reconcile.Result{}, c.fail(ctx, b, err, now)
	}
	p := makePlan(b, pods, expected, now)
	return reconcile.Result{After: p.after}, c.write(ctx, b, p.status)
}

// fail allows no disruption while the budget cannot be worked out.
func (c *controller) fail(ctx context.Context, b *policy.PodDisruptionBudget, why error, now time.Time) error {
	s := *b.Status.DeepCopy()
	s.DisruptionsAllowed, s.ObservedGeneration = 0, b.Generation
	s.Conditions = withCondition(s.Conditions, metav1.Condition{
		Type: policy.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policy.SyncFailedReason, Message: why.Error(),
	}, b.Generation, now)
	if err := c.write(ctx, b, s); err != nil {
		return err
	}
	return why
}

func (c *controller) write(ctx context.Context, b *policy.PodDisruptionBudget, s policy.PodDisruptionBudgetStatus) error {
	next := *b // shallow: only the status differs
	next.Status = s
	return client.WriteStatus(ctx, c.Client, api.PodDisruptionBudgets, b, &next)
}

// expected adds up the sizes of the pods' controllers, each once.
func (c *controller) expected(ctx context.Context, pods []*core.Pod) (int32, error) {
	found := sizes{}
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			continue // nobody's pod: upstream leaves it out as well
		}
		if _, known := found[ref.UID]; known {
			continue
		}
		ref, err := c.top(ctx, p.Namespace, ref)
		if err != nil {
			return 0, err
		}
		if _, known := found[ref.UID]; known {
			continue
		}
		n, err := c.size(ctx, p.Namespace, ref)
		if err != nil {
			return 0, err
		}
		found[ref.UID] = n
	}
	return found.total(), nil
}

// top is the Deployment above a ReplicaSet, else the controller itself.
func (c *controller) top(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*metav1.OwnerReference, error) {
	if ref.Kind != api.ReplicaSets.Kind {
		return ref, nil
	}
	s, err := client.Get(ctx, c.Client, api.ReplicaSets, namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return ref, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading replica set %s: %w", ref.Name, err)
	}
	if above := metav1.GetControllerOf(s); above != nil && above.Kind == api.Deployments.Kind {
		return above, nil
	}
	return ref, nil
}

// size asks for the scale of a controller, whatever its kind is; 0 if it is gone.
func (c *controller) size(ctx context.Context, namespace string, ref *metav1.OwnerReference) (int32, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return 0, fmt.Errorf("reading controller reference: %w", err)
	}
	for _, f := range c.Kinds() {
		if f.Group != gv.Group || f.Kind != ref.Kind || !f.Scale {
			continue
		}
		o, err := c.Client.Transport.Get(ctx, client.Target{Kind: f, Namespace: namespace, Name: ref.Name, Subresource: "scale"}, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("reading scale of %s %s: %w", f.Plural, ref.Name, err)
		}
		if s, ok := o.(*autoscaling.Scale); ok {
			return s.Spec.Replicas, nil
		}
	}
	return 0, fmt.Errorf("%s.%s does not implement the scale subresource", ref.Kind, gv.Group)
}
