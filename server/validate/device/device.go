package device

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"

	quantity "k8s.io/apimachinery/pkg/api/resource"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

func device(e *rule.Errors, d *resource.Device, perDevice bool, p *field.Path) {
	e.DNSLabel(p.Child("name"), d.Name)
	if n := len(d.Attributes) + len(d.Capacity); n > resource.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		e.Invalid(p, n, tooMany("attributes and capacities", resource.ResourceSliceMaxAttributesAndCapacitiesPerDevice))
	}
	attributes(e, d, p)
	for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
		at := p.Child("capacity")
		qualified(e, string(name), at)
		c := d.Capacity[name]
		switch policy := at.Key(string(name)).Child("requestPolicy"); {
		case c.RequestPolicy == nil:
		case d.AllowMultipleAllocations == nil || !*d.AllowMultipleAllocations:
			e.Forbidden(policy, "allowMultipleAllocations must be true")
		default:
			requestPolicy(e, c.RequestPolicy, c.Value, policy)
		}
	}
	if at := p.Child("taints"); e.AtMost(at, len(d.Taints), resource.DeviceTaintsMaxLength) {
		for i := range d.Taints {
			taint(e, &d.Taints[i], at.Index(i))
		}
	}
	consumption(e, d.ConsumesCounters, p.Child("consumesCounters"))
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch {
	case perDevice:
		where{name: d.NodeName, selector: d.NodeSelector, all: d.AllNodes}.check(e, one, one, p)
	case d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil:
		e.Invalid(p, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")
	}
	binding(e, d.BindingConditions, d.BindingFailureConditions, p)
	allocatable(e, d, p.Child("nodeAllocatableResources"))
}

func consumption(e *rule.Errors, list []resource.DeviceCounterConsumption, p *field.Path) {
	if !e.AtMost(p, len(list), resource.ResourceSliceMaxDeviceCounterConsumptionsPerDevice) {
		return
	}
	seen := rule.Unique{}
	for i, c := range list {
		counters(e, c.CounterSet, c.Counters, p.Index(i), "counterSet")
		groups, again := p.Index(i).Child("compatibilityGroups"), rule.Unique{}
		if e.AtMost(groups, len(c.CompatibilityGroups), resource.DeviceCompatibilityGroupsMaxSize) {
			for j, g := range c.CompatibilityGroups {
				e.DNSLabel(groups.Index(j), g)
				if again.Again(g) {
					e.Duplicate(groups.Index(j), g)
				}
			}
		}
		if seen.Again(c.CounterSet) {
			e.Duplicate(p.Index(i), c.CounterSet)
		}
	}
}

// attributes checks names and values; a list counts with each of its values.
func attributes(e *rule.Errors, d *resource.Device, p *field.Path) {
	n := 0
	for _, a := range d.Attributes {
		n += max(1, len(a.BoolValues)+len(a.IntValues)+len(a.StringValues)+len(a.VersionValues))
	}
	if n > resource.ResourceSliceMaxAttributeValuesPerDevice {
		e.Invalid(p, n, tooMany("attribute values", resource.ResourceSliceMaxAttributeValuesPerDevice))
	}
	at := p.Child("attributes")
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		qualified(e, string(name), at)
		a := d.Attributes[name]
		attribute(e, &a, at.Key(string(name)))
	}
}

func attribute(e *rule.Errors, a *resource.DeviceAttribute, p *field.Path) {
	set := 0
	for _, is := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil,
		a.BoolValues != nil, a.IntValues != nil, a.StringValues != nil, a.VersionValues != nil} {
		if is {
			set++
		}
	}
	if a.StringValue != nil {
		e.Shorter(p.Child("string"), *a.StringValue, resource.DeviceAttributeMaxValueLength)
	}
	if a.VersionValue != nil {
		version(e, *a.VersionValue, p.Child("version"))
	}
	notEmpty(e, a.BoolValues, p.Child("bools"))
	notEmpty(e, a.IntValues, p.Child("ints"))
	notEmpty(e, a.StringValues, p.Child("strings"))
	for i, v := range a.StringValues {
		e.Shorter(p.Child("strings").Index(i), v, resource.DeviceAttributeMaxValueLength)
	}
	notEmpty(e, a.VersionValues, p.Child("versions"))
	for i, v := range a.VersionValues {
		version(e, v, p.Child("versions").Index(i))
	}
	switch set {
	case 0:
		e.Invalid(p, "", "exactly one value must be specified")
	case 1:
	default:
		e.Invalid(p, a, "exactly one value must be specified")
	}
}

