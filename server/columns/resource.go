package columns

import (
	"cmp"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	resource "k8s.io/api/resource/v1"
	migration "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ResourceClaim shows how far the claim has come.
func ResourceClaim() []Column[resource.ResourceClaim] {
	type c = resource.ResourceClaim
	return list(name[c](), text("State", "A summary of the current state (allocated, pending, reserved, etc.).", claimState), age[c]())
}

func claimState(o *resource.ResourceClaim) string {
	var states []string
	if o.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	if o.Status.Allocation == nil && o.DeletionTimestamp == nil {
		states = append(states, "pending")
	}
	if o.Status.Allocation != nil {
		states = append(states, "allocated")
		if len(o.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	}
	return strings.Join(states, ",")
}

// ResourceSlice shows whose devices it lists.
func ResourceSlice() []Column[resource.ResourceSlice] {
	type s = resource.ResourceSlice
	doc := resource.ResourceSliceSpec{}.SwaggerDoc()
	return list(name[s](),
		text("Node", doc["nodeName"], func(o *s) string { return value(o.Spec.NodeName) }),
		text("Driver", doc["driver"], func(o *s) string { return o.Spec.Driver }),
		text("Pool", resource.ResourcePool{}.SwaggerDoc()["name"], func(o *s) string { return o.Spec.Pool.Name }),
		age[s]())
}

// ClusterTrustBundle shows the signer.
func ClusterTrustBundle() []Column[certificates.ClusterTrustBundle] {
	type b = certificates.ClusterTrustBundle
	return list(name[b](),
		text("SignerName", certificates.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"], func(o *b) string { return or(o.Spec.SignerName, none) }))
}

// PodCertificateRequest shows pod, signer and how it ended.
func PodCertificateRequest() []Column[certificates.PodCertificateRequest] {
	type r = certificates.PodCertificateRequest
	doc := certificates.PodCertificateRequestSpec{}.SwaggerDoc()
	return list(name[r](),
		text("PodName", doc["podName"], func(o *r) string { return o.Spec.PodName }),
		text("ServiceAccountName", doc["serviceAccountName"], func(o *r) string { return o.Spec.ServiceAccountName }),
		text("NodeName", doc["nodeName"], func(o *r) string { return string(o.Spec.NodeName) }),
		text("SignerName", doc["signerName"], func(o *r) string { return o.Spec.SignerName }),
		text("State", "Is the request Pending, Issued, Denied, or Failed?", func(o *r) string {
			if len(o.Status.Conditions) > 0 {
				return o.Status.Conditions[0].Type
			}
			return "Pending"
		}),
		wide(text("UnverifiedUserAnnotations", doc["unverifiedUserAnnotations"], func(o *r) string { return labels.FormatLabels(o.Spec.UnverifiedUserAnnotations) })))
}

// FlowSchema shows where requests go, and whether that level is there.
func FlowSchema() []Column[flowcontrol.FlowSchema] {
	type f = flowcontrol.FlowSchema
	doc := flowcontrol.FlowSchemaSpec{}.SwaggerDoc()
	return list(name[f](),
		text("PriorityLevel", doc["priorityLevelConfiguration"], func(o *f) string { return o.Spec.PriorityLevelConfiguration.Name }),
		asText(number("MatchingPrecedence", doc["matchingPrecedence"], func(o *f) int { return int(o.Spec.MatchingPrecedence) })),
		text("DistinguisherMethod", doc["distinguisherMethod"], func(o *f) string {
			if m := o.Spec.DistinguisherMethod; m != nil {
				return string(m.Type)
			}
			return none
		}),
		age[f](),
		text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration", func(o *f) string {
			for _, c := range o.Status.Conditions {
				if c.Type == flowcontrol.FlowSchemaConditionDangling {
					return string(c.Status)
				}
			}
			return "?"
		}))
}

// ByPrecedence is the order in which flow schemas are tried.
func ByPrecedence(a, b *flowcontrol.FlowSchema) int {
	return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), cmp.Compare(a.Name, b.Name))
}

// PriorityLevelConfiguration shows shares and queues.
func PriorityLevelConfiguration() []Column[flowcontrol.PriorityLevelConfiguration] {
	type p = flowcontrol.PriorityLevelConfiguration
	// count is a number, or that the level has none: exempt ones do not have shares of their own.
	count := func(name string, doc map[string]string, field string, cell func(*flowcontrol.LimitedPriorityLevelConfiguration) *int32) Column[p] {
		return Column[p]{Name: name, Type: "string", Description: doc[field], Cell: func(o *p, _ time.Time) any {
			if l := o.Spec.Limited; l != nil {
				if n := cell(l); n != nil {
					return int64(*n)
				}
			}
			return none
		}}
	}
	queuing := func(name, field string, cell func(*flowcontrol.QueuingConfiguration) *int32) Column[p] {
		return count(name, flowcontrol.QueuingConfiguration{}.SwaggerDoc(), field, func(l *flowcontrol.LimitedPriorityLevelConfiguration) *int32 {
			if l.LimitResponse.Queuing == nil {
				return nil
			}
			return cell(l.LimitResponse.Queuing)
		})
	}
	return list(name[p](),
		text("Type", flowcontrol.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"], func(o *p) string { return string(o.Spec.Type) }),
		count("NominalConcurrencyShares", flowcontrol.LimitedPriorityLevelConfiguration{}.SwaggerDoc(), "nominalConcurrencyShares",
			func(l *flowcontrol.LimitedPriorityLevelConfiguration) *int32 { return l.NominalConcurrencyShares }),
		queuing("Queues", "queues", func(q *flowcontrol.QueuingConfiguration) *int32 { return &q.Queues }),
		queuing("HandSize", "handSize", func(q *flowcontrol.QueuingConfiguration) *int32 { return &q.HandSize }),
		queuing("QueueLengthLimit", "queueLengthLimit", func(q *flowcontrol.QueuingConfiguration) *int32 { return &q.QueueLengthLimit }),
		age[p]())
}

// StorageVersionMigration shows what is migrated, and how far that is.
func StorageVersionMigration() []Column[migration.StorageVersionMigration] {
	type m = migration.StorageVersionMigration
	return list(name[m](),
		text("Resource", "GroupResource to migrate", func(o *m) string { return schema.GroupResource(o.Spec.Resource).String() }),
		text("Status", "Status of the migration", func(o *m) string {
			status := "Unknown"
			for _, c := range o.Status.Conditions {
				if c.Status == metav1.ConditionTrue {
					status = c.Type
				}
			}
			return status
		}))
}

// DeviceTaintRule shows the taint, not the devices, whose choice may be long.
func DeviceTaintRule() []Column[resource.DeviceTaintRule] {
	type r = resource.DeviceTaintRule
	doc := resource.DeviceTaint{}.SwaggerDoc()
	return list(name[r](),
		text("Key", doc["key"], func(o *r) string { return o.Spec.Taint.Key }),
		text("Value", doc["value"], func(o *r) string { return o.Spec.Taint.Value }),
		text("Effect", doc["effect"], func(o *r) string { return string(o.Spec.Taint.Effect) }),
		timed("TimeAdded", doc["timeAdded"], func(o *r, now time.Time) string {
			if t := o.Spec.Taint.TimeAdded; t != nil {
				return since(t.Time, now)
			}
			return ""
		}),
		age[r]())
}
