// Package discovery tells clients which groups, versions and resources there
// are: the old documents (/api, /apis, /apis/GROUP, /apis/GROUP/VERSION) and the
// aggregated one. Documents are made from the kind table when it has changed, and
// kept as bytes. It refuses to know requests: see Documents.Find and ServeHTTP.
package discovery

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/server/rest/surface"
)

// groupVersion is what one version of one group serves, in the table's order.
type groupVersion struct {
	schema.GroupVersion
	kinds []*api.Facts
}

// group is one API group with its versions, the preferred one first.
type group struct {
	name     string
	versions []groupVersion
}

// groupsOf sorts kinds into groups; both keep the order of the table, which is
// the order of preference.
func groupsOf(kinds []*api.Facts) []group {
	var groups []group
	for _, f := range kinds {
		g := slices.IndexFunc(groups, func(g group) bool { return g.name == f.Group })
		if g < 0 {
			g, groups = len(groups), append(groups, group{name: f.Group})
		}
		versions := &groups[g].versions
		v := slices.IndexFunc(*versions, func(v groupVersion) bool { return v.Version == f.Version })
		if v < 0 {
			v, *versions = len(*versions), append(*versions, groupVersion{GroupVersion: f.GroupVersion()})
		}
		(*versions)[v].kinds = append((*versions)[v].kinds, f)
	}
	return groups
}

func (g group) document() metav1.APIGroup {
	d := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		d.Versions = append(d.Versions, metav1.GroupVersionForDiscovery{GroupVersion: v.String(), Version: v.Version})
	}
	d.PreferredVersion = d.Versions[0]
	return d
}

func (v groupVersion) document() *metav1.APIResourceList {
	d := &metav1.APIResourceList{GroupVersion: v.String(), APIResources: []metav1.APIResource{}}
	for _, f := range v.kinds {
		d.APIResources = append(d.APIResources, metav1.APIResource{
			Name: f.Plural, SingularName: f.SingularName(), Namespaced: !f.Cluster, Kind: f.Kind, Verbs: surface.Verbs(f),
			ShortNames: f.Short, Categories: f.Categories, StorageVersionHash: storageVersionHash(f),
		})
		for _, s := range surface.Subresources(f) {
			r := metav1.APIResource{Name: f.Plural + "/" + s.Name, Namespaced: !f.Cluster, Kind: s.Kind.Kind, Verbs: s.Verbs}
			if s.Kind.GroupVersion() != v.GroupVersion {
				r.Group, r.Version = s.Kind.Group, s.Kind.Version
			}
			d.APIResources = append(d.APIResources, r)
		}
	}
	slices.SortFunc(d.APIResources, func(a, b metav1.APIResource) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return d
}

// storageVersionHash names the kind that objects are stored as, by upstream's
// formula; computed kinds are not stored.
func storageVersionHash(f *api.Facts) string {
	if f.Computed {
		return ""
	}
	k := f.Stored()
	sum := sha256.Sum256([]byte(k.Group + "/" + k.Version + "/" + k.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}
