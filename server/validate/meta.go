// Package validate holds the rules of every built-in kind: an object in, field
// errors out, with upstream's paths, types and words. All functions are pure; what
// needs other objects is admission. X checks an object that is created, XUpdate
// one that replaces old (and does X's checks itself), XStatus a write of the
// status. Metadata is the engine's to check, by ObjectMeta and ObjectMetaUpdate.
// Pod specs are in podspec, the checks that all share in rule.
// Start reading at meta.go, then pod.go.
package validate

import (
	"strings"

	core "k8s.io/api/core/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// Errors is what all checks give.
type Errors = field.ErrorList

// NameRule says what is wrong with a name; with prefix it is a generateName.
type NameRule = func(name string, prefix bool) []string

var (
	metaPath   = field.NewPath("metadata")
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// ObjectMeta checks the metadata of an object that is created: name, namespace,
// generation, labels, annotations, owners, finalizers and managed fields. A nil
// rule wants a DNS-1123 subdomain.
func ObjectMeta(meta metav1.Object, namespaced bool, name NameRule, p *field.Path) Errors {
	if name == nil {
		name = apimachinery.NameIsDNSSubdomain
	}
	var e rule.Errors
	e.Join(apimachinery.ValidateObjectMetaAccessor(meta, namespaced, name, p))
	finalizers(&e, meta.GetFinalizers(), p.Child("finalizers"))
	e.Join(metavalidation.ValidateManagedFields(meta.GetManagedFields(), p.Child("managedFields")))
	return e.List()
}

// ObjectMetaUpdate checks metadata that replaces old: what may not change has
// not, and the rest is in order.
func ObjectMetaUpdate(meta, old metav1.Object, p *field.Path) Errors {
	var e rule.Errors
	e.Join(apimachinery.ValidateObjectMetaAccessorUpdate(meta, old, p))
	finalizers(&e, meta.GetFinalizers(), p.Child("finalizers"))
	return e.List()
}

// finalizers wants qualified names, or the few that upstream has without a domain.
func finalizers(e *rule.Errors, list []string, p *field.Path) {
	for i, f := range list {
		finalizer(e, f, p.Index(i))
	}
}

func finalizer(e *rule.Errors, name string, p *field.Path) {
	switch {
	case strings.Contains(name, "/"):
	case name == string(core.FinalizerKubernetes), name == metav1.FinalizerOrphanDependents, name == metav1.FinalizerDeleteDependents:
	default:
		e.Invalid(p, name, "name is neither a standard finalizer name nor is it fully qualified")
	}
}

// counts checks the counts that several workloads report.
func counts(e *rule.Errors, p *field.Path, most int32, named ...count) {
	e.NotNegative(p.Child("replicas"), int64(most))
	for _, c := range named {
		e.NotNegative(p.Child(c.name), int64(c.value))
		if c.value > most {
			e.Invalid(p.Child(c.name), c.value, "cannot be greater than status.replicas")
		}
	}
}

type count struct {
	name  string
	value int32
}
