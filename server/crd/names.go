package crd

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// decide fills in the status of a definition: which of the names it asks for it gets,
// and what follows from that. It is pure; d is changed.
func decide(d *apiext.CustomResourceDefinition, peers []*apiext.CustomResourceDefinition, now time.Time) {
	reason, message := acceptNames(d, peers)
	names := apiext.CustomResourceDefinitionCondition{Type: apiext.NamesAccepted, Status: apiext.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	if reason != "" {
		names.Status, names.Reason, names.Message = apiext.ConditionFalse, reason, message
	}
	setCondition(d, names, now)
	switch {
	case holds(d, apiext.Established): // once and for all
	case names.Status == apiext.ConditionTrue:
		setCondition(d, apiext.CustomResourceDefinitionCondition{Type: apiext.Established, Status: apiext.ConditionTrue,
			Reason: "InitialNamesAccepted", Message: "the initial names have been accepted"}, now)
	default:
		setCondition(d, apiext.CustomResourceDefinitionCondition{Type: apiext.Established, Status: apiext.ConditionFalse,
			Reason: "NotAccepted", Message: "not all names are accepted"}, now)
	}
	apihelpers.RemoveCRDCondition(d, conversionSupported)
	if c, ok := approval(d); ok {
		setCondition(d, c, now)
	}
}

// conversionSupported is a condition that earlier versions of ours put on definitions that
// convert by webhook.
const conversionSupported apiext.CustomResourceDefinitionConditionType = "ConversionSupported"

func byWebhook(d *apiext.CustomResourceDefinition) bool {
	return d.Spec.Conversion != nil && d.Spec.Conversion.Strategy == apiext.WebhookConverter && len(d.Spec.Versions) > 1
}

// acceptNames moves the names that nobody else has from the spec to the status, as
// upstream's calculateNamesAndConditions; the reason is empty when all of them could be.
func acceptNames(d *apiext.CustomResourceDefinition, peers []*apiext.CustomResourceDefinition) (reason, message string) {
	resources, kinds := map[string]bool{}, map[string]bool{}
	for _, p := range peers {
		n := &p.Status.AcceptedNames
		for _, s := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
			resources[s] = true
		}
		kinds[n.Kind], kinds[n.ListKind] = true, true
	}
	want, have := &d.Spec.Names, &d.Status.AcceptedNames
	take := func(want string, have *string, taken map[string]bool, why string) {
		if want != *have && taken[want] {
			reason, message = why, fmt.Sprintf("%q is already in use", want)
			return
		}
		*have = want
	}
	take(want.Plural, &have.Plural, resources, "PluralConflict")
	take(want.Singular, &have.Singular, resources, "SingularConflict")
	var errs []error
	for _, s := range want.ShortNames {
		if !slices.Contains(have.ShortNames, s) && resources[s] {
			errs = append(errs, fmt.Errorf("%q is already in use", s))
		}
	}
	if err := utilerrors.NewAggregate(errs); err != nil {
		reason, message = "ShortNamesConflict", err.Error()
	} else {
		have.ShortNames = want.ShortNames
	}
	take(want.Kind, &have.Kind, kinds, "KindConflict")
	take(want.ListKind, &have.ListKind, kinds, "ListKindConflict")
	have.Categories = want.Categories
	return reason, message
}

// approval is the condition of groups that belong to the Kubernetes community.
func approval(d *apiext.CustomResourceDefinition) (apiext.CustomResourceDefinitionCondition, bool) {
	c := apiext.CustomResourceDefinitionCondition{Type: apiext.KubernetesAPIApprovalPolicyConformant, Status: apiext.ConditionFalse}
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		return c, false
	}
	state, message := apihelpers.GetAPIApprovalState(d.Annotations)
	c.Message = message
	switch state {
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiext.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	default:
		c.Reason = "InvalidAnnotation"
	}
	return c, true
}

func holds(d *apiext.CustomResourceDefinition, t apiext.CustomResourceDefinitionConditionType) bool {
	return apihelpers.IsCRDConditionTrue(d, t)
}

// setCondition replaces a condition; the time moves with its status only.
func setCondition(d *apiext.CustomResourceDefinition, c apiext.CustomResourceDefinitionCondition, now time.Time) {
	c.LastTransitionTime = metav1.Time{Time: now.UTC().Truncate(time.Second)}
	for i := range d.Status.Conditions {
		old := &d.Status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status && !old.LastTransitionTime.IsZero() {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.ObservedGeneration = old.ObservedGeneration
		*old = c
		return
	}
	d.Status.Conditions = append(d.Status.Conditions, c)
}

func sameStatus(a, b *apiext.CustomResourceDefinitionStatus) bool {
	return equality.Semantic.DeepEqual(a, b)
}

func sameNames(a, b *apiext.CustomResourceDefinitionNames) bool {
	return equality.Semantic.DeepEqual(a, b)
}
