package access

import (
	"sync"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	storage "k8s.io/api/storage/v1"

	"orch/api"
	"orch/api/client"
)

// ref is something a pod uses, by kind word, namespace and name.
type ref struct{ kind, namespace, name string }

// nodeIndex counts, per node, what its pods use. Volumes are followed at the time
// of the question: claim and volume name each other.
type nodeIndex struct {
	cache client.Cache

	mu sync.RWMutex
	// counts[node][ref] is how many pods of the node use it.
	counts map[string]map[ref]int
	// volumes[ref of a secret] are the persistent volumes that need it.
	volumes map[ref]map[string]bool
}

func newNodeIndex(c client.Cache) *nodeIndex {
	return &nodeIndex{cache: c, counts: map[string]map[ref]int{}, volumes: map[ref]map[string]bool{}}
}

func (x *nodeIndex) pod(c client.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p, ok := c.Old.(*core.Pod); ok && p != nil && p.Spec.NodeName != "" {
		m := x.counts[p.Spec.NodeName]
		podRefs(p, func(r ref) {
			if m[r]--; m[r] <= 0 {
				delete(m, r)
			}
		})
		if len(m) == 0 {
			delete(x.counts, p.Spec.NodeName)
		}
	}
	if p, ok := c.New.(*core.Pod); ok && p != nil && p.Spec.NodeName != "" {
		m := x.counts[p.Spec.NodeName]
		if m == nil {
			m = map[ref]int{}
			x.counts[p.Spec.NodeName] = m
		}
		podRefs(p, func(r ref) { m[r]++ })
	}
}

func (x *nodeIndex) volume(c client.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if v, ok := c.Old.(*core.PersistentVolume); ok && v != nil {
		volumeSecrets(v, func(r ref) {
			delete(x.volumes[r], v.Name)
			if len(x.volumes[r]) == 0 {
				delete(x.volumes, r)
			}
		})
	}
	if v, ok := c.New.(*core.PersistentVolume); ok && v != nil {
		volumeSecrets(v, func(r ref) {
			if x.volumes[r] == nil {
				x.volumes[r] = map[string]bool{}
			}
			x.volumes[r][v.Name] = true
		})
	}
}

func (x *nodeIndex) uses(node string, r ref) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.counts[node][r] > 0
}

// usesVolume: the volume is bound to a claim that a pod of the node uses.
func (x *nodeIndex) usesVolume(node, volume string) bool {
	v := client.Cached(x.cache, api.PersistentVolumes, "", volume)
	if v == nil || v.Spec.ClaimRef == nil {
		return false
	}
	c := client.Cached(x.cache, api.PersistentVolumeClaims, v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)
	if c == nil || c.Spec.VolumeName != volume {
		return false
	}
	return x.uses(node, ref{"claim", c.Namespace, c.Name})
}

func (x *nodeIndex) usesThroughVolume(node, namespace, secret string) bool {
	x.mu.RLock()
	var names []string
	for v := range x.volumes[ref{"secret", namespace, secret}] {
		names = append(names, v)
	}
	x.mu.RUnlock()
	for _, v := range names {
		if x.usesVolume(node, v) {
			return true
		}
	}
	return false
}

func (x *nodeIndex) attachedTo(name string) string {
	if a := client.Cached(x.cache, api.VolumeAttachments, "", name); a != nil {
		return nodeOfAttachment(a)
	}
	return ""
}

func nodeOfAttachment(a *storage.VolumeAttachment) string { return a.Spec.NodeName }

// mayReadPod: bound to the node; or not there at all, so that the answer is the
// 404 that an agent which cleans up waits for.
func (x *nodeIndex) mayReadPod(node, namespace, name string) bool {
	p := client.Cached(x.cache, api.Pods, namespace, name)
	return p == nil || p.Spec.NodeName == node
}

// volumeSecrets calls each for the secrets that a node needs to mount v.
func volumeSecrets(v *core.PersistentVolume, each func(ref)) {
	add := func(s *core.SecretReference) {
		if s != nil && s.Name != "" {
			ns := s.Namespace
			if ns == "" && v.Spec.ClaimRef != nil {
				ns = v.Spec.ClaimRef.Namespace
			}
			each(ref{"secret", ns, s.Name})
		}
	}
	src := &v.Spec.PersistentVolumeSource
	switch {
	case src.CSI != nil:
		add(src.CSI.NodeStageSecretRef)
		add(src.CSI.NodePublishSecretRef)
		add(src.CSI.NodeExpandSecretRef)
	case src.ISCSI != nil:
		add(src.ISCSI.SecretRef)
	case src.CephFS != nil:
		add(src.CephFS.SecretRef)
	case src.RBD != nil:
		add(src.RBD.SecretRef)
	case src.FlexVolume != nil:
		add(src.FlexVolume.SecretRef)
	case src.Cinder != nil:
		add(src.Cinder.SecretRef)
	case src.ScaleIO != nil:
		add(src.ScaleIO.SecretRef)
	case src.StorageOS != nil && src.StorageOS.SecretRef != nil:
		add(&core.SecretReference{Name: src.StorageOS.SecretRef.Name, Namespace: src.StorageOS.SecretRef.Namespace})
	case src.AzureFile != nil:
		ns := ""
		if src.AzureFile.SecretNamespace != nil {
			ns = *src.AzureFile.SecretNamespace
		}
		add(&core.SecretReference{Name: src.AzureFile.SecretName, Namespace: ns})
	}
}

