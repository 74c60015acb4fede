package admission

import (
	"context"

	core "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	scheduling "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// priority turns a pod's class into its number.
func (l *List) priority(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok {
		return nil
	}
	if a.Operation == registry.Update {
		if o := old[core.Pod](a); o != nil {
			if p.Spec.Priority == nil {
				p.Spec.Priority = o.Spec.Priority
			}
			if p.Spec.PreemptionPolicy == nil {
				p.Spec.PreemptionPolicy = o.Spec.PreemptionPolicy
			}
		}
		return nil
	}
	if a.Operation != registry.Create {
		return nil
	}
	value, policy := int32(0), core.PreemptLowerPriority
	var class *scheduling.PriorityClass
	if p.Spec.PriorityClassName == "" {
		if class = l.defaultPriority(); class != nil {
			p.Spec.PriorityClassName = class.Name
		}
	} else if class = client.Cached(l.cache, api.PriorityClasses, "", p.Spec.PriorityClassName); class == nil {
		return forbid(a, "no PriorityClass with name %v was found", p.Spec.PriorityClassName)
	}
	if class != nil {
		value = class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if p.Spec.Priority != nil && *p.Spec.Priority != value {
		return forbid(a, "the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p.Spec.Priority, value)
	}
	if p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy != policy {
		return forbid(a, "the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p.Spec.PreemptionPolicy, policy)
	}
	p.Spec.Priority, p.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// defaultPriority is the global default class; of several the lowest.
func (l *List) defaultPriority() *scheduling.PriorityClass {
	var best *scheduling.PriorityClass
	for _, c := range client.CachedList(l.cache, api.PriorityClasses, "", nil) {
		if c.GlobalDefault && (best == nil || c.Value < best.Value) {
			best = c
		}
	}
	return best
}

// priorityClass: there is one global default at most.
func (l *List) priorityClass(_ context.Context, a *registry.Attributes) error {
	c, ok := object[scheduling.PriorityClass](a)
	if !ok || !c.GlobalDefault || (a.Operation != registry.Create && a.Operation != registry.Update) {
		return nil
	}
	if d := l.defaultPriority(); d != nil && d.Name != c.Name {
		return forbid(a, "PriorityClass %v is already marked as default. Only one default can exist", d.Name)
	}
	return nil
}

// defaultTolerations lets pods stay five minutes on a node that is not heard of.
func (l *List) defaultTolerations(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || (a.Operation != registry.Create && a.Operation != registry.Update) {
		return nil
	}
	for _, key := range []string{core.TaintNodeNotReady, core.TaintNodeUnreachable} {
		if !toleratesEviction(p, key) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, core.Toleration{
				Key: key, Operator: core.TolerationOpExists, Effect: core.TaintEffectNoExecute, TolerationSeconds: new(int64(300)),
			})
		}
	}
	return nil
}

func toleratesEviction(p *core.Pod, key string) bool {
	for _, t := range p.Spec.Tolerations {
		if (t.Key == key || t.Key == "") && (t.Effect == core.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// taintNewNode keeps pods away until the node lifecycle controller has seen it ready.
func (l *List) taintNewNode(_ context.Context, a *registry.Attributes) error {
	n, ok := object[core.Node](a)
	if !ok || a.Operation != registry.Create {
		return nil
	}
	for _, t := range n.Spec.Taints {
		if t.Key == core.TaintNodeNotReady && t.Effect == core.TaintEffectNoSchedule {
			return nil
		}
	}
	n.Spec.Taints = append(n.Spec.Taints, core.Taint{Key: core.TaintNodeNotReady, Effect: core.TaintEffectNoSchedule})
	return nil
}

// runtimeClass gives a pod the overhead, node selector and tolerations of its class.
func (l *List) runtimeClass(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create || p.Spec.RuntimeClassName == nil {
		return nil
	}
	c := client.Cached(l.cache, api.RuntimeClasses, "", *p.Spec.RuntimeClassName)
	if c == nil {
		return forbid(a, "pod rejected: RuntimeClass %q not found", *p.Spec.RuntimeClassName)
	}
	if c.Overhead != nil && len(p.Spec.Overhead) == 0 {
		p.Spec.Overhead = c.Overhead.PodFixed.DeepCopy()
	}
	if c.Scheduling == nil {
		return nil
	}
	return applyScheduling(a, p, c)
}

func applyScheduling(a *registry.Attributes, p *core.Pod, c *nodev1.RuntimeClass) error {
	for k, v := range c.Scheduling.NodeSelector {
		if have, there := p.Spec.NodeSelector[k]; there && have != v {
			return forbid(a, "conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, have)
		}
		if p.Spec.NodeSelector == nil {
			p.Spec.NodeSelector = map[string]string{}
		}
		p.Spec.NodeSelector[k] = v
	}
	p.Spec.Tolerations = mergeTolerations(p.Spec.Tolerations, c.Scheduling.Tolerations)
	return nil
}

func (l *List) runtimeClassCheck(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create {
		return nil
	}
	var overhead core.ResourceList
	if p.Spec.RuntimeClassName != nil {
		c := client.Cached(l.cache, api.RuntimeClasses, "", *p.Spec.RuntimeClassName)
		if c == nil {
			return forbid(a, "pod rejected: RuntimeClass %q not found", *p.Spec.RuntimeClassName)
		}
		if c.Overhead != nil {
			overhead = c.Overhead.PodFixed
		}
	}
	switch {
	case len(overhead) == 0 && len(p.Spec.Overhead) > 0:
		return forbid(a, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	case len(overhead) > 0 && !equality.Semantic.DeepEqual(overhead, p.Spec.Overhead):
		return forbid(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	}
	return nil
}
