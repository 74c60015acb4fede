package admission

import (
	"context"
	"slices"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// onlyMountable is set on an account whose pods may use no secrets but those it lists.
const onlyMountable = "kubernetes.io/enforce-mountable-secrets"

// serviceAccountCheck: mirror pods, which nodes write, may not name an account or
// anything that one could read through it; pods of some accounts may use those secrets only
// that the account lists.
func (l *List) serviceAccountCheck(_ context.Context, a *registry.Attributes) error {
	p, ok := a.Object.(*core.Pod)
	whole := a.Subresource == "" && a.Operation == registry.Create
	debug := a.Subresource == "ephemeralcontainers" && a.Operation == registry.Update
	if !ok || p == nil || !whole && !debug {
		return nil
	}
	if _, mirror := p.Annotations[core.MirrorPodAnnotationKey]; mirror {
		if debug {
			return nil
		}
		return mirrorAccount(a, p)
	}
	sa := client.Cached(l.cache, api.ServiceAccounts, a.Namespace, p.Spec.ServiceAccountName)
	if sa == nil || sa.Annotations[onlyMountable] != "true" {
		return nil
	}
	m := mountable{a, sa}
	if debug {
		for _, c := range p.Spec.EphemeralContainers {
			if err := m.env("ephemeral container", c.Name, c.Env); err != nil {
				return err
			}
		}
		return nil
	}
	return m.pod(p)
}

func mirrorAccount(a *registry.Attributes, p *core.Pod) error {
	if p.Spec.ServiceAccountName != "" {
		return forbid(a, "a mirror pod may not reference service accounts")
	}
	for _, v := range p.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return forbid(a, "a mirror pod may not use ServiceAccountToken volume projections")
			}
		}
	}
	return nil
}

// mountable asks what an account lists.
type mountable struct {
	a  *registry.Attributes
	sa *core.ServiceAccount
}

func (m mountable) lists(name string) bool {
	return slices.ContainsFunc(m.sa.Secrets, func(r core.ObjectReference) bool { return r.Name == name })
}

func (m mountable) pod(p *core.Pod) error {
	for _, v := range p.Spec.Volumes {
		if v.Secret != nil && !m.lists(v.Secret.SecretName) {
			return forbid(m.a, "volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, m.sa.Name)
		}
	}
	for _, c := range p.Spec.InitContainers {
		if err := m.env("init container", c.Name, c.Env); err != nil {
			return err
		}
	}
	for _, c := range p.Spec.Containers {
		if err := m.env("container", c.Name, c.Env); err != nil {
			return err
		}
	}
	for i, r := range p.Spec.ImagePullSecrets {
		if !slices.Contains(m.sa.ImagePullSecrets, r) {
			return forbid(m.a, "imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, r.Name, m.sa.Name)
		}
	}
	return nil
}

func (m mountable) env(kind, container string, list []core.EnvVar) error {
	for _, e := range list {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !m.lists(e.ValueFrom.SecretKeyRef.Name) {
			return forbid(m.a, "%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
				kind, container, e.Name, e.ValueFrom.SecretKeyRef.Name, m.sa.Name)
		}
	}
	return nil
}
