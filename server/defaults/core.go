package defaults

import (
	"maps"

	core "k8s.io/api/core/v1"
)

// ReplicationController takes selector and labels from the template.
func ReplicationController(o *core.ReplicationController) {
	point(&o.Spec.Replicas, 1)
	if o.Spec.Template == nil {
		return
	}
	PodTemplate(o.Spec.Template)
	if l := o.Spec.Template.Labels; l != nil {
		if len(o.Spec.Selector) == 0 {
			o.Spec.Selector = maps.Clone(l)
		}
		if len(o.Labels) == 0 {
			o.Labels = maps.Clone(l)
		}
	}
}

// Node lets a node offer all it has, where it does not say otherwise.
func Node(o *core.Node) {
	roundUp(o.Status.Capacity)
	roundUp(o.Status.Allocatable)
	if o.Status.Allocatable == nil && o.Status.Capacity != nil {
		o.Status.Allocatable = o.Status.Capacity.DeepCopy()
	}
	switch s := &o.Spec; {
	case s.PodCIDR != "" && len(s.PodCIDRs) == 0:
		s.PodCIDRs = []string{s.PodCIDR}
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	}
}

// Namespace labels a namespace with its name and starts it as Active.
func Namespace(o *core.Namespace) {
	if o.Name != "" {
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[core.LabelMetadataName] = o.Name
	}
	fill(&o.Status.Phase, core.NamespaceActive)
}

// Secret types a secret and folds the write-only stringData into data.
func Secret(o *core.Secret) {
	fill(&o.Type, core.SecretTypeOpaque)
	if len(o.StringData) > 0 && o.Data == nil {
		o.Data = make(map[string][]byte, len(o.StringData))
	}
	for k, v := range o.StringData {
		o.Data[k] = []byte(v)
	}
	o.StringData = nil
}

// ResourceQuota rounds its figures.
func ResourceQuota(o *core.ResourceQuota) {
	roundUp(o.Spec.Hard)
	roundUp(o.Status.Hard)
	roundUp(o.Status.Used)
}

// LimitRange derives container defaults from maxima and minima.
func LimitRange(o *core.LimitRange) {
	for i := range o.Spec.Limits {
		item := &o.Spec.Limits[i]
		for _, l := range []core.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			roundUp(l)
		}
		if item.Type != core.LimitTypeContainer {
			continue
		}
		if item.Default == nil {
			item.Default = core.ResourceList{}
		}
		if item.DefaultRequest == nil {
			item.DefaultRequest = core.ResourceList{}
		}
		inherit(item.Default, item.Max)
		inherit(item.DefaultRequest, item.Default)
		inherit(item.DefaultRequest, item.Min)
	}
}
