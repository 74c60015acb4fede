package registry

import (
	"strconv"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/server/columns"
	"orch/server/defaults"
	"orch/server/validate"
)

func coreRows() []Resource {
	return []Resource{
		podRow(), serviceRow(), namespaceRow(), eventRow(),
		Row(api.PodTemplates, Hooks[core.PodTemplate]{
			Validate: validate.PodTemplate, ValidateUpdate: validate.PodTemplateUpdate, Warn: validate.PodTemplateWarnings,
			Default: defaults.StoredPodTemplate, Columns: columns.PodTemplate(), Generation: GenerationAlways, ReturnDeleted: true}),
		Row(api.ReplicationControllers, Hooks[core.ReplicationController]{
			Validate: validate.ReplicationController, ValidateUpdate: validate.ReplicationControllerUpdate, ValidateStatus: validate.ReplicationControllerStatus, Warn: validate.ReplicationControllerWarnings,
			Default: defaults.ReplicationController, Columns: columns.ReplicationController(), Scale: replicationControllerScale(), OrphanByDefault: true,
			FieldNames: []string{"status.replicas"},
			Fields: func(o *core.ReplicationController) fields.Set {
				return fields.Set{"status.replicas": strconv.Itoa(int(o.Status.Replicas))}
			},
		}),
		Row(api.Endpoints, Hooks[core.Endpoints]{
			Validate: validate.Endpoints, ValidateUpdate: validate.EndpointsUpdate,
			Default: defaults.Endpoints, Columns: columns.Endpoints(), CreateOnUpdate: true}),
		Row(api.Nodes, Hooks[core.Node]{
			Validate: validate.Node, ValidateUpdate: validate.NodeUpdate, Warn: validate.NodeWarnings, ValidateStatus: validate.NodeUpdate,
			Default: defaults.Node, Columns: columns.Node(), KeepStatus: true, Generation: GenerationNever,
			FieldNames: []string{"spec.unschedulable"},
			Fields: func(o *core.Node) fields.Set {
				return fields.Set{"spec.unschedulable": strconv.FormatBool(o.Spec.Unschedulable)}
			},
		}),
		Row(api.ConfigMaps, Hooks[core.ConfigMap]{Validate: validate.ConfigMap, ValidateUpdate: validate.ConfigMapUpdate, Columns: columns.ConfigMap()}),
		Row(api.Secrets, Hooks[core.Secret]{
			Validate: validate.Secret, ValidateUpdate: validate.SecretUpdate,
			Default: defaults.Secret, Columns: columns.Secret(),
			FieldNames: []string{"type"},
			Fields:     func(o *core.Secret) fields.Set { return fields.Set{"type": string(o.Type)} },
		}),
		Row(api.ServiceAccounts, Hooks[core.ServiceAccount]{PrepareCreate: onlySecretNames, ReturnDeleted: true}),
		Row(api.PersistentVolumes, Hooks[core.PersistentVolume]{
			Validate: validate.PersistentVolume, ValidateUpdate: validate.PersistentVolumeUpdate, Warn: validate.PersistentVolumeWarnings,
			Default: defaults.PersistentVolume, Columns: columns.PersistentVolume(), Generation: GenerationNever, ReturnDeleted: true,
			PrepareCreate: func(o *core.PersistentVolume) { o.Status.Phase = core.VolumePending },
		}),
		Row(api.PersistentVolumeClaims, Hooks[core.PersistentVolumeClaim]{
			Validate: validate.PersistentVolumeClaim, ValidateUpdate: validate.PersistentVolumeClaimUpdate, ValidateStatus: validate.PersistentVolumeClaimStatus, Warn: validate.PersistentVolumeClaimWarnings,
			Default: defaults.PersistentVolumeClaim, Columns: columns.PersistentVolumeClaim(), Generation: GenerationNever, ReturnDeleted: true,
			PrepareCreate: func(o *core.PersistentVolumeClaim) { o.Status.Phase = core.ClaimPending },
		}),
		Row(api.LimitRanges, Hooks[core.LimitRange]{
			Validate: validate.LimitRange, ValidateUpdate: validate.LimitRangeUpdate,
			Default: defaults.LimitRange, Columns: columns.LimitRange(), CreateOnUpdate: true}),
		Row(api.ResourceQuotas, Hooks[core.ResourceQuota]{
			Validate: validate.ResourceQuota, ValidateUpdate: validate.ResourceQuotaUpdate, ValidateStatus: validate.ResourceQuotaStatus,
			Default: defaults.ResourceQuota, Columns: columns.ResourceQuota(), Generation: GenerationNever, ReturnDeleted: true}),
		Row(api.ComponentStatuses, Hooks[core.ComponentStatus]{Columns: columns.ComponentStatus()}),
		Row(api.Bindings, Hooks[core.Binding]{Validate: validate.Binding}),
	}
}

// onlySecretNames drops what is not the name from references to secrets
// (upstream: cleanSecretReferences).
func onlySecretNames(o *core.ServiceAccount) {
	for i, ref := range o.Secrets {
		o.Secrets[i] = core.ObjectReference{Name: ref.Name}
	}
}
