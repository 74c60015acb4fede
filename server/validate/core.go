package validate

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

func isIP(v string) bool {
	_, err := netip.ParseAddr(v)
	return err == nil
}

// sortedKeys gives errors about maps one order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ConfigMap checks keys and size.
func ConfigMap(o *core.ConfigMap) Errors {
	var e rule.Errors
	size := 0
	for _, k := range sortedKeys(o.Data) {
		at := field.NewPath("data").Key(k)
		e.Each(at, k, validation.IsConfigMapKey(k))
		if _, twice := o.BinaryData[k]; twice {
			e.Invalid(at, k, "duplicate of key present in binaryData")
		}
		size += len(o.Data[k])
	}
	for _, k := range sortedKeys(o.BinaryData) {
		e.Each(field.NewPath("binaryData").Key(k), k, validation.IsConfigMapKey(k))
		size += len(o.BinaryData[k])
	}
	if size > core.MaxSecretSize {
		e.Add(field.TooLong(field.NewPath(""), "", core.MaxSecretSize))
	}
	return e.List()
}

const sealed = "field is immutable when `immutable` is set"

// ConfigMapUpdate also keeps what is marked immutable.
func ConfigMapUpdate(o, old *core.ConfigMap) Errors {
	var e rule.Errors
	if old.Immutable != nil && *old.Immutable {
		if o.Immutable == nil || !*o.Immutable {
			e.Forbidden(field.NewPath("immutable"), sealed)
		}
		if !reflect.DeepEqual(o.Data, old.Data) {
			e.Forbidden(field.NewPath("data"), sealed)
		}
		if !reflect.DeepEqual(o.BinaryData, old.BinaryData) {
			e.Forbidden(field.NewPath("binaryData"), sealed)
		}
	}
	e.Join(ConfigMap(o))
	return e.List()
}

// Secret checks keys, size and what its type asks for.
func Secret(o *core.Secret) Errors {
	var e rule.Errors
	data := field.NewPath("data")
	size := 0
	for _, k := range sortedKeys(o.Data) {
		e.Each(data.Key(k), k, validation.IsConfigMapKey(k))
		size += len(o.Data[k])
	}
	if size > core.MaxSecretSize {
		e.Add(field.TooLong(data, "", core.MaxSecretSize))
	}
	has := func(key string) bool {
		_, ok := o.Data[key]
		return ok
	}
	switch o.Type {
	case core.SecretTypeServiceAccountToken:
		e.Need(metaPath.Child("annotations").Key(core.ServiceAccountNameKey), o.Annotations[core.ServiceAccountNameKey])
	case core.SecretTypeDockercfg:
		jsonObject(&e, o, core.DockerConfigKey)
	case core.SecretTypeDockerConfigJson:
		jsonObject(&e, o, core.DockerConfigJsonKey)
	case core.SecretTypeBasicAuth:
		if !has(core.BasicAuthUsernameKey) && !has(core.BasicAuthPasswordKey) {
			e.Required(data.Key(core.BasicAuthUsernameKey), "")
			e.Required(data.Key(core.BasicAuthPasswordKey), "")
		}
	case core.SecretTypeSSHAuth:
		if len(o.Data[core.SSHAuthPrivateKey]) == 0 {
			e.Required(data.Key(core.SSHAuthPrivateKey), "")
		}
	case core.SecretTypeTLS:
		for _, key := range []string{core.TLSCertKey, core.TLSPrivateKeyKey} {
			if !has(key) {
				e.Required(data.Key(key), "")
			}
		}
	}
	return e.List()
}

func jsonObject(e *rule.Errors, o *core.Secret, key string) {
	at := field.NewPath("data").Key(key)
	b, has := o.Data[key]
	if !has {
		e.Required(at, "")
		return
	}
	if err := json.Unmarshal(b, &map[string]any{}); err != nil {
		e.Invalid(at, "<secret contents redacted>", err.Error())
	}
}

// SecretUpdate also keeps the type and what is marked immutable.
func SecretUpdate(o, old *core.Secret) Errors {
	var e rule.Errors
	e.Unchanged(field.NewPath("type"), o.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		if o.Immutable == nil || !*o.Immutable {
			e.Forbidden(field.NewPath("immutable"), sealed)
		}
		if !reflect.DeepEqual(o.Data, old.Data) {
			e.Forbidden(field.NewPath("data"), sealed)
		}
	}
	e.Join(Secret(o))
	return e.List()
}

