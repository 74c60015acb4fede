// Package surface says which requests each kind answers: its verbs, its
// subresources, and the kinds that these speak. Routing, discovery and the
// generator of the OpenAPI documents read the same answer here. It is pure and
// knows facts only; it serves nothing. Start reading at Verbs and Subresources.
package surface

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
)

// Sub is one subresource of a kind.
type Sub struct {
	Name string
	// Kind of the bodies or of the answer; discovery shows group and version only
	// where they differ from the resource's own.
	Kind  schema.GroupVersionKind
	Verbs []string
}

var (
	allVerbs     = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	createOnly   = []string{"create"}
	readWrite    = []string{"get", "patch", "update"}
	connectVerbs = []string{"create", "get"}
	proxyVerbs   = []string{"create", "delete", "get", "patch", "update"}
)

// Verbs lists what can be done with objects of the kind, in discovery's order.
func Verbs(f *api.Facts) []string {
	switch {
	case f == api.ComponentStatuses.Facts:
		return []string{"get", "list"}
	case f.Computed:
		return createOnly
	case f == api.Namespaces.Facts:
		return slices.DeleteFunc(slices.Clone(allVerbs), func(v string) bool { return v == "deletecollection" })
	}
	return allVerbs
}

// Serves tells whether the kind (or its subresource) answers the verb.
func Serves(f *api.Facts, sub, verb string) bool {
	if sub == "" {
		return slices.Contains(Verbs(f), verb)
	}
	return f.HasSub(sub) && slices.Contains(Subresource(f, sub).Verbs, verb)
}

// Subresources lists the kind's subresources by name.
func Subresources(f *api.Facts) []Sub {
	names := slices.Clone(f.Sub)
	if f.Status {
		names = append(names, "status")
	}
	if f.Scale {
		names = append(names, "scale")
	}
	slices.Sort(names)
	subs := make([]Sub, 0, len(names))
	for _, n := range names {
		subs = append(subs, Subresource(f, n))
	}
	return subs
}

// Subresource describes one that the kind has.
func Subresource(f *api.Facts, name string) Sub {
	own := func(kind string) schema.GroupVersionKind { return f.GroupVersion().WithKind(kind) }
	switch name {
	case "scale":
		return Sub{name, api.Scales.GVK(), readWrite}
	case "eviction":
		return Sub{name, api.Evictions.GVK(), createOnly}
	case "token":
		return Sub{name, api.TokenRequests.GVK(), createOnly}
	case "binding":
		return Sub{name, own("Binding"), createOnly}
	case "attach":
		return Sub{name, own("PodAttachOptions"), connectVerbs}
	case "exec":
		return Sub{name, own("PodExecOptions"), connectVerbs}
	case "portforward":
		return Sub{name, own("PodPortForwardOptions"), connectVerbs}
	case "proxy":
		return Sub{name, own(f.Kind + "ProxyOptions"), proxyVerbs}
	case "log":
		return Sub{name, f.GVK(), []string{"get"}}
	case "finalize":
		return Sub{name, f.GVK(), []string{"update"}}
	}
	return Sub{name, f.GVK(), readWrite} // status, approval, ephemeralcontainers, resize
}
