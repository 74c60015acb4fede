package device

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/podspec"
	"orch/server/validate/rule"
)

func coreName(n string) core.ResourceName { return core.ResourceName(n) }

// Slice checks the pool, where its devices are, and each device.
func Slice(o *resource.ResourceSlice) field.ErrorList { return slice(&o.Spec) }

// SliceUpdate also keeps driver, pool and node.
func SliceUpdate(o, old *resource.ResourceSlice) field.ErrorList {
	var e rule.Errors
	e.Join(slice(&o.Spec))
	e.Unchanged(specPath.Child("pool", "name"), o.Spec.Pool.Name, old.Spec.Pool.Name)
	e.Unchanged(specPath.Child("driver"), o.Spec.Driver, old.Spec.Driver)
	e.Unchanged(specPath.Child("nodeName"), o.Spec.NodeName, old.Spec.NodeName)
	return e.List()
}

func slice(s *resource.ResourceSliceSpec) field.ErrorList {
	var e rule.Errors
	p := specPath
	e.Join(podspec.CSIDriverName(s.Driver, p.Child("driver")))
	pool(&e, s.Pool.Name, p.Child("pool", "name"))
	if n := s.Pool.ResourceSliceCount; n <= 0 {
		e.Invalid(p.Child("pool", "resourceSliceCount"), n, rule.Positive)
	}
	if n := s.Pool.Generation; n < 0 {
		e.Invalid(p.Child("pool", "generation"), n, "must be greater than or equal to zero")
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	w := where{name: s.NodeName, selector: s.NodeSelector, all: s.AllNodes, perDevice: s.PerDeviceNodeSelection}
	w.check(&e, one, one+", but multiple fields are set", p)
	if s.NodeSelector != nil && len(s.NodeSelector.NodeSelectorTerms) != 1 {
		e.Invalid(p.Child("nodeSelector", "nodeSelectorTerms"), s.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term")
	}
	if s.SharedCounters != nil && s.Devices != nil {
		e.Invalid(p, "", "only one of `sharedCounters` or `devices` is allowed")
	}
	devices(&e, s, p.Child("devices"))
	if at, seen := p.Child("sharedCounters"), (rule.Unique{}); e.AtMost(at, len(s.SharedCounters), resource.ResourceSliceMaxCounterSets) {
		for i, c := range s.SharedCounters {
			counters(&e, c.Name, c.Counters, at.Index(i), "name")
			if seen.Again(c.Name) {
				e.Duplicate(at.Index(i), c.Name)
			}
		}
	}
	if s.PartitionTypeAttribute != nil {
		partitionType(&e, s, p)
	}
	skipped(&e, s.SkipNodeOperations, p.Child("skipNodeOperations"))
	return e.List()
}

// where says for which nodes a slice or a device is; one of its fields is set.
type where struct {
	name           *string
	selector       *core.NodeSelector
	all, perDevice *bool
}

func (w where) check(e *rule.Errors, missing, several string, p *field.Path) {
	var set []string
	if w.name != nil {
		at := p.Child("nodeName")
		if *w.name == "" {
			e.Invalid(at, *w.name, "must be either unset or set to a non-empty string")
		} else {
			set = append(set, "`nodeName`")
			e.Each(at, *w.name, apimachinery.NameIsDNSSubdomain(*w.name, false))
		}
	}
	if w.selector != nil {
		set = append(set, "`nodeSelector`")
		e.Join(rule.NodeSelector(p.Child("nodeSelector"), w.selector))
	}
	for _, f := range []struct {
		name string
		is   *bool
	}{{"allNodes", w.all}, {"perDeviceNodeSelection", w.perDevice}} {
		switch {
		case f.is == nil:
		case *f.is:
			set = append(set, "`"+f.name+"`")
		default:
			e.Invalid(p.Child(f.name), false, "must be either unset or set to true")
		}
	}
	switch len(set) {
	case 0:
		e.Required(p, missing)
	case 1:
	default:
		e.Invalid(p, "{"+strings.Join(set, ", ")+"}", several)
	}
}

// devices checks each; those with advanced features are allowed in smaller numbers.
func devices(e *rule.Errors, s *resource.ResourceSliceSpec, p *field.Path) {
	most := resource.ResourceSliceMaxDevices
	if slices.ContainsFunc(s.Devices, advanced) {
		most = resource.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	if !e.AtMost(p, len(s.Devices), most) {
		return
	}
	seen := rule.Unique{}
	for i := range s.Devices {
		device(e, &s.Devices[i], s.PerDeviceNodeSelection != nil && *s.PerDeviceNodeSelection, p.Index(i))
	}
	for i := range s.Devices {
		if seen.Again(s.Devices[i].Name) {
			e.Duplicate(p.Index(i), s.Devices[i].Name)
		}
	}
}

func advanced(d resource.Device) bool {
	if len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 {
		return true
	}
	for _, a := range d.Attributes {
		if a.BoolValues != nil || a.IntValues != nil || a.StringValues != nil || a.VersionValues != nil {
			return true
		}
	}
	return false
}

// partitionType wants every device that consumes counters to have the attribute.
func partitionType(e *rule.Errors, s *resource.ResourceSliceSpec, p *field.Path) {
	name := string(*s.PartitionTypeAttribute)
	consumes := func(d resource.Device) bool { return len(d.ConsumesCounters) > 0 }
	if !slices.ContainsFunc(s.Devices, consumes) {
		e.Invalid(p.Child("partitionTypeAttribute"), name, "may only be set on a slice which declares devices that consume counters")
		return
	}
	before := e.Len()
	fullName(e, *s.PartitionTypeAttribute, p.Child("partitionTypeAttribute"))
	if e.Len() > before {
		return
	}
	bare, _ := strings.CutPrefix(name, s.Driver+"/")
	for i, d := range s.Devices {
		if !consumes(d) {
			continue
		}
		at := p.Child("devices").Index(i).Child("attributes").Key(name)
		a, ok := d.Attributes[resource.QualifiedName(name)]
		if !ok {
			a, ok = d.Attributes[resource.QualifiedName(bare)]
		}
		switch {
		case !ok:
			e.Required(at, "device consumes counters and `partitionTypeAttribute` names this attribute, so it must be set")
		case a.StringValue == nil:
			e.Invalid(at, a, "must be a string value because `partitionTypeAttribute` names this attribute")
		}
	}
}

func skipped(e *rule.Errors, list []resource.SkipNodeOperation, p *field.Path) {
	known := []resource.SkipNodeOperation{resource.SkipNodeOperationNodePrepareResources, resource.SkipNodeOperationNodeUnprepareResources, resource.SkipNodeOperationAll}
	seen := rule.Unique{}
	for i, o := range list {
		rule.Among(e, p.Index(i), o, known...)
		if seen.Again(string(o)) {
			e.Duplicate(p.Index(i), o)
		}
	}
	if seen[string(resource.SkipNodeOperationNodePrepareResources)] && !seen[string(resource.SkipNodeOperationNodeUnprepareResources)] && !seen[string(resource.SkipNodeOperationAll)] {
		e.Invalid(p, list, "NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped")
	}
}

// counters checks a counter set, or what a device takes from one.
func counters(e *rule.Errors, set string, list map[string]resource.Counter, p *field.Path, nameField string) {
	if at := p.Child(nameField); set == "" {
		e.Required(at, "")
	} else {
		e.DNSLabel(at, set)
	}
	at := p.Child("counters")
	if len(list) == 0 {
		e.Required(at, "")
		return
	}
	if e.AtMost(at, len(list), resource.ResourceSliceMaxCountersPerCounterSet) {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			e.DNSLabel(at, name)
		}
	}
}

// pool wants DNS subdomains joined by slashes.
func pool(e *rule.Errors, name string, p *field.Path) {
	if name == "" {
		e.Required(p, "")
		return
	}
	e.Shorter(p, name, resource.PoolNameMaxLength)
	for part := range strings.SplitSeq(name, "/") {
		e.DNSSubdomain(p, part)
	}
}

// qualified wants an identifier, with the domain of a driver before it or without.
func qualified(e *rule.Errors, name string, p *field.Path) {
	parts := strings.Split(name, "/")
	switch len(parts) {
	case 1:
		identifier(e, name, p)
	case 2:
		if parts[0] == "" {
			e.Invalid(p, "", "the domain must not be empty")
		} else {
			e.Join(podspec.CSIDriverName(parts[0], p))
		}
		if parts[1] == "" {
			e.Invalid(p, "", "the name must not be empty")
		} else {
			identifier(e, parts[1], p)
		}
	default:
		e.Invalid(p, name, "must not contain more than one slash")
	}
}

func fullName(e *rule.Errors, name resource.FullyQualifiedName, p *field.Path) {
	qualified(e, string(name), p)
	if !strings.Contains(string(name), "/") {
		e.Invalid(p, name, "a fully qualified name must be a domain and a name separated by a slash")
	}
}

func identifier(e *rule.Errors, id string, p *field.Path) {
	e.Shorter(p, id, resource.DeviceMaxIDLength)
	e.Each(p, id, validation.IsCIdentifier(id))
}

func tooMany(what string, most int) string {
	return fmt.Sprintf("the total number of %s must not exceed %d", what, most)
}
