package admission

import (
	"context"
	"slices"
	"strings"

	authn "k8s.io/api/authentication/v1"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
	"orch/server/access"
	"orch/server/pki"
	"orch/server/registry"
)

// nodeRestriction narrows what a node may write to its own object, its own lease
// and the pods bound to it. Access has decided about kinds and names already; here
// the content counts.
func (l *List) nodeRestriction(_ context.Context, a *registry.Attributes) error {
	node, is := access.NodeOf(a.User)
	if !is || a.Operation == registry.Connect {
		return nil
	}
	switch a.Resource.Facts {
	case api.Pods.Facts:
		return l.restrictPod(node, a)
	case api.Nodes.Facts:
		return restrictNode(node, a)
	case api.ServiceAccounts.Facts:
		if a.Subresource == "token" {
			return l.restrictToken(a, node)
		}
	case api.Leases.Facts:
		return restrictOwn(node, a, core.NamespaceNodeLease)
	case api.CSINodes.Facts:
		return restrictOwn(node, a, "")
	case api.PersistentVolumeClaims.Facts:
		return restrictClaim(node, a)
	case api.CertificateSigningRequests.Facts:
		return restrictRequest(node, a)
	case api.ResourceSlices.Facts:
		return restrictSlice(node, a)
	case api.PodCertificateRequests.Facts:
		return l.restrictPodRequest(node, a)
	case api.ResourceClaims.Facts:
		return restrictDevices(node, a)
	}
	return nil
}

func (l *List) restrictPod(node string, a *registry.Attributes) error {
	switch {
	case a.Subresource == "" && a.Operation == registry.Create:
		return l.mirrorOnly(node, a)
	case a.Subresource == "" && a.Operation == registry.Delete:
		p := l.podOf(a)
		if p != nil && p.Spec.NodeName != node {
			return forbid(a, "node %q can only delete pods with spec.nodeName set to itself", node)
		}
		return nil
	case a.Subresource == "status" && a.Operation == registry.Update:
		o, n := old[core.Pod](a), podIn(a.Object)
		if o == nil || o.Spec.NodeName != node {
			return forbid(a, "node %q can only update pod status for pods with spec.nodeName set to itself", node)
		}
		if n != nil && !equality.Semantic.DeepEqual(o.Labels, n.Labels) {
			return forbid(a, "node %q cannot update labels through pod status", node)
		}
		if n != nil {
			return restrictClaims(node, a, &o.Status, &n.Status)
		}
		return nil
	case a.Subresource == "eviction" && a.Operation == registry.Create:
		name := a.Name
		if e, ok := a.Object.(*policy.Eviction); ok && name == "" {
			name = e.Name
		}
		if p := client.Cached(l.cache, api.Pods, a.Namespace, name); p != nil && p.Spec.NodeName != node {
			return forbid(a, "node %s can only evict pods with spec.nodeName set to itself", node)
		}
		return nil
	}
	return forbid(a, "unexpected operation %q, node %q can only create and delete mirror pods", a.Operation, node)
}

// restrictDevices: a node that says in a claim's status how its devices are says nothing else there.
// For which drivers it may speak, and who allocates, deviceStatus looks at.
func restrictDevices(node string, a *registry.Attributes) error {
	was := old[resource.ResourceClaim](a)
	is, _ := a.Object.(*resource.ResourceClaim)
	if a.Subresource != "status" || a.Operation != registry.Update || was == nil || is == nil {
		return forbid(a, "node %q can only update the status of resource claims", node)
	}
	same := equality.Semantic.DeepEqual
	if !same(was.Labels, is.Labels) || !same(was.Annotations, is.Annotations) || !same(was.Finalizers, is.Finalizers) || !same(was.OwnerReferences, is.OwnerReferences) {
		return forbid(a, "node %q cannot update metadata through the status of a resource claim", node)
	}
	return nil
}

// restrictClaims: which claims a pod has is not the node's to say; it may read those that are named.
func restrictClaims(node string, a *registry.Attributes, old, now *core.PodStatus) error {
	switch same := equality.Semantic.DeepEqual; {
	case !same(old.ResourceClaimStatuses, now.ResourceClaimStatuses):
		return forbid(a, "node %q cannot update resource claim statues", node) // upstream's spelling
	case !same(old.ExtendedResourceClaimStatus, now.ExtendedResourceClaimStatus):
		return forbid(a, "node %q cannot update extended resource claim status", node)
	case !same(old.NodeAllocatableResourceClaimStatuses, now.NodeAllocatableResourceClaimStatuses):
		return forbid(a, "node %q cannot update node allocatable resource claim statuses", node)
	}
	return nil
}

