package admission

import (
	"context"

	core "k8s.io/api/core/v1"

	"orch/gpu/share"
	"orch/server/registry"
)

// gpuShares writes what a pod asks of parts of GPUs in one spelling, so that scheduler,
// quota and node read limits and nothing else, and refuses what no card can give. A
// mirror of a static pod stays as it is on its node.
func (l *List) gpuShares(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create || p.Annotations[core.MirrorPodAnnotationKey] != "" {
		return nil
	}
	if _, err := share.Normalize(p); err != nil {
		return forbidden(a, err)
	}
	return nil
}

// gpuSharesCheck looks again: a webhook may have written limits since.
func (l *List) gpuSharesCheck(_ context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create {
		return nil
	}
	if _, err := share.Normalize(p.DeepCopy()); err != nil {
		return forbidden(a, err)
	}
	return nil
}
