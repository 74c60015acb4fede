package policy

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/expression"
	"orch/server/registry"
)

// mostTypes bounds the kinds that a policy's expressions are checked against.
const mostTypes = 10

// Spec checks the expressions of ValidatingAdmissionPolicies against the types of the kinds that
// their rules name, and writes what does not fit into status.typeChecking. Nothing depends on it:
// it is for the policy's author to see.
func Spec(c *client.Client, r *registry.Registry) reconcile.Spec {
	k := checker{c, r}
	return reconcile.Spec{Name: "validating-admission-policy-status", Watches: []reconcile.Watch{reconcile.For(api.ValidatingAdmissionPolicies)}, Do: k.do}
}

type checker struct {
	client   *client.Client
	registry *registry.Registry
}

func (k checker) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	o := client.Cached(k.client, api.ValidatingAdmissionPolicies, "", key.Name)
	if o == nil || o.Generation <= o.Status.ObservedGeneration {
		return reconcile.Result{}, nil
	}
	n := o.DeepCopy()
	n.Status.ObservedGeneration = o.Generation
	n.Status.TypeChecking = &admission.TypeChecking{ExpressionWarnings: k.check(o)}
	if _, err := client.UpdateStatus(ctx, k.client, api.ValidatingAdmissionPolicies, n); err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// typed is one kind that expressions are checked against.
type typed struct {
	kind schema.GroupVersionKind
	set  *expression.Set
}

// check lists what does not fit, by expression.
func (k checker) check(o *admission.ValidatingAdmissionPolicy) []admission.ExpressionWarning {
	var params *apiservercel.DeclType
	if p := o.Spec.ParamKind; p != nil {
		for _, r := range k.registry.Resources() {
			if r.GroupVersion().String() == p.APIVersion && r.GVK().Kind == p.Kind {
				params = k.typeOf(r.Facts, "Params")
			}
		}
	}
	sc := expression.Scope{Params: o.Spec.ParamKind != nil, Authorizer: true, Variables: true}
	var kinds []typed
	for _, f := range k.named(o.Spec.MatchConstraints) {
		object := k.typeOf(f, "Object")
		if object == nil {
			continue
		}
		set := expression.NewTypedSet(expression.Stored, expression.Types{Object: object, Params: params})
		for _, v := range o.Spec.Variables {
			set.Variable(v.Name, v.Expression, sc)
		}
		kinds = append(kinds, typed{f.GVK(), set})
	}
	var out []admission.ExpressionWarning
	look := func(text, field string) {
		var says []string
		for _, t := range kinds {
			if x := t.set.Compile(text, sc); x.Err != nil {
				says = append(says, fmt.Sprintf("%v: %s\n", t.kind, x.Err))
			}
		}
		if len(says) > 0 {
			out = append(out, admission.ExpressionWarning{FieldRef: field, Warning: strings.Join(says, "\n")})
		}
	}
	for i, v := range o.Spec.Validations {
		look(v.Expression, fmt.Sprintf("spec.validations[%d].expression", i))
		if v.MessageExpression != "" {
			look(v.MessageExpression, fmt.Sprintf("spec.validations[%d].messageExpression", i))
		}
	}
	return out
}

// named are the kinds that rules name without wildcards, in order.
func (k checker) named(m *admission.MatchResources) (out []*api.Facts) {
	if m == nil {
		return nil
	}
	wild := func(s string) bool { return strings.Contains(s, "*") }
	for i := range m.ResourceRules {
		r := &m.ResourceRules[i].Rule
		if slices.ContainsFunc(r.APIGroups, wild) || slices.ContainsFunc(r.APIVersions, wild) {
			continue
		}
		for _, group := range r.APIGroups {
			for _, version := range r.APIVersions {
				for _, plural := range r.Resources {
					if row := k.registry.Find(group, version, plural); row != nil && !slices.Contains(out, row.Facts) && len(out) < mostTypes {
						out = append(out, row.Facts)
					}
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b *api.Facts) int {
		return strings.Compare(a.Group+" "+a.Version+" "+a.Kind, b.Group+" "+b.Version+" "+b.Kind)
	})
	return out
}

// typeOf declares a kind; nil where its form is not known. The name of a type must not be that of a
// variable: expressions can name both.
func (k checker) typeOf(f *api.Facts, name string) *apiservercel.DeclType {
	if !f.Dynamic {
		return expression.GoType(reflect.TypeOf(f.New()).Elem(), f.Kind+name)
	}
	d := client.Cached(k.client, api.CustomResourceDefinitions, "", f.Plural+"."+f.Group)
	if d == nil {
		return nil
	}
	for _, v := range d.Spec.Versions {
		if v.Name != f.Version || v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		var in apiextensions.JSONSchemaProps
		if err := apiext.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &in, nil); err != nil {
			return nil
		}
		s, err := structural.NewStructural(&in)
		if err != nil {
			return nil
		}
		return model.SchemaDeclType(s, true).MaybeAssignTypeName(f.Kind + name)
	}
	return nil
}
