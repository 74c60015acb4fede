package access

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// nodeOf returns the name of the node that the user is.
func nodeOf(u registry.User) (string, bool) {
	name, ok := strings.CutPrefix(u.Name, api.UserNodePrefix)
	return name, ok && name != "" && slices.Contains(u.Groups, api.GroupNodes)
}

// NodeOf is nodeOf for admission.
func NodeOf(u registry.User) (string, bool) { return nodeOf(u) }

// allows decides for a node, as upstream's node authorizer does: what belongs to
// pods bound to the node by the index, its own objects by name, the rest by rules.
// Admission (node restriction) narrows writes further.
func (x *nodeIndex) allows(node string, at *Attributes) (bool, string) {
	if at.Resource != "" {
		if row, ok := nodeRows[at.Group+"/"+at.Resource]; ok {
			return row(x, node, at)
		}
	}
	for i := range nodeRules {
		if ruleAllows(&nodeRules[i], at) {
			return true, ""
		}
	}
	return false, ""
}

// nodeRows are the resources to which a node has access object by object.
var nodeRows = map[string]func(x *nodeIndex, node string, at *Attributes) (bool, string){
	"/secrets":                   func(x *nodeIndex, n string, at *Attributes) (bool, string) { return x.readNamed(n, "secret", at) },
	"/configmaps":                func(x *nodeIndex, n string, at *Attributes) (bool, string) { return x.readNamed(n, "configmap", at) },
	"/persistentvolumeclaims":    (*nodeIndex).claim,
	"/persistentvolumes":         (*nodeIndex).persistentVolume,
	"/serviceaccounts":           (*nodeIndex).serviceAccount,
	"/nodes":                     (*nodeIndex).node,
	"/pods":                      (*nodeIndex).pods,
	"coordination.k8s.io/leases": (*nodeIndex).lease,
	"certificates.k8s.io/podcertificaterequests": (*nodeIndex).podRequest,
	"storage.k8s.io/csinodes":                    (*nodeIndex).csiNode,
	"storage.k8s.io/volumeattachments":           (*nodeIndex).attachment,
	"resource.k8s.io/resourceclaims":             (*nodeIndex).deviceClaim,
	"resource.k8s.io/resourceslices":             (*nodeIndex).deviceSlice,
}

func unrelated(node string) (bool, string) {
	return false, fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

// readNamed: get, or a list or watch of one name, of an object that a pod of the node uses.
func (x *nodeIndex) readNamed(node, kind string, at *Attributes) (bool, string) {
	switch {
	case at.Verb != "get" && at.Verb != "list" && at.Verb != "watch":
		return false, "can only read resources of this type"
	case at.Subresource != "":
		return false, "cannot read subresource"
	case at.Namespace == "":
		return false, "can only read namespaced object of this type"
	case at.Name == "":
		return false, "No Object name found"
	}
	if x.uses(node, ref{kind, at.Namespace, at.Name}) {
		return true, ""
	}
	if kind == "secret" && x.usesThroughVolume(node, at.Namespace, at.Name) {
		return true, ""
	}
	return unrelated(node)
}

func getOne(at *Attributes) (bool, string) {
	switch {
	case at.Verb != "get":
		return false, "can only get individual resources of this type"
	case at.Subresource != "":
		return false, "cannot get subresource"
	case at.Name == "":
		return false, "No Object name found"
	}
	return true, ""
}

func (x *nodeIndex) claim(node string, at *Attributes) (bool, string) {
	if at.Subresource == "status" {
		if at.Verb != "update" && at.Verb != "patch" {
			return false, "can only get/update/patch this type"
		}
	} else if ok, why := getOne(at); !ok {
		return false, why
	}
	if x.uses(node, ref{"claim", at.Namespace, at.Name}) {
		return true, ""
	}
	return unrelated(node)
}

func (x *nodeIndex) persistentVolume(node string, at *Attributes) (bool, string) {
	if ok, why := getOne(at); !ok {
		return false, why
	}
	if x.usesVolume(node, at.Name) {
		return true, ""
	}
	return unrelated(node)
}

func (x *nodeIndex) attachment(node string, at *Attributes) (bool, string) {
	if ok, why := getOne(at); !ok {
		return false, why
	}
	if x.attachedTo(at.Name) == node {
		return true, ""
	}
	return unrelated(node)
}

func (x *nodeIndex) serviceAccount(node string, at *Attributes) (bool, string) {
	switch {
	case at.Verb == "get" && at.Subresource == "":
		return x.readNamed(node, "account", at) // for credentials of image pulls and pod certificates
	case at.Verb != "create" || at.Name == "":
		return false, "can only create tokens for individual service accounts"
	case at.Subresource != "token":
		return false, "can only create token subresource of serviceaccount"
	}
	if x.uses(node, ref{"account", at.Namespace, at.Name}) {
		return true, ""
	}
	return unrelated(node)
}

// node: its own object only. That of others is readable through
// system:node-proxier, which bootstrap binds to nodes because the proxy and the
// overlay live in the agent.
func (x *nodeIndex) node(node string, at *Attributes) (bool, string) {
	switch at.Subresource {
	case "":
		switch at.Verb {
		case "create", "update", "patch":
			return true, "" // admission checks whose
		case "get", "list", "watch":
			switch at.Name {
			case node:
				return true, ""
			case "":
				return false, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
			}
			return false, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, at.Name)
		}
	case "status":
		if at.Verb == "update" || at.Verb == "patch" {
			return true, ""
		}
	}
	return false, ""
}

