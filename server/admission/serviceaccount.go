package admission

import (
	"context"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"

	"orch/api"
	"orch/api/client"
	"orch/server/access"
	"orch/server/registry"
)

const (
	defaultAccount = "default"
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume    = "kube-api-access-"
	// accountWait is how long a pod's creation waits for the default account of a
	// namespace that was made a moment ago.
	accountWait = time.Second
)

// serviceAccount gives a new pod its account, the account's pull secrets, and the
// volume with the token.
func (l *List) serviceAccount(ctx context.Context, a *registry.Attributes) error {
	p, ok := object[core.Pod](a)
	if !ok || a.Operation != registry.Create {
		return nil
	}
	if _, mirror := p.Annotations[core.MirrorPodAnnotationKey]; mirror {
		return nil
	}
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = defaultAccount
	}
	p.Spec.DeprecatedServiceAccount = p.Spec.ServiceAccountName
	sa, err := l.account(ctx, a, p.Spec.ServiceAccountName)
	if err != nil {
		return err
	}
	if wantsToken(p, sa) {
		mountToken(p)
	}
	if len(p.Spec.ImagePullSecrets) == 0 {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, sa.ImagePullSecrets...)
	}
	return nil
}

// account finds it, or waits a moment for a controller to make it.
func (l *List) account(ctx context.Context, a *registry.Attributes, name string) (*core.ServiceAccount, error) {
	var timeout <-chan time.Time
	for {
		changed := l.accounts.wait()
		if sa := client.Cached(l.cache, api.ServiceAccounts, a.Namespace, name); sa != nil {
			return sa, nil
		}
		missing := apierrors.NewNotFound(schemaServiceAccount, name)
		refusal := forbid(a, "error looking up service account %s/%s: %w", a.Namespace, name, missing)
		if name != defaultAccount {
			return nil, refusal
		}
		if timeout == nil {
			t := time.NewTimer(accountWait)
			defer t.Stop() //nolint:gocritic // once: timeout is nil only the first time
			timeout = t.C
		}
		select {
		case <-changed:
		case <-timeout:
			return nil, refusal
		case <-ctx.Done():
			return nil, refusal
		}
	}
}

// schemaServiceAccount: upstream's lookup error uses the singular.
var schemaServiceAccount = schema.GroupResource{Resource: "serviceaccount"}

func wantsToken(p *core.Pod, sa *core.ServiceAccount) bool {
	if p.Spec.AutomountServiceAccountToken != nil {
		return *p.Spec.AutomountServiceAccountToken
	}
	return sa.AutomountServiceAccountToken == nil || *sa.AutomountServiceAccountToken
}

// mountToken adds the volume where a container does not mount something of its own there.
func mountToken(p *core.Pod) {
	name := ""
	taken := map[string]bool{}
	for _, v := range p.Spec.Volumes {
		taken[v.Name] = true
	}
	for name == "" || taken[name] {
		name = tokenVolume + rand.String(5)
	}
	used := false
	mount := func(list []core.Container) {
	next:
		for i := range list {
			for _, m := range list[i].VolumeMounts {
				if m.MountPath == tokenMountPath {
					continue next
				}
			}
			list[i].VolumeMounts = append(list[i].VolumeMounts, core.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			used = true
		}
	}
	mount(p.Spec.InitContainers)
	mount(p.Spec.Containers)
	if used {
		p.Spec.Volumes = append(p.Spec.Volumes, core.Volume{Name: name, VolumeSource: core.VolumeSource{Projected: tokenSources()}})
	}
}

func tokenSources() *core.ProjectedVolumeSource {
	return &core.ProjectedVolumeSource{
		DefaultMode: new(core.ProjectedVolumeSourceDefaultMode),
		Sources: []core.VolumeProjection{
			{ServiceAccountToken: &core.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(access.PodTokenSeconds))}},
			{ConfigMap: &core.ConfigMapProjection{
				LocalObjectReference: core.LocalObjectReference{Name: api.RootCAConfigMap},
				Items:                []core.KeyToPath{{Key: core.ServiceAccountRootCAKey, Path: core.ServiceAccountRootCAKey}},
			}},
			{DownwardAPI: &core.DownwardAPIProjection{Items: []core.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &core.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}
}
