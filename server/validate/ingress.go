package validate

import (
	"fmt"
	"strings"

	networking "k8s.io/api/networking/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// Ingress checks rules, backends and certificates.
func Ingress(o *networking.Ingress) Errors {
	var e rule.Errors
	e.Join(IngressUpdate(o, nil))
	if v, has := o.Annotations[ingressClassNote]; has && o.Spec.IngressClassName != nil && v != *o.Spec.IngressClassName {
		e.Invalid(field.NewPath("annotations").Child(ingressClassNote), v, "must match `ingressClassName` when both are specified")
	}
	return e.List()
}

const ingressClassNote = "kubernetes.io/ingress.class"

// IngressUpdate checks the same, but for the old annotation.
func IngressUpdate(o, _ *networking.Ingress) Errors {
	var e rule.Errors
	s := &o.Spec
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		e.Invalid(specPath, s.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if s.DefaultBackend != nil {
		backend(&e, s.DefaultBackend, specPath.Child("defaultBackend"))
	}
	for i := range s.Rules {
		ingressRule(&e, &s.Rules[i], specPath.Child("rules").Index(i))
	}
	for i, t := range s.TLS {
		at := specPath.Child("tls").Index(i)
		for j, h := range t.Hosts {
			host(&e, h, at.Child("hosts").Index(j))
		}
		if t.SecretName != "" {
			e.ObjectName(at.Child("secretName"), t.SecretName)
		}
	}
	if s.IngressClassName != nil {
		e.ObjectName(specPath.Child("ingressClassName"), *s.IngressClassName)
	}
	return e.List()
}

func host(e *rule.Errors, h string, p *field.Path) {
	if strings.Contains(h, "*") {
		e.Each(p, h, validation.IsWildcardDNS1123Subdomain(h))
		return
	}
	e.DNSSubdomain(p, h)
}

func ingressRule(e *rule.Errors, r *networking.IngressRule, p *field.Path) {
	if r.Host != "" {
		if isIP(r.Host) {
			e.Invalid(p.Child("host"), r.Host, "must be a DNS name, not an IP address")
		}
		host(e, r.Host, p.Child("host"))
	}
	if r.HTTP == nil {
		return
	}
	paths := p.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		e.Required(paths, "")
	}
	for i := range r.HTTP.Paths {
		ingressPath(e, &r.HTTP.Paths[i], paths.Index(i))
	}
}

func ingressPath(e *rule.Errors, v *networking.HTTPIngressPath, p *field.Path) {
	if v.PathType == nil {
		e.Required(p.Child("pathType"), "pathType must be specified")
		return
	}
	at := p.Child("path")
	switch *v.PathType {
	case networking.PathTypeExact, networking.PathTypePrefix:
		if !strings.HasPrefix(v.Path, "/") {
			e.Invalid(at, v.Path, "must be an absolute path")
		}
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(v.Path, bad) {
				e.Invalid(at, v.Path, fmt.Sprintf("must not contain '%s'", bad))
			}
		}
		for _, bad := range []string{"/..", "/."} {
			if strings.HasSuffix(v.Path, bad) {
				e.Invalid(at, v.Path, fmt.Sprintf("cannot end with '%s'", bad))
			}
		}
	case networking.PathTypeImplementationSpecific:
		if v.Path != "" && !strings.HasPrefix(v.Path, "/") {
			e.Invalid(at, v.Path, "must be an absolute path")
		}
	default:
		rule.Among(e, p.Child("pathType"), *v.PathType, networking.PathTypeExact, networking.PathTypePrefix, networking.PathTypeImplementationSpecific)
	}
	backend(e, &v.Backend, p.Child("backend"))
}

func backend(e *rule.Errors, b *networking.IngressBackend, p *field.Path) {
	switch {
	case b.Resource != nil && b.Service != nil:
		e.Invalid(p, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		if g := b.Resource.APIGroup; g != nil {
			e.DNSSubdomain(p.Child("resource", "apiGroup"), *g)
		}
		segment(e, p.Child("resource", "kind"), b.Resource.Kind)
		segment(e, p.Child("resource", "name"), b.Resource.Name)
	case b.Service != nil:
		if at := p.Child("service", "name"); b.Service.Name == "" {
			e.Required(at, "")
		} else {
			e.Each(at, b.Service.Name, apimachinery.NameIsDNSLabel(b.Service.Name, false))
		}
		port := b.Service.Port
		switch {
		case port.Name != "" && port.Number != 0:
			e.Invalid(p, "", "cannot set both port name & port number")
		case port.Name != "":
			e.Each(p.Child("service", "port", "name"), port.Name, validation.IsValidPortName(port.Name))
		case port.Number != 0:
			e.Port(p.Child("service", "port", "number"), port.Number)
		default:
			e.Required(p, "port name or number is required")
		}
	default:
		e.Invalid(p, "", "resource or service backend is required")
	}
}

// IngressStatus checks the addresses that a controller reports.
func IngressStatus(o, _ *networking.Ingress) Errors {
	var e rule.Errors
	for i, in := range o.Status.LoadBalancer.Ingress {
		at := statusPath.Child("loadBalancer", "ingress").Index(i)
		if in.IP != "" {
			e.IP(at.Child("ip"), in.IP)
		}
		hostname(&e, at.Child("hostname"), in.Hostname)
	}
	return e.List()
}

// IngressClass checks controller and parameters.
func IngressClass(o *networking.IngressClass) Errors {
	const longest = 250
	var e rule.Errors
	at := specPath.Child("controller")
	if o.Spec.Controller == "" {
		e.Required(at, "")
	} else {
		if len(o.Spec.Controller) > longest {
			e.Add(field.TooLong(at, "", longest))
		}
		e.Join(validation.IsDomainPrefixedPath(at, o.Spec.Controller))
	}
	if p := o.Spec.Parameters; p != nil {
		parameters(&e, p, specPath.Child("parameters"))
	}
	return e.List()
}

func parameters(e *rule.Errors, v *networking.IngressClassParametersReference, p *field.Path) {
	const cluster, namespace = networking.IngressClassParametersReferenceScopeCluster, networking.IngressClassParametersReferenceScopeNamespace
	if v.APIGroup != nil {
		e.DNSSubdomain(p.Child("apiGroup"), *v.APIGroup)
	}
	segment(e, p.Child("kind"), v.Kind)
	segment(e, p.Child("name"), v.Name)
	if v.Scope == nil {
		e.Required(p.Child("scope"), "")
		return
	}
	rule.Among(e, p.Child("scope"), *v.Scope, cluster, namespace)
	switch at := p.Child("namespace"); {
	case *v.Scope == cluster && v.Namespace != nil:
		e.Forbidden(at, "`parameters.scope` is set to 'Cluster'")
	case *v.Scope == namespace && v.Namespace == nil:
		e.Required(at, "`parameters.scope` is set to 'Namespace'")
	case *v.Scope == namespace:
		e.Each(at, *v.Namespace, apimachinery.ValidateNamespaceName(*v.Namespace, false))
	}
}

// IngressClassUpdate also keeps the controller.
func IngressClassUpdate(o, old *networking.IngressClass) Errors {
	var e rule.Errors
	e.Unchanged(specPath.Child("controller"), o.Spec.Controller, old.Spec.Controller)
	e.Join(IngressClass(o))
	return e.List()
}