// podRefs calls each for everything the node must read to run p, with repeats.
func podRefs(p *core.Pod, each func(ref)) {
	// Mirror pods are written by nodes themselves: they must not open doors.
	if _, mirror := p.Annotations[core.MirrorPodAnnotationKey]; mirror {
		return
	}
	in := func(kind, name string) {
		if name != "" {
			each(ref{kind, p.Namespace, name})
		}
	}
	in("account", p.Spec.ServiceAccountName)
	for _, s := range p.Spec.ImagePullSecrets {
		in("secret", s.Name)
	}
	env := func(vars []core.EnvVar, from []core.EnvFromSource) {
		for _, e := range vars {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				in("secret", e.ValueFrom.SecretKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				in("configmap", e.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
		for _, f := range from {
			if f.SecretRef != nil {
				in("secret", f.SecretRef.Name)
			}
			if f.ConfigMapRef != nil {
				in("configmap", f.ConfigMapRef.Name)
			}
		}
	}
	for i := range p.Spec.InitContainers {
		env(p.Spec.InitContainers[i].Env, p.Spec.InitContainers[i].EnvFrom)
	}
	for i := range p.Spec.Containers {
		env(p.Spec.Containers[i].Env, p.Spec.Containers[i].EnvFrom)
	}
	for i := range p.Spec.EphemeralContainers {
		env(p.Spec.EphemeralContainers[i].Env, p.Spec.EphemeralContainers[i].EnvFrom)
	}
	for i := range p.Spec.Volumes {
		volumeRefs(p, &p.Spec.Volumes[i], in)
	}
	for _, c := range p.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			in("devices", *c.ResourceClaimName)
		}
	}
	for _, c := range p.Status.ResourceClaimStatuses {
		if c.ResourceClaimName != nil { // made from a template
			in("devices", *c.ResourceClaimName)
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		in("devices", s.ResourceClaimName)
	}
}

// Uses tells whether a pod refers to a kind: secret, configmap, claim, devices, account.
func Uses(p *core.Pod, kind string) bool {
	found := false
	podRefs(p, func(r ref) { found = found || r.kind == kind })
	return found
}

// UsesNamed is Uses of one object.
func UsesNamed(p *core.Pod, kind, name string) bool {
	found := false
	podRefs(p, func(r ref) { found = found || r.kind == kind && r.name == name })
	return found
}

func volumeRefs(p *core.Pod, v *core.Volume, in func(kind, name string)) {
	secret := func(r *core.LocalObjectReference) {
		if r != nil {
			in("secret", r.Name)
		}
	}
	switch {
	case v.Secret != nil:
		in("secret", v.Secret.SecretName)
	case v.ConfigMap != nil:
		in("configmap", v.ConfigMap.Name)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				in("secret", s.Secret.Name)
			}
			if s.ConfigMap != nil {
				in("configmap", s.ConfigMap.Name)
			}
		}
	case v.PersistentVolumeClaim != nil:
		in("claim", v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		in("claim", p.Name+"-"+v.Name)
	case v.CSI != nil:
		secret(v.CSI.NodePublishSecretRef)
	case v.ISCSI != nil:
		secret(v.ISCSI.SecretRef)
	case v.CephFS != nil:
		secret(v.CephFS.SecretRef)
	case v.RBD != nil:
		secret(v.RBD.SecretRef)
	case v.FlexVolume != nil:
		secret(v.FlexVolume.SecretRef)
	case v.AzureFile != nil:
		in("secret", v.AzureFile.SecretName)
	case v.Cinder != nil:
		secret(v.Cinder.SecretRef)
	case v.ScaleIO != nil:
		secret(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		secret(v.StorageOS.SecretRef)
	}
}

// nodeRules is what a node may do beyond nodeRows: the rest of system:node.
var nodeRules = []rbac.PolicyRule{
	{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}},
	{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"localsubjectaccessreviews", "subjectaccessreviews"}},
	{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"services"}},
	{Verbs: []string{"create", "update", "patch"}, APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}},
	{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"endpoints"}},
	{Verbs: []string{"create", "get", "list", "watch"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests"}},
	{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"clustertrustbundles"}},
	{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"storage.k8s.io"}, Resources: []string{"csidrivers"}},
	{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"node.k8s.io"}, Resources: []string{"runtimeclasses"}},
	{Verbs: []string{"create"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/selfnodeclient"}},
}
