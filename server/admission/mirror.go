package admission

import (
	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/access"
	"orch/server/registry"
)

// referred names an API object that a pod refers to, in upstream's words; empty if there
// is none. It is pure.
func referred(p *core.Pod) string {
	if p.Spec.ServiceAccountName != "" {
		return "serviceaccounts"
	}
	// A mirror pod gives access to nothing; what it would give access to is asked of one that is none.
	plain := &core.Pod{Spec: p.Spec}
	if access.Uses(plain, "secret") {
		return "secrets"
	}
	if access.Uses(plain, "configmap") {
		return "configmaps"
	}
	if len(p.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	for i := range p.Spec.Volumes {
		if what := referredByVolume(&p.Spec.Volumes[i]); what != "" {
			return what
		}
	}
	return ""
}

func referredByVolume(v *core.Volume) string {
	switch {
	case v.CSI != nil:
		return "csidrivers (via CSI volumes)"
	case v.Glusterfs != nil:
		return "endpoints (via glusterFS volumes)"
	case v.PersistentVolumeClaim != nil:
		return "persistentvolumeclaims"
	case v.Ephemeral != nil:
		return "persistentvolumeclaims (via ephemeral volumes)"
	case v.Projected == nil:
		return ""
	}
	for _, s := range v.Projected.Sources {
		switch {
		case s.ServiceAccountToken != nil:
			return "serviceaccounts (via projected volumes)"
		case s.ClusterTrustBundle != nil:
			return "clustertrustbundles"
		case s.PodCertificate != nil:
			return "podcertificates"
		}
	}
	return ""
}

// restrictAudience: a node gets tokens for those audiences only that a volume of the pod
// names, or that somebody allowed it by the verb request-serviceaccounts-token-audience.
func (l *List) restrictAudience(a *registry.Attributes, node string, p *core.Pod, audiences []string) error {
	if len(audiences) > 1 {
		return forbid(a, "node may only request 0 or 1 audiences")
	}
	want := ""
	if len(audiences) == 1 {
		want = audiences[0]
	}
	for i := range p.Spec.Volumes {
		if l.volumeNames(p, &p.Spec.Volumes[i], want) {
			return nil
		}
	}
	if l.cfg.Access.May(access.Attributes{User: a.User, Verb: "request-serviceaccounts-token-audience", Namespace: a.Namespace, Version: "*", Resource: want, Name: a.Name}) {
		return nil
	}
	return forbid(a, "%s is not authorized to request tokens for audience %q", a.User.Name, want)
}

// volumeNames tells whether a volume has tokens for the audience, itself or by its driver.
func (l *List) volumeNames(p *core.Pod, v *core.Volume, audience string) bool {
	driver := ""
	switch {
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
				return true
			}
		}
	case v.Ephemeral != nil:
		driver = l.driverOf(p.Namespace, p.Name+"-"+v.Name)
	case v.PersistentVolumeClaim != nil:
		driver = l.driverOf(p.Namespace, v.PersistentVolumeClaim.ClaimName)
	case v.CSI != nil:
		driver = v.CSI.Driver
	}
	if driver == "" {
		return false
	}
	if d := client.Cached(l.cache, api.CSIDrivers, "", driver); d != nil {
		for _, t := range d.Spec.TokenRequests {
			if t.Audience == audience {
				return true
			}
		}
	}
	return false
}

func (l *List) driverOf(namespace, claim string) string {
	c := client.Cached(l.cache, api.PersistentVolumeClaims, namespace, claim)
	if c == nil {
		return ""
	}
	if v := client.Cached(l.cache, api.PersistentVolumes, "", c.Spec.VolumeName); v != nil && v.Spec.CSI != nil {
		return v.Spec.CSI.Driver
	}
	return ""
}