// deviceClaim: a node reads the claims of its pods, and says in their status how the devices of
// the driver are that is part of it; admission checks what.
func (x *nodeIndex) deviceClaim(node string, at *Attributes) (bool, string) {
	switch at.Subresource {
	case resource.SubresourceDriver:
		if at.Name == api.GPUDriver && slices.Contains([]string{resource.VerbPrefixAssociatedNode + "update", resource.VerbPrefixAssociatedNode + "patch"}, at.Verb) {
			return true, ""
		}
		return false, "can only speak for the driver " + api.GPUDriver + " of its own devices"
	case "status":
		if at.Verb != "update" && at.Verb != "patch" {
			return false, "can only update/patch the status of this type"
		}
	default:
		if ok, why := getOne(at); !ok {
			return false, why
		}
	}
	if x.uses(node, ref{"devices", at.Namespace, at.Name}) {
		return true, ""
	}
	return unrelated(node)
}

// deviceSlice: a node manages the slices that list its own devices.
func (x *nodeIndex) deviceSlice(node string, at *Attributes) (bool, string) {
	if at.Subresource != "" {
		return false, "cannot authorize ResourceSlice subresources"
	}
	switch at.Verb {
	case "create":
		return true, "" // admission checks whose
	case "get", "update", "patch", "delete":
		if s := client.Cached(x.cache, api.ResourceSlices, "", at.Name); s != nil && s.Spec.NodeName != nil && *s.Spec.NodeName == node {
			return true, ""
		}
		return unrelated(node)
	case "list", "watch", "deletecollection":
		if selectsNode(at.FieldSelector, node) {
			return true, ""
		}
		return false, "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return false, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
}

func (x *nodeIndex) pods(node string, at *Attributes) (bool, string) {
	switch at.Subresource + " " + at.Verb {
	case " get":
		if x.mayReadPod(node, at.Namespace, at.Name) {
			return true, ""
		}
		return unrelated(node)
	case " list", " watch":
		if selectsNode(at.FieldSelector, node) {
			return true, ""
		}
		if at.Name != "" && at.Namespace != "" {
			if x.mayReadPod(node, at.Namespace, at.Name) {
				return true, ""
			}
			return unrelated(node)
		}
		return false, "can only list/watch pods with spec.nodeName field selector"
	case " create", " delete", "status update", "status patch", "eviction create":
		return true, "" // admission checks whose
	}
	return false, ""
}

// selectsNode tells that a selector lets through what is on the node only.
func selectsNode(selector, node string) bool {
	s, err := fields.ParseSelector(selector)
	if err != nil {
		return false
	}
	want, ok := s.RequiresExactMatch("spec.nodeName")
	return ok && want == node
}

// podRequest: a node asks for certificates of its own pods, and sees what came of it.
func (x *nodeIndex) podRequest(node string, at *Attributes) (bool, string) {
	if at.Subresource != "" {
		return false, "nodes may not access the status subresource of PodCertificateRequests"
	}
	switch at.Verb {
	case "create":
		return true, "" // admission checks for whom
	case "get":
		if r := client.Cached(x.cache, api.PodCertificateRequests, at.Namespace, at.Name); r != nil && string(r.Spec.NodeName) == node {
			return true, ""
		}
		return unrelated(node)
	case "list", "watch":
		if selectsNode(at.FieldSelector, node) {
			return true, ""
		}
		return false, "can only list/watch podcertificaterequests with nodeName field selector"
	}
	return false, fmt.Sprintf("nodes may not %s podcertificaterequests", at.Verb)
}

func (x *nodeIndex) lease(node string, at *Attributes) (bool, string) {
	if !ownVerb(at.Verb) || at.Subresource != "" {
		return false, "can only get, create, update, patch, or delete a node lease"
	}
	if at.Namespace != core.NamespaceNodeLease {
		return false, fmt.Sprintf("can only access leases in the %q system namespace", core.NamespaceNodeLease)
	}
	if at.Verb != "create" && at.Name != node {
		return false, "can only access node lease with the same name as the requesting node"
	}
	return true, ""
}

func (x *nodeIndex) csiNode(node string, at *Attributes) (bool, string) {
	if at.Subresource == "status" {
		return false, "CSINode status access requires CSIVolumeHealth feature"
	}
	if !ownVerb(at.Verb) {
		return false, "can only get, create, update, patch, or delete a CSINode"
	}
	if at.Subresource != "" {
		return false, "cannot authorize CSINode subresources"
	}
	if at.Verb != "create" && at.Name != node {
		return false, "can only access CSINode with the same name as the requesting node"
	}
	return true, ""
}

func ownVerb(v string) bool {
	return slices.Contains([]string{"get", "create", "update", "patch", "delete"}, v)
}
