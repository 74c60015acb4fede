package devicetaint

import (
	"slices"
	"sync"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"orch/api"
)

// view is what is known of devices: the slices by pool, and the rules that evict. The cache's
// goroutines fill it, before they tell anybody of the change.
type view struct {
	mu sync.Mutex
	// pools has the slices by name; drivers counts the devices that drivers have tainted;
	// rules are those with the effect NoExecute, by name. All are guarded by mu.
	pools   map[pool]map[string]*resource.ResourceSlice
	drivers int
	rules   map[string]*resource.DeviceTaintRule
}

type pool struct{ driver, name string }

func newView() *view {
	return &view{pools: map[pool]map[string]*resource.ResourceSlice{}, rules: map[string]*resource.DeviceTaintRule{}}
}

func (v *view) slice(was, is *resource.ResourceSlice) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if was != nil {
		p := pool{was.Spec.Driver, was.Spec.Pool.Name}
		if delete(v.pools[p], was.Name); len(v.pools[p]) == 0 {
			delete(v.pools, p)
		}
		v.drivers -= evicting(was)
	}
	if is != nil {
		p := pool{is.Spec.Driver, is.Spec.Pool.Name}
		if v.pools[p] == nil {
			v.pools[p] = map[string]*resource.ResourceSlice{}
		}
		v.pools[p][is.Name] = is
		v.drivers += evicting(is)
	}
}

// evicting counts the devices of the slice that have a taint which evicts.
func evicting(s *resource.ResourceSlice) int {
	n := 0
	for i := range s.Spec.Devices {
		if slices.ContainsFunc(s.Spec.Devices[i].Taints, func(t resource.DeviceTaint) bool { return t.Effect == resource.DeviceTaintEffectNoExecute }) {
			n++
		}
	}
	return n
}

// rule takes up a rule and tells whether that may change anything for pods.
func (v *view) rule(was, is *resource.DeviceTaintRule) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	evicts := func(r *resource.DeviceTaintRule) bool {
		return r != nil && r.Spec.Taint.Effect == resource.DeviceTaintEffectNoExecute
	}
	if evicts(was) {
		delete(v.rules, was.Name)
	}
	if evicts(is) {
		v.rules[is.Name] = is
	}
	same := was != nil && is != nil && was.UID == is.UID && equality.Semantic.DeepEqual(was.Spec, is.Spec)
	return !same && (evicts(was) || evicts(is))
}

// evicts is false where no pod has to go.
func (v *view) evicts() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.drivers > 0 || len(v.rules) > 0
}

// evictingRules are the names of the rules that evict.
func (v *view) evictingRules() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for name := range v.rules {
		out = append(out, name)
	}
	return out
}

// taints are those of the device that evict.
func (v *view) taints(d device) []taint {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []taint
	v.eachLocked(pool{d.driver, d.pool}, func(o *resource.Device) {
		if o.Name != d.name {
			return
		}
		for _, t := range o.Taints {
			if t.Effect == resource.DeviceTaintEffectNoExecute {
				out = append(out, taint{DeviceTaint: t})
			}
		}
	})
	for _, r := range v.rules {
		if selects(r, d) {
			out = append(out, ruleTaint(r))
		}
	}
	return out
}

func ruleTaint(r *resource.DeviceTaintRule) taint {
	t := r.Spec.Taint
	t.Effect = resource.DeviceTaintEffectNoExecute
	return taint{DeviceTaint: t, rule: r.UID}
}

// usesPlainly are the GPUs that the pod has without a claim. They are known by their
// UUID, which the node's slices translate. The pod's tolerations are of nodes: as with
// upstream's requests for extended resources, nothing tolerates a taint of such a device.
func (v *view) usesPlainly(p *core.Pod) []use {
	ids := plainIDs(p)
	if len(ids) == 0 {
		return nil
	}
	own := pool{api.GPUDriver, p.Spec.NodeName}
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []use
	v.eachLocked(own, func(o *resource.Device) {
		if id := uuid(o); id != "" && slices.Contains(ids, id) {
			out = append(out, use{device{own.driver, own.name, o.Name}, nil})
		}
	})
	return out
}

// uuid of a device; the name of the attribute may leave the driver's domain out.
func uuid(o *resource.Device) string {
	for _, name := range []resource.QualifiedName{"uuid", api.GPUDriver + "/uuid"} {
		if a, ok := o.Attributes[name]; ok && a.StringValue != nil {
			return *a.StringValue
		}
	}
	return ""
}

// published counts the devices that the rule selects.
func (v *view) published(r *resource.DeviceTaintRule) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for p := range v.pools {
		v.eachLocked(p, func(o *resource.Device) {
			if selects(r, device{p.driver, p.name, o.Name}) {
				n++
			}
		})
	}
	return n
}

// eachLocked walks the devices of a pool's newest generation: older slices are about to go.
func (v *view) eachLocked(p pool, do func(*resource.Device)) {
	newest := int64(-1)
	for _, s := range v.pools[p] {
		newest = max(newest, s.Spec.Pool.Generation)
	}
	for _, s := range v.pools[p] {
		if s.Spec.Pool.Generation != newest {
			continue
		}
		for i := range s.Spec.Devices {
			do(&s.Spec.Devices[i])
		}
	}
}
