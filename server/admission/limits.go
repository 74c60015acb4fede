package admission

import (
	"context"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/admission/limits"
	"orch/server/registry"
)

// limitDefaults fills a new pod's requests and limits from the LimitRanges.
func (l *List) limitDefaults(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create {
		return nil
	}
	for _, r := range client.CachedList(l.cache, api.LimitRanges, a.Namespace, nil) {
		if r.DeletionTimestamp == nil {
			limits.Default(p, r)
		}
	}
	return nil
}

// limitCheck refuses pods and claims outside of the LimitRanges.
func (l *List) limitCheck(_ context.Context, a *registry.Attributes) error {
	resize := a.Subresource == "resize"
	if a.Subresource != "" && !resize || a.Operation != registry.Create && a.Operation != registry.Update {
		return nil
	}
	for _, r := range client.CachedList(l.cache, api.LimitRanges, a.Namespace, nil) {
		if r.DeletionTimestamp != nil {
			continue
		}
		var err error
		switch o := a.Object.(type) {
		case *core.Pod:
			if a.Operation == registry.Create || resize { // nothing else changes resources
				err = limits.CheckPod(o, r)
			}
		case *core.PersistentVolumeClaim:
			err = limits.CheckClaim(o, r)
		}
		if err != nil {
			return forbidden(a, err)
		}
	}
	return nil
}

// resourceQuota refuses what would exceed a quota of the namespace.
func (l *List) resourceQuota(_ context.Context, a *registry.Attributes) error {
	if a.Namespace == "" || a.Resource.Computed || (a.Operation != registry.Create && a.Operation != registry.Update) {
		return nil
	}
	if a.Subresource != "" && a.Subresource != "resize" {
		return nil
	}
	o, ok := a.Object.(api.Object)
	if !ok {
		return nil
	}
	before, _ := a.Old.(api.Object)
	over, err := l.quota.Admit(a.Resource.Facts, o, before, a.DryRun)
	if err != nil {
		return forbidden(a, err)
	}
	if over != nil {
		a.OnceOver(over)
	}
	return nil
}