func podIn(o any) *core.Pod { p, _ := o.(*core.Pod); return p }

func (l *List) podOf(a *registry.Attributes) *core.Pod {
	if p := old[core.Pod](a); p != nil {
		return p
	}
	return client.Cached(l.cache, api.Pods, a.Namespace, a.Name)
}

// mirrorOnly: the pods that a node creates stand for its static pods, and give it
// access to nothing.
func (l *List) mirrorOnly(node string, a *registry.Attributes) error {
	p := podIn(a.Object)
	if p == nil {
		return forbidden(a, errNoPod)
	}
	if _, ok := p.Annotations[core.MirrorPodAnnotationKey]; !ok {
		return forbid(a, "pod does not have %q annotation, node %q can only create mirror pods", core.MirrorPodAnnotationKey, node)
	}
	if p.Spec.NodeName != node {
		return forbid(a, "node %q can only create pods with spec.nodeName set to itself", node)
	}
	// Before its owner, so that what it would open is what the answer says.
	if what := referred(p); what != "" {
		return forbid(a, "node %q can not create pods that reference %s", node, what)
	}
	return l.mirrorOwner(node, a, p.OwnerReferences)
}

// mirrorOwner: the node itself, as it is now, owns its mirror pods.
func (l *List) mirrorOwner(node string, a *registry.Attributes, owners []metav1.OwnerReference) error {
	switch len(owners) {
	case 0:
		return forbid(a, "node %q can only create pods with an owner reference set to itself", node)
	case 1:
	default:
		return forbid(a, "node %q can only create pods with a single owner reference set to itself", node)
	}
	o := owners[0]
	switch {
	case o.APIVersion != "v1" || o.Kind != "Node" || o.Name != node:
		return forbid(a, "node %q can only create pods with an owner reference set to itself", node)
	case o.Controller == nil || !*o.Controller:
		return forbid(a, "node %q can only create pods with a controller owner reference set to itself", node)
	case o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion:
		return forbid(a, "node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	n := client.Cached(l.cache, api.Nodes, "", node)
	if n == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, node)
	}
	if n.UID != o.UID {
		return forbid(a, "node %s UID mismatch: expected %s got %s", node, o.UID, n.UID)
	}
	return nil
}

