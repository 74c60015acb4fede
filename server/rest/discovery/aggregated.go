package discovery

import (
	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/server/rest/surface"
)

// aggregated is the whole surface of some groups in one document.
func aggregated(groups []group) *apidiscovery.APIGroupDiscoveryList {
	list := &apidiscovery.APIGroupDiscoveryList{Items: []apidiscovery.APIGroupDiscovery{}}
	for _, g := range groups {
		item := apidiscovery.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
		for _, v := range g.versions {
			version := apidiscovery.APIVersionDiscovery{Version: v.Version, Freshness: apidiscovery.DiscoveryFreshnessCurrent}
			for _, f := range v.kinds {
				version.Resources = append(version.Resources, resource(f))
			}
			if v.others != nil {
				version.Resources = v.others.Resources
				if v.others.Stale {
					version.Freshness = apidiscovery.DiscoveryFreshnessStale
				}
			}
			item.Versions = append(item.Versions, version)
		}
		list.Items = append(list.Items, item)
	}
	return list
}

func resource(f *api.Facts) apidiscovery.APIResourceDiscovery {
	r := apidiscovery.APIResourceDiscovery{
		Resource: f.Plural, ResponseKind: kindOf(f.GVK()), Scope: apidiscovery.ScopeNamespace, SingularResource: f.SingularName(),
		Verbs: surface.Verbs(f), ShortNames: f.Short, Categories: f.Categories,
	}
	if f.Cluster {
		r.Scope = apidiscovery.ScopeCluster
	}
	for _, s := range surface.Subresources(f) {
		r.Subresources = append(r.Subresources, apidiscovery.APISubresourceDiscovery{Subresource: s.Name, ResponseKind: kindOf(s.Kind), Verbs: s.Verbs})
	}
	return r
}

func kindOf(k schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}