// Namespace checks the finalizers of the spec.
func Namespace(o *core.Namespace) Errors {
	var e rule.Errors
	for _, f := range o.Spec.Finalizers {
		e.Qualified(specPath.Child("finalizers"), string(f))
		finalizer(&e, string(f), specPath.Child("finalizers"))
	}
	return e.List()
}

// NamespaceFinalize checks a write of the finalizers.
func NamespaceFinalize(o, _ *core.Namespace) Errors { return Namespace(o) }

// NamespaceStatus ties the phase to the deletion.
func NamespaceStatus(o, _ *core.Namespace) Errors {
	var e rule.Errors
	at := statusPath.Child("Phase")
	switch deleted := !o.DeletionTimestamp.IsZero(); {
	case !deleted && o.Status.Phase != core.NamespaceActive:
		e.Invalid(at, o.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
	case deleted && o.Status.Phase != core.NamespaceTerminating:
		e.Invalid(at, o.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
	return e.List()
}

// Node checks taints, ranges and amounts.
func Node(o *core.Node) Errors {
	var e rule.Errors
	taints(&e, o.Spec.Taints, metaPath.Child("taints"))
	nodeResources(&e, o)
	p, seen := specPath.Child("podCIDRs"), rule.Unique{}
	for i, cidr := range o.Spec.PodCIDRs {
		e.CIDR(p.Index(i), cidr)
		if seen.Again(cidr) {
			e.Duplicate(p.Index(i), cidr)
		}
	}
	if !rule.OnePerFamily(o.Spec.PodCIDRs) {
		e.Invalid(p, o.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family")
	}
	return e.List()
}

func nodeResources(e *rule.Errors, o *core.Node) {
	for _, n := range rule.Sorted(o.Status.Capacity) {
		e.Join(rule.Quantity(statusPath.Child("capacity", string(n)), n, o.Status.Capacity[n]))
	}
	for _, n := range rule.Sorted(o.Status.Allocatable) {
		e.Join(rule.Quantity(statusPath.Child("allocatable", string(n)), n, o.Status.Allocatable[n]))
	}
}

func taints(e *rule.Errors, list []core.Taint, p *field.Path) {
	seen := rule.Unique{}
	for i, t := range list {
		at := p.Index(i)
		e.LabelName(at.Child("key"), t.Key)
		if complaints := validation.IsValidLabelValue(t.Value); len(complaints) > 0 {
			e.Invalid(at.Child("value"), t.Value, strings.Join(complaints, ";"))
		}
		rule.TaintEffect(e, at.Child("effect"), t.Effect)
		if seen.Again(t.Key + "/" + string(t.Effect)) {
			twice := field.Duplicate(at, t)
			twice.Detail = "taints must be unique by key and effect pair"
			e.Add(twice)
		}
	}
}

// NodeUpdate also keeps ranges and provider once they are set.
func NodeUpdate(o, old *core.Node) Errors {
	var e rule.Errors
	nodeResources(&e, o)
	seen := map[core.NodeAddress]bool{}
	for i, a := range o.Status.Addresses {
		if seen[a] {
			e.Duplicate(statusPath.Child("addresses").Index(i), a)
		}
		seen[a] = true
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(o.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		e.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid")
	}
	if old.Spec.ProviderID != "" && o.Spec.ProviderID != old.Spec.ProviderID {
		e.Forbidden(specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid")
	}
	taints(&e, o.Spec.Taints, metaPath.Child("taints"))
	if o.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		e.Forbidden(specPath.Child("externalID"), "may not be updated")
	}
	return e.List()
}

// ComponentStatus and ServiceAccount have no rules beyond their metadata.

// ResourceQuota checks names, amounts and scopes.
func ResourceQuota(o *core.ResourceQuota) Errors {
	var e rule.Errors
	quotaAmounts(&e, o.Spec.Hard, specPath.Child("hard"))
	quotaScopes(&e, &o.Spec)
	quotaSelector(&e, &o.Spec)
	return e.List()
}

func quotaAmounts(e *rule.Errors, l core.ResourceList, p *field.Path) {
	for _, n := range rule.Sorted(l) {
		e.Join(rule.QuotaResourceName(p.Key(string(n)), n), rule.Quantity(p.Key(string(n)), n, l[n]))
	}
}

var quotaScopeNames = []core.ResourceQuotaScope{
	core.ResourceQuotaScopeTerminating, core.ResourceQuotaScopeNotTerminating, core.ResourceQuotaScopeBestEffort, core.ResourceQuotaScopeNotBestEffort,
	core.ResourceQuotaScopePriorityClass, core.ResourceQuotaScopeCrossNamespacePodAffinity, core.ResourceQuotaScopeVolumeAttributesClass,
}

// scopeCounts tells whether a scope can narrow the counting of a resource.
func scopeCounts(scope core.ResourceQuotaScope, n core.ResourceName) bool {
	switch scope {
	case core.ResourceQuotaScopeBestEffort:
		return n == core.ResourcePods
	case core.ResourceQuotaScopeVolumeAttributesClass:
		return n == core.ResourcePersistentVolumeClaims || n == core.ResourceRequestsStorage
	}
	compute := []core.ResourceName{core.ResourceCPU, core.ResourceMemory, core.ResourceEphemeralStorage, core.ResourceRequestsCPU, core.ResourceRequestsMemory,
		core.ResourceRequestsEphemeralStorage, core.ResourceLimitsCPU, core.ResourceLimitsMemory, core.ResourceLimitsEphemeralStorage, core.ResourcePods}
	return slices.Contains(compute, n)
}

func quotaScopes(e *rule.Errors, s *core.ResourceQuotaSpec) {
	p := specPath.Child("scopes")
	for _, scope := range s.Scopes {
		if !slices.Contains(quotaScopeNames, scope) {
			e.Invalid(p, s.Scopes, "unsupported scope")
		}
		for _, n := range rule.Sorted(s.Hard) {
			if rule.OfQuotas(n) && !scopeCounts(scope, n) {
				e.Invalid(p, s.Scopes, "unsupported scope applied to resource")
			}
		}
	}
	conflicting(e, s, s.Scopes, p)
}

func conflicting(e *rule.Errors, s *core.ResourceQuotaSpec, scopes []core.ResourceQuotaScope, p *field.Path) {
	for _, pair := range [][2]core.ResourceQuotaScope{
		{core.ResourceQuotaScopeBestEffort, core.ResourceQuotaScopeNotBestEffort}, {core.ResourceQuotaScopeTerminating, core.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			e.Invalid(p, s.Scopes, "conflicting scopes")
		}
	}
}

func quotaSelector(e *rule.Errors, s *core.ResourceQuotaSpec) {
	if s.ScopeSelector == nil {
		return
	}
	p := specPath.Child("scopeSelector", "matchExpressions")
	var scopes []core.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		if !slices.Contains(quotaScopeNames, r.ScopeName) {
			e.Invalid(p.Child("scopeName"), r.ScopeName, "unsupported scope")
		}
		for _, n := range rule.Sorted(s.Hard) {
			if rule.OfQuotas(n) && !scopeCounts(r.ScopeName, n) {
				e.Invalid(p, s.ScopeSelector, "unsupported scope applied to resource")
			}
		}
		switch r.ScopeName {
		case core.ResourceQuotaScopePriorityClass, core.ResourceQuotaScopeVolumeAttributesClass:
		default:
			if r.Operator != core.ScopeSelectorOpExists {
				e.Invalid(p.Child("operator"), r.Operator, "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
					"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
			}
		}
		switch r.Operator {
		case core.ScopeSelectorOpIn, core.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				e.Required(p.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		case core.ScopeSelectorOpExists, core.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				e.Invalid(p.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
			}
		default:
			e.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator")
		}
	}
	conflicting(e, s, scopes, p)
}

// ResourceQuotaUpdate also keeps the scopes.
func ResourceQuotaUpdate(o, old *core.ResourceQuota) Errors {
	var e rule.Errors
	e.Join(ResourceQuota(o))
	set := func(list []core.ResourceQuotaScope) []core.ResourceQuotaScope {
		list = slices.Clone(list)
		slices.Sort(list)
		return slices.Compact(list)
	}
	if !equality.Semantic.DeepEqual(set(o.Spec.Scopes), set(old.Spec.Scopes)) {
		e.Invalid(specPath.Child("scopes"), o.Spec.Scopes, rule.Immutable)
	}
	return e.List()
}

// ResourceQuotaStatus checks reported amounts.
func ResourceQuotaStatus(o, _ *core.ResourceQuota) Errors {
	var e rule.Errors
	quotaAmounts(&e, o.Status.Hard, statusPath.Child("hard"))
	quotaAmounts(&e, o.Status.Used, statusPath.Child("used"))
	return e.List()
}
