// Package api is the vocabulary that server, agent and command line share: the
// table of kinds (facts only, no behaviour), the codecs, and well-known names.
// It is a leaf: it imports nothing of ours. Start reading at Facts, then the
// group files (core.go, apps.go, ...), then All.
package api

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is any API object: it knows its type and carries object metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Facts says what everybody needs to know of a kind. The zero row is an
// ordinary namespaced kind without status. Facts are made once and never
// changed; a pointer to them identifies the kind.
type Facts struct {
	// Group is empty for core.
	Group, Version, Kind string
	// Plural is the resource's name in URLs.
	Plural string
	// Singular is empty where it is the kind in lower case.
	Singular string
	// List is the kind of a list of objects, empty where it is Kind and "List".
	List       string
	Short      []string
	Categories []string
	// Cluster is true for kinds outside namespaces.
	Cluster bool
	// Status and Scale tell which of these subresources exist.
	Status, Scale bool
	// Sub lists the further subresources (log, exec, token, ...).
	Sub []string
	// Computed kinds answer a create and are never stored (reviews, Binding).
	Computed bool
	// Path is the part of the storage key behind /registry/; empty where it is Plural.
	Path string
	// SameAs is the kind under whose key and version the objects are stored, for
	// second versions and second groups of one kind (autoscaling/v1, core Events).
	SameAs *Facts
	// Dynamic is true for kinds made by custom resource definitions.
	Dynamic bool

	New     func() Object
	NewList func() runtime.Object
}

// Kind ties the Go type T of a kind to its facts: a handle that is both the
// type and the REST address.
type Kind[T any] struct{ *Facts }

func (f *Facts) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: f.Group, Version: f.Version}
}
func (f *Facts) GVK() schema.GroupVersionKind        { return f.GroupVersion().WithKind(f.Kind) }
func (f *Facts) ListGVK() schema.GroupVersionKind    { return f.GroupVersion().WithKind(f.ListKind()) }
func (f *Facts) GVR() schema.GroupVersionResource    { return f.GroupVersion().WithResource(f.Plural) }
func (f *Facts) GroupResource() schema.GroupResource { return f.GVR().GroupResource() }
func (f *Facts) GroupKind() schema.GroupKind         { return f.GVK().GroupKind() }

// SingularName is the word for one object, as discovery gives it.
func (f *Facts) SingularName() string {
	if f.Singular != "" {
		return f.Singular
	}
	return strings.ToLower(f.Kind)
}

// ListKind is the kind of a list of objects.
func (f *Facts) ListKind() string {
	if f.List != "" {
		return f.List
	}
	return f.Kind + "List"
}

// Stored returns the kind under whose key the objects lie: SameAs or f itself.
func (f *Facts) Stored() *Facts {
	if f.SameAs != nil {
		return f.SameAs
	}
	return f
}

// Prefix is the storage prefix of all objects of the kind, laid out as upstream
// does in etcd: /registry/pods/, /registry/services/specs/.
func (f *Facts) Prefix() string {
	s := f.Stored()
	if s.Path != "" {
		return "/registry/" + s.Path + "/"
	}
	return "/registry/" + s.Plural + "/"
}

// Key is the storage key of one object; namespace is ignored for cluster kinds.
func (f *Facts) Key(namespace, name string) string {
	if f.Cluster {
		return f.Prefix() + name
	}
	return f.Prefix() + namespace + "/" + name
}

// HasSub tells whether the kind serves the subresource.
func (f *Facts) HasSub(name string) bool {
	switch name {
	case "status":
		return f.Status
	case "scale":
		return f.Scale
	}
	for _, s := range f.Sub {
		if s == name {
			return true
		}
	}
	return false
}

// kind fills a row's name, group and constructors from the Go types.
func kind[T, L any, PT interface {
	*T
	Object
}, PL interface {
	*L
	runtime.Object
}](gv schema.GroupVersion, name string, f Facts) Kind[T] {
	f.Group, f.Version, f.Kind = gv.Group, gv.Version, name
	f.New = func() Object { return PT(new(T)) }
	if _, none := any(new(L)).(*noList); !none {
		f.NewList = func() runtime.Object { return PL(new(L)) }
	}
	return Kind[T]{&f}
}

// noList stands for the list type of kinds that cannot be listed.
type noList struct{ metav1.Status }

// Items calls each for every object of a typed list.
func Items(list runtime.Object, each func(Object) error) error {
	return meta.EachListItem(list, func(o runtime.Object) error { return each(o.(Object)) })
}

func words(s ...string) []string { return s }
