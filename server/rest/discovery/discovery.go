// Package discovery tells clients which groups, versions and resources there
// are: the old documents (/api, /apis, /apis/GROUP, /apis/GROUP/VERSION) and the
// aggregated one. Documents are made from the kind table, and from what other servers
// say of the versions that they answer for, when that has changed, and kept as bytes.
// It refuses to know requests: see Documents.Find and ServeHTTP.
package discovery

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"math"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"orch/api"
	"orch/server/aggregator"
	"orch/server/rest/surface"
)

// groupVersion is what one version of one group serves, in the table's order. others
// is set where another server answers for it.
type groupVersion struct {
	schema.GroupVersion
	kinds    []*api.Facts
	others   *aggregator.Version
	priority api.Priority
}

// group is one API group with its versions, the preferred one first.
type group struct {
	name     string
	versions []groupVersion
}

// groupsOf sorts kinds, and the versions of others, into groups: those and their
// versions by priority, kinds as in the table. What another server answers for takes
// the place of a version of ours.
func groupsOf(kinds []*api.Facts, others []aggregator.Version) []group {
	var groups []group
	find := func(gv schema.GroupVersion) *groupVersion {
		g := slices.IndexFunc(groups, func(g group) bool { return g.name == gv.Group })
		if g < 0 {
			g, groups = len(groups), append(groups, group{name: gv.Group})
		}
		versions := &groups[g].versions
		v := slices.IndexFunc(*versions, func(v groupVersion) bool { return v.Version == gv.Version })
		if v < 0 {
			v, *versions = len(*versions), append(*versions, groupVersion{GroupVersion: gv})
		}
		return &(*versions)[v]
	}
	moved := map[schema.GroupVersion]api.Priority{}
	for i := range others {
		if others[i].Local {
			moved[others[i].GroupVersion] = others[i].Priority
			continue
		}
		v := find(others[i].GroupVersion)
		v.others, v.priority = &others[i], others[i].Priority
	}
	for _, f := range kinds {
		v := find(f.GroupVersion())
		if v.others != nil {
			continue
		}
		v.kinds = append(v.kinds, f)
		var known bool
		if v.priority, known = api.PriorityOf(f); !known { // the group of APIServices themselves
			v.priority.Group = math.MaxInt32
		}
		if p, is := moved[f.GroupVersion()]; is {
			v.priority = p
		}
	}
	for _, g := range groups {
		slices.SortStableFunc(g.versions, func(a, b groupVersion) int {
			return cmp.Or(cmp.Compare(b.priority.Version, a.priority.Version), version.CompareKubeAwareVersionStrings(b.Version, a.Version))
		})
	}
	slices.SortStableFunc(groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.priority(), a.priority()), cmp.Compare(a.name, b.name))
	})
	return groups
}

// priority is that of the group's foremost version.
func (g group) priority() int32 {
	best := int32(math.MinInt32)
	for _, v := range g.versions {
		best = max(best, v.priority.Group)
	}
	return best
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
