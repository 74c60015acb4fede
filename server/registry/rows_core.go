package registry

import (
	"strconv"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
)

func coreRows() []Resource {
	return []Resource{
		podRow(), serviceRow(), namespaceRow(), eventRow(),
		Row(api.PodTemplates, Hooks[core.PodTemplate]{Default: defaults.StoredPodTemplate, Columns: columns.PodTemplate(), Generation: GenerationAlways, ReturnDeleted: true}),
		Row(api.ReplicationControllers, Hooks[core.ReplicationController]{
			Default: defaults.ReplicationController, Columns: columns.ReplicationController(), Scale: replicationControllerScale(), OrphanByDefault: true,
			FieldNames: []string{"status.replicas"},
			Fields: func(o *core.ReplicationController) fields.Set {
				return fields.Set{"status.replicas": strconv.Itoa(int(o.Status.Replicas))}
			},
		}),
		Row(api.Endpoints, Hooks[core.Endpoints]{Default: defaults.Endpoints, Columns: columns.Endpoints(), CreateOnUpdate: true}),
		Row(api.Nodes, Hooks[core.Node]{
			Default: defaults.Node, Columns: columns.Node(), KeepStatus: true, Generation: GenerationNever,
			FieldNames: []string{"spec.unschedulable"},
			Fields: func(o *core.Node) fields.Set {
				return fields.Set{"spec.unschedulable": strconv.FormatBool(o.Spec.Unschedulable)}
			},
		}),
		Row(api.ConfigMaps, Hooks[core.ConfigMap]{Columns: columns.ConfigMap()}),
		Row(api.Secrets, Hooks[core.Secret]{
			Default: defaults.Secret, Columns: columns.Secret(),
			FieldNames: []string{"type"},
			Fields:     func(o *core.Secret) fields.Set { return fields.Set{"type": string(o.Type)} },
		}),
		Row(api.ServiceAccounts, Hooks[core.ServiceAccount]{Columns: columns.ServiceAccount(), PrepareCreate: onlySecretNames, ReturnDeleted: true}),
		Row(api.PersistentVolumes, Hooks[core.PersistentVolume]{
			Default: defaults.PersistentVolume, Columns: columns.PersistentVolume(), Generation: GenerationNever, ReturnDeleted: true,
			PrepareCreate: func(o *core.PersistentVolume) { o.Status.Phase = core.VolumePending },
		}),
		Row(api.PersistentVolumeClaims, Hooks[core.PersistentVolumeClaim]{
			Default: defaults.PersistentVolumeClaim, Columns: columns.PersistentVolumeClaim(), Generation: GenerationNever, ReturnDeleted: true,
			PrepareCreate: func(o *core.PersistentVolumeClaim) { o.Status.Phase = core.ClaimPending },
		}),
		Row(api.LimitRanges, Hooks[core.LimitRange]{Default: defaults.LimitRange, Columns: columns.LimitRange(), CreateOnUpdate: true}),
		Row(api.ResourceQuotas, Hooks[core.ResourceQuota]{Default: defaults.ResourceQuota, Columns: columns.ResourceQuota(), Generation: GenerationNever, ReturnDeleted: true}),
		Row(api.ComponentStatuses, Hooks[core.ComponentStatus]{Columns: columns.ComponentStatus()}),
		Row(api.Bindings, Hooks[core.Binding]{}),
	}
}

// onlySecretNames drops what is not the name from references to secrets
// (upstream: cleanSecretReferences).
func onlySecretNames(o *core.ServiceAccount) {
	for i, ref := range o.Secrets {
		o.Secrets[i] = core.ObjectReference{Name: ref.Name}
	}
}
