package admission

import (
	"context"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	storage "k8s.io/api/storage/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

const (
	defaultStorage     = "storageclass.kubernetes.io/is-default-class"
	defaultStorageBeta = "storageclass.beta.kubernetes.io/is-default-class"
	legacyIngressClass = "kubernetes.io/ingress.class"
)

// newest picks the default of several: the youngest, then by name.
func newest[T any, P client.PtrTo[T]](list []*T, isDefault func(*T) bool) *T {
	var best *T
	for _, o := range list {
		if !isDefault(o) {
			continue
		}
		if best == nil {
			best = o
			continue
		}
		b, c := P(best).GetCreationTimestamp(), P(o).GetCreationTimestamp()
		if b.Before(&c) || (b.Equal(&c) && P(o).GetName() < P(best).GetName()) {
			best = o
		}
	}
	return best
}

func (l *List) defaultStorageClass(_ context.Context, a *registry.Attributes) error {
	c, ok := object[core.PersistentVolumeClaim](a)
	if !ok || a.Operation != registry.Create || c.Spec.StorageClassName != nil {
		return nil
	}
	if _, legacy := c.Annotations[core.BetaStorageClassAnnotation]; legacy {
		return nil
	}
	best := newest(client.CachedList(l.cache, api.StorageClasses, "", nil), func(s *storage.StorageClass) bool {
		return s.Annotations[defaultStorage] == "true" || s.Annotations[defaultStorageBeta] == "true"
	})
	if best != nil {
		c.Spec.StorageClassName = &best.Name
	}
	return nil
}

func (l *List) defaultIngressClass(_ context.Context, a *registry.Attributes) error {
	i, ok := object[networking.Ingress](a)
	if !ok || a.Operation != registry.Create || i.Spec.IngressClassName != nil {
		return nil
	}
	if _, legacy := i.Annotations[legacyIngressClass]; legacy {
		return nil
	}
	best := newest(client.CachedList(l.cache, api.IngressClasses, "", nil), func(c *networking.IngressClass) bool {
		return c.Annotations[networking.AnnotationIsDefaultIngressClass] == "true"
	})
	if best != nil {
		i.Spec.IngressClassName = &best.Name
	}
	return nil
}

// claimResize: a bound claim may ask for more, where its class can grow volumes.
func (l *List) claimResize(_ context.Context, a *registry.Attributes) error {
	c, ok := object[core.PersistentVolumeClaim](a)
	o := old[core.PersistentVolumeClaim](a)
	if !ok || o == nil || a.Operation != registry.Update {
		return nil
	}
	now, before := c.Spec.Resources.Requests[core.ResourceStorage], o.Spec.Resources.Requests[core.ResourceStorage]
	if now.Cmp(before) <= 0 {
		return nil
	}
	if o.Status.Phase != core.ClaimBound {
		return forbid(a, "Only bound persistent volume claims can be expanded")
	}
	class := classOf(c)
	if s := client.Cached(l.cache, api.StorageClasses, "", class); class == "" || class != classOf(o) || s == nil || s.AllowVolumeExpansion == nil || !*s.AllowVolumeExpansion {
		return forbid(a, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	}
	return nil
}

// classOf is the name of a claim's class, by the annotation that was there before the field.
func classOf(c *core.PersistentVolumeClaim) string {
	if class, legacy := c.Annotations[core.BetaStorageClassAnnotation]; legacy {
		return class
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}

// serviceAllocation gives a Service its addresses and ports.
func (l *List) serviceAllocation(_ context.Context, a *registry.Attributes) error {
	s, ok := object[core.Service](a)
	if !ok || (a.Operation != registry.Create && a.Operation != registry.Update) {
		return nil
	}
	if s.Namespace == "" {
		s.Namespace = a.Namespace
	}
	return l.cfg.Services.Complete(s, old[core.Service](a), a.DryRun)
}