func restrictNode(node string, a *registry.Attributes) error {
	name := nameOf(a)
	if name != node {
		return forbid(a, "node %q is not allowed to modify node %q", node, name)
	}
	n, ok := a.Object.(*core.Node)
	if !ok {
		return nil // a deletion, which access has refused before
	}
	o := old[core.Node](a)
	if a.Operation == registry.Create {
		if bad := guardedLabels(n.Labels, nil); len(bad) > 0 {
			return forbid(a, "node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", "))
		}
		return nil
	}
	if o == nil {
		return nil
	}
	if !equality.Semantic.DeepEqual(o.Spec.Taints, n.Spec.Taints) {
		return forbid(a, "node %q is not allowed to modify taints", node)
	}
	if !equality.Semantic.DeepEqual(o.OwnerReferences, n.OwnerReferences) {
		return forbid(a, "node %q is not allowed to modify ownerReferences", node)
	}
	if bad := guardedLabels(n.Labels, o.Labels); len(bad) > 0 {
		return forbid(a, "node %q is not allowed to modify labels: %s", node, strings.Join(bad, ", "))
	}
	return nil
}

// nodeLabels under kubernetes.io and k8s.io are those that a node may set itself.
var nodeLabels = []string{
	core.LabelHostname, core.LabelTopologyZone, core.LabelTopologyRegion, core.LabelFailureDomainBetaZone, core.LabelFailureDomainBetaRegion,
	core.LabelInstanceType, core.LabelInstanceTypeStable, core.LabelOSStable, core.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch", core.LabelWindowsBuild,
	// What Node Feature Discovery says of NVIDIA's devices on the bus: upstream its server writes
	// it, with what the node's worker told; here the node is the worker.
	"feature.node.kubernetes.io/pci-10de.present", "feature.node.kubernetes.io/pci-0300_10de.present", "feature.node.kubernetes.io/pci-0302_10de.present",
}

// guardedLabels lists changed labels that a node may not set: those that other
// parts trust, such as node-restriction.kubernetes.io/ and roles.
func guardedLabels(now, before map[string]string) []string {
	var bad []string
	check := func(k string) {
		v, there := now[k]
		w, was := before[k]
		if there == was && v == w {
			return
		}
		domain, _, ok := strings.Cut(k, "/")
		if !ok || slices.Contains(nodeLabels, k) || inDomain(domain, "kubelet.kubernetes.io") || inDomain(domain, "node.kubernetes.io") {
			return
		}
		if inDomain(domain, "kubernetes.io") || inDomain(domain, "k8s.io") {
			bad = append(bad, k)
		}
	}
	for k := range now {
		check(k)
	}
	for k := range before {
		if _, there := now[k]; !there {
			check(k)
		}
	}
	slices.Sort(bad)
	return bad
}

func inDomain(domain, of string) bool { return domain == of || strings.HasSuffix(domain, "."+of) }

// restrictToken: a node gets tokens only for pods bound to it.
func (l *List) restrictToken(a *registry.Attributes, node string) error {
	t, ok := a.Object.(*authn.TokenRequest)
	if !ok {
		return nil
	}
	r := t.Spec.BoundObjectRef
	if r == nil || r.APIVersion != "v1" || r.Kind != "Pod" || r.Name == "" {
		return forbid(a, "node requested token not bound to a pod")
	}
	if r.UID == "" {
		return forbid(a, "node requested token with a pod binding without a uid")
	}
	p := client.Cached(l.cache, api.Pods, a.Namespace, r.Name)
	switch {
	case p == nil:
		return forbid(a, "node requested token bound to a pod %s/%s that does not exist", a.Namespace, r.Name)
	case p.UID != r.UID:
		return forbid(a, "the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", r.UID)
	case p.Spec.NodeName != node:
		return forbid(a, "node requested token bound to a pod scheduled on a different node")
	}
	return l.restrictAudience(a, node, p, t.Spec.Audiences)
}

// restrictOwn: an object that has the node's name, in one namespace.
func restrictOwn(node string, a *registry.Attributes, namespace string) error {
	if namespace != "" && a.Namespace != namespace {
		return forbid(a, "can only access leases in the %q system namespace", namespace)
	}
	if nameOf(a) == node {
		return nil
	}
	if namespace != "" {
		return forbid(a, "can only access node lease with the same name as the requesting node")
	}
	return forbid(a, "can only access CSINode with the same name as the requesting node")
}

// restrictClaim: after growing a file system a node reports its size, nothing else.
func restrictClaim(node string, a *registry.Attributes) error {
	if a.Operation != registry.Update || a.Subresource != "status" {
		return forbid(a, "unexpected operation %q, node %q can only update PersistentVolumeClaim status", a.Operation, node)
	}
	n, ok := a.Object.(*core.PersistentVolumeClaim)
	o := old[core.PersistentVolumeClaim](a)
	if !ok || o == nil {
		return nil
	}
	n, o = n.DeepCopy(), o.DeepCopy()
	for _, c := range []*core.PersistentVolumeClaim{n, o} {
		c.Status.Capacity, c.Status.Conditions, c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil, nil, nil
		c.ManagedFields, c.ResourceVersion = nil, ""
	}
	if !equality.Semantic.DeepEqual(o, n) {
		return forbid(a, "node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

// restrictRequest: a node asks for certificates of its own name only.
func restrictRequest(node string, a *registry.Attributes) error {
	c, ok := object[certificates.CertificateSigningRequest](a)
	if !ok || a.Operation != registry.Create {
		return nil
	}
	if c.Spec.SignerName != certificates.KubeletServingSignerName && c.Spec.SignerName != certificates.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	r, err := pki.ParseRequest(c.Spec.Request)
	if err != nil {
		return forbid(a, "unable to parse csr: %w", err)
	}
	if r.Subject.CommonName != api.UserNodePrefix+node {
		return forbid(a, "can only create a node CSR with CN=%s", api.UserNodePrefix+node)
	}
	return nil
}