func notEmpty[T any](e *rule.Errors, list []T, p *field.Path) {
	if list != nil && len(list) == 0 {
		e.Invalid(p, list, "must not be empty if specified")
	}
}

// semantic is the grammar of semver.org 2.0.0, without a leading v.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
	`(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

func version(e *rule.Errors, v string, p *field.Path) {
	if !semantic.MatchString(v) {
		e.Invalid(p, v, "must be a string compatible with semver.org spec 2.0.0")
	}
	e.Shorter(p, v, resource.DeviceAttributeMaxValueLength)
}

// longestValidValues is the most that a policy may list.
const longestValidValues = 10

// requestPolicy checks how much of a capacity a claim may take.
func requestPolicy(e *rule.Errors, r *resource.CapacityRequestPolicy, whole quantity.Quantity, p *field.Path) {
	switch {
	case len(r.ValidValues) > 0 && r.ValidRange != nil:
		e.Forbidden(p, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)
	case len(r.ValidValues) > 0 && r.Default == nil:
		e.Required(p.Child("default"), "required when validValues is defined")
	case len(r.ValidValues) > 0:
		validValues(e, r, whole, p.Child("validValues"))
	case r.ValidRange != nil && r.Default == nil:
		e.Required(p.Child("default"), "required when validRange is defined")
	case r.ValidRange != nil:
		validRange(e, r, whole, p.Child("validRange"))
	}
}

func validValues(e *rule.Errors, r *resource.CapacityRequestPolicy, whole quantity.Quantity, p *field.Path) {
	if !e.AtMost(p, len(r.ValidValues), longestValidValues) {
		return
	}
	seen, found := rule.Unique{}, false
	for i := range r.ValidValues {
		v := &r.ValidValues[i]
		if i > 0 && r.ValidValues[i-1].Cmp(*v) > 0 {
			e.Invalid(p.Index(i), v.String(), "values must be sorted in ascending order")
		}
		if v.Cmp(whole) > 0 {
			e.Invalid(p.Index(i), v.String(), fmt.Sprintf("option is larger than capacity value: %s", whole.String()))
		}
		if seen.Again(v.AsDec().String()) {
			e.Duplicate(p.Index(i), v.String())
		}
		found = found || v.Cmp(*r.Default) == 0
	}
	if !found {
		e.Invalid(p, r.Default.String(), "default value is not valid according to the requestPolicy")
	}
}

func validRange(e *rule.Errors, r *resource.CapacityRequestPolicy, whole quantity.Quantity, p *field.Path) {
	v := r.ValidRange
	if v.Min == nil {
		e.Required(p.Child("min"), "required when validRange is defined")
		return
	}
	above := func(name string, a, b *quantity.Quantity, format string) {
		if a.Cmp(*b) > 0 {
			e.Invalid(p.Child(name), a.String(), fmt.Sprintf(format, b.String()))
		}
	}
	above("min", v.Min, &whole, "min is larger than capacity value: %s")
	if r.Default.Cmp(*v.Min) < 0 {
		e.Invalid(p.Child("default"), r.Default.String(), fmt.Sprintf("default is less than min: %s", v.Min.String()))
	}
	if v.Max != nil {
		above("max", v.Min, v.Max, "min is larger than max: %s")
		above("max", v.Max, &whole, "max is larger than capacity value: %s")
		above("default", r.Default, v.Max, "default is more than max: %s")
	}
	if v.Step == nil {
		return
	}
	if v.Step.Sign() <= 0 {
		e.Invalid(p.Child("step"), v.Step.String(), rule.Positive)
		return
	}
	next := v.Min.DeepCopy()
	next.Add(*v.Step)
	if next.Cmp(whole) > 0 {
		e.Invalid(p.Child("step"), v.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", next.String(), whole.String()))
	}
	for _, q := range []*quantity.Quantity{r.Default, v.Max} {
		if q != nil && !multiple(q, v) {
			e.Invalid(p.Child("step"), q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", v.Step.String(), v.Min.String()))
		}
	}
}

// multiple tells whether q is the minimum and a number of steps. It counts in
// thousandths while all fit in 63 bits, else in whole units.
func multiple(q *quantity.Quantity, v *resource.CapacityRequestPolicyRange) bool {
	count := (*quantity.Quantity).MilliValue
	for _, x := range []*quantity.Quantity{q, v.Min, v.Step} {
		if x.CmpInt64(math.MaxInt64/1000) > 0 {
			count = (*quantity.Quantity).Value
		}
	}
	step := count(v.Step)
	return step > 0 && (count(q)-count(v.Min))%step == 0
}

// binding checks the conditions that must hold, or show failure, before a pod is bound.
func binding(e *rule.Errors, wanted, failed []string, p *field.Path) {
	w, f := p.Child("bindingConditions"), p.Child("bindingFailureConditions")
	if e.AtMost(w, len(wanted), resource.BindingConditionsMaxSize) {
		for i, c := range wanted {
			e.LabelName(w.Index(i), c)
		}
	}
	if e.AtMost(f, len(failed), resource.BindingFailureConditionsMaxSize) {
		for i, c := range failed {
			e.LabelName(f.Index(i), c)
		}
	}
	ones, others := rule.Unique{}, rule.Unique{}
	for i, c := range wanted {
		if ones.Again(c) {
			e.Duplicate(w.Index(i), c)
		}
	}
	for i, c := range failed {
		if others.Again(c) {
			e.Duplicate(f.Index(i), c)
		}
		if ones[c] {
			e.Invalid(f.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions")
		}
	}
	switch {
	case len(wanted) == 0 && len(failed) > 0:
		e.Invalid(w, wanted, "bindingConditions are required to use bindingFailureConditions")
	case len(failed) == 0 && len(wanted) > 0:
		e.Invalid(f, failed, "bindingFailureConditions are required to use bindingConditions")
	}
}

// allocatable checks what of the node's own resources a device stands for.
func allocatable(e *rule.Errors, d *resource.Device, p *field.Path) {
	positive := func(at *field.Path, q *quantity.Quantity) {
		if q != nil && q.Sign() <= 0 {
			e.Invalid(at, q.String(), "must be positive")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.NodeAllocatableResources)) {
		r, at := d.NodeAllocatableResources[name], p.Key(string(name))
		if name != core.ResourceCPU && name != core.ResourceMemory && name != core.ResourceEphemeralStorage && !rule.HugePages(name) {
			e.Invalid(at, name, "must be a node allocatable resource name")
		}
		if r.Mapping == nil && r.Overhead == nil {
			e.Required(at, "at least one of mapping or overhead must be set")
		}
		if m := r.Mapping; m != nil {
			at := at.Child("mapping")
			switch {
			case m.CapacityKey == nil && m.CapacityMultiplier != nil:
				e.Required(at.Child("capacityKey"), "capacityKey is required when capacityMultiplier is set")
			case m.CapacityKey == nil:
			case *m.CapacityKey == "":
				e.Invalid(at.Child("capacityKey"), "", "capacityKey must not be an empty string")
			default:
				if _, ok := d.Capacity[*m.CapacityKey]; !ok {
					e.NotFound(at.Child("capacityKey"), *m.CapacityKey)
				}
			}
			if m.CapacityKey != nil && m.CapacityMultiplier == nil {
				e.Required(at.Child("capacityMultiplier"), "capacityMultiplier is required when capacityKey is set")
			}
			if m.CapacityKey != nil {
				positive(at.Child("capacityMultiplier"), m.CapacityMultiplier)
			}
			positive(at.Child("deviceMultiplier"), m.DeviceMultiplier)
		}
		if o := r.Overhead; o != nil {
			overhead(e, o, at.Child("overhead"))
		}
	}
}

func overhead(e *rule.Errors, o *resource.NodeAllocatableOverhead, p *field.Path) {
	if o.PerPod == nil && o.PerContainer == nil {
		e.Invalid(p, "", "at least one of perPod or perContainer must be set")
	}
	if o.PerPod != nil && o.PerPod.Sign() < 0 {
		e.Invalid(p.Child("perPod"), o.PerPod.String(), "must be non-negative")
	}
	if o.PerContainer != nil && o.PerContainer.Sign() < 0 {
		e.Invalid(p.Child("perContainer"), o.PerContainer.String(), "must be non-negative")
	}
}
