package registry

import (
	"slices"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

// namespaceRow: a namespace is Active from its creation and Terminating from its
// deletion until its controller has emptied it and taken away spec.finalizers.
func namespaceRow() Resource {
	return Row(api.Namespaces, Hooks[core.Namespace]{
		Default: defaults.Namespace, Columns: columns.Namespace(), NameRule: nameDNSLabel, Generation: GenerationNever,
		Validate: validate.Namespace, ValidateStatus: validate.NamespaceStatus,
		PrepareCreate: func(o *core.Namespace) {
			o.Status.Phase = core.NamespaceActive
			defaults.Namespace(o) // the label, for a name that was generated
			if !slices.Contains(o.Spec.Finalizers, core.FinalizerKubernetes) {
				o.Spec.Finalizers = append(o.Spec.Finalizers, core.FinalizerKubernetes)
			}
		},
		PrepareUpdate: func(o, old *core.Namespace) { o.Spec.Finalizers = old.Spec.Finalizers },
		MarkDeleting:  func(o *core.Namespace) { o.Status.Phase = core.NamespaceTerminating },
		Held:          func(o *core.Namespace) bool { return len(o.Spec.Finalizers) > 0 },
		Subs: map[string]Sub[core.Namespace]{"finalize": {
			Prepare:  func(o, old *core.Namespace) { o.Status = old.Status },
			Validate: validate.NamespaceFinalize,
		}},
		FieldNames: []string{"status.phase", "name"},
		Fields: func(o *core.Namespace) fields.Set {
			return fields.Set{"status.phase": string(o.Status.Phase), "name": o.Name}
		},
	})
}
