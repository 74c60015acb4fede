package daemonset

import (
	"fmt"
	"slices"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// chooser tells on which nodes a set's pods belong.
type chooser struct {
	nodeName    string
	tolerations []core.Toleration
	affinity    nodeaffinity.RequiredNodeAffinity
}

func newChooser(d *apps.DaemonSet) chooser {
	spec := &d.Spec.Template.Spec
	return chooser{nodeName: spec.NodeName, tolerations: tolerations(spec), affinity: nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity)}
}

// wants tells whether a pod should be started on the node, and whether one that is there may stay.
func (c chooser) wants(n *core.Node) (start, stay bool) {
	if c.nodeName != "" && c.nodeName != n.Name {
		return false, false
	}
	if fits, _ := c.affinity.Match(n); !fits { // a term that cannot be read fits nothing
		return false, false
	}
	if c.tolerates(n, core.TaintEffectNoExecute, core.TaintEffectNoSchedule) {
		return true, true
	}
	return false, c.tolerates(n, core.TaintEffectNoExecute)
}

func (c chooser) tolerates(n *core.Node, effects ...core.TaintEffect) bool {
	_, bad := corev1.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, c.tolerations, func(t *core.Taint) bool {
		return slices.Contains(effects, t.Effect)
	}, false)
	return !bad
}

// always are the taints that no pod of a daemon set minds.
var always = []struct {
	key    string
	effect core.TaintEffect
}{
	{core.TaintNodeNotReady, core.TaintEffectNoExecute},
	{core.TaintNodeUnreachable, core.TaintEffectNoExecute},
	{core.TaintNodeDiskPressure, core.TaintEffectNoSchedule},
	{core.TaintNodeMemoryPressure, core.TaintEffectNoSchedule},
	{core.TaintNodePIDPressure, core.TaintEffectNoSchedule},
	{core.TaintNodeUnschedulable, core.TaintEffectNoSchedule},
}

// tolerations of the set's pods: the template's and those that every daemon has.
func tolerations(spec *core.PodSpec) []core.Toleration {
	out := slices.Clone(spec.Tolerations)
	add := func(key string, effect core.TaintEffect) {
		t := core.Toleration{Key: key, Operator: core.TolerationOpExists, Effect: effect}
		same := func(o core.Toleration) bool { return o.MatchToleration(&t) }
		if i := slices.IndexFunc(out, same); i >= 0 {
			out[i] = t
			return
		}
		out = append(out, t)
	}
	for _, a := range always {
		add(a.key, a.effect)
	}
	if spec.HostNetwork {
		add(core.TaintNodeNetworkUnavailable, core.TaintEffectNoSchedule)
	}
	return out
}

// target is the node that a pod of the set is for: where it is bound, or the one
// that its affinity names.
func target(p *core.Pod) (string, bool) {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName, true
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return "", false
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, m := range term.MatchFields {
			if m.Key == metav1.ObjectNameField && m.Operator == core.NodeSelectorOpIn {
				return m.Values[0], len(m.Values) == 1
			}
		}
	}
	return "", false
}

// template is the set's template as its pods have it: with the hash of its
// revision, the deprecated generation where the set still has it, and every daemon's tolerations.
func template(d *apps.DaemonSet, hash string) *core.PodTemplateSpec {
	t := d.Spec.Template.DeepCopy()
	t.Spec.Tolerations = tolerations(&t.Spec)
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	if g, ok := generation(d); ok {
		t.Labels[generationLabel] = fmt.Sprint(g)
	}
	t.Labels[apps.DefaultDaemonSetUniqueLabelKey] = hash
	return t
}

// forNode pins a pod made of the template to the node.
func forNode(p *core.Pod, node string) {
	selector := &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{MatchFields: []core.NodeSelectorRequirement{
		{Key: metav1.ObjectNameField, Operator: core.NodeSelectorOpIn, Values: []string{node}},
	}}}}
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &core.Affinity{}
	}
	if p.Spec.Affinity.NodeAffinity == nil {
		p.Spec.Affinity.NodeAffinity = &core.NodeAffinity{}
	}
	p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = selector
}
