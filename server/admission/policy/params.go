package policy

import (
	"errors"
	"fmt"

	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
	"orch/server/admission/match"
	"orch/server/expression"
)

// paramFacts is the kind of a policy's parameters; nil where the policy has none.
func (p *Policies) paramFacts(k *admission.ParamKind) (*api.Facts, error) {
	if k == nil {
		return nil, nil
	}
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("failed to parse paramKind APIVersion: %w", err)
	}
	gvk := gv.WithKind(k.Kind)
	for _, r := range p.cfg.Registry.Resources() {
		if r.GVK() == gvk && !r.Computed {
			return r.Facts, nil
		}
	}
	return nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
}

// params are the objects that a policy is evaluated with for one binding; a nil one stands for
// no parameters. They come from the caches.
func (p *Policies) params(f *api.Facts, ref *admission.ParamRef, namespace string) ([]runtime.Object, error) {
	if f == nil || ref == nil {
		return []runtime.Object{nil}, nil
	}
	switch {
	case f.Cluster && ref.Namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case f.Cluster:
		namespace = ""
	case ref.Namespace != "":
		namespace = ref.Namespace
	case namespace == "":
		return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	}
	var found []runtime.Object
	add := func(o api.Object) { found = append(found, expression.WithKind(o, f.GVK())) }
	switch {
	case ref.Name != "" && ref.Selector != nil:
		return nil, errors.New("paramRef.name and paramRef.selector are mutually exclusive")
	case ref.Name != "":
		if o := p.cfg.Cache.Lookup(f, namespace, ref.Name); o != nil {
			add(o)
		}
	case ref.Selector != nil:
		s, err := metav1.LabelSelectorAsSelector(ref.Selector)
		if err != nil {
			return nil, err
		}
		p.cfg.Cache.Each(f, namespace, func(o api.Object) bool {
			if s.Matches(labels.Set(o.GetLabels())) {
				add(o)
			}
			return true
		})
	default:
		return nil, errors.New("one of name or selector must be provided")
	}
	if a := ref.ParameterNotFoundAction; len(found) == 0 && a != nil && *a == admission.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	return found, nil
}

// namespaceOf is the request's namespace as expressions see it; nil for cluster scoped
// objects and for namespaces.
func (p *Policies) namespaceOf(r *match.Request) (*core.Namespace, error) {
	if r.A.Resource.Facts == api.Namespaces.Facts || r.A.Namespace == "" {
		return nil, nil
	}
	if ns := client.Cached(p.cfg.Cache, api.Namespaces, "", r.A.Namespace); ns != nil {
		return ns, nil
	}
	return nil, apierrors.NewNotFound(api.Namespaces.GroupResource(), r.A.Namespace)
}
