package node

import (
	"context"
	"errors"
	"maps"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/api/client"
)

// Extra is what devices say of the node, beside what every machine has. Labels, resources
// and conditions that it owns and does not name any more are taken off the node.
type Extra interface {
	Resources() (capacity, allocatable core.ResourceList)
	OwnsResource(name core.ResourceName) bool
	Labels() map[string]string
	OwnsLabel(key string) bool
	Conditions() []core.NodeCondition
	OwnsCondition(kind core.NodeConditionType) bool
	// Changed is closed when the answers may be others; ask for it before asking for them.
	Changed() <-chan struct{}
}

// none is the Extra of a node without devices.
type none struct{}

func (none) Resources() (capacity, allocatable core.ResourceList) { return nil, nil }
func (none) OwnsResource(core.ResourceName) bool                  { return false }
func (none) Labels() map[string]string                            { return nil }
func (none) OwnsLabel(string) bool                                { return false }
func (none) Conditions() []core.NodeCondition                     { return nil }
func (none) OwnsCondition(core.NodeConditionType) bool            { return false }
func (none) Changed() <-chan struct{}                             { return nil }

// extend adds what devices say to the node's own status.
func extend(s *core.NodeStatus, e Extra) {
	capacity, allocatable := e.Resources()
	maps.Copy(s.Capacity, capacity)
	maps.Copy(s.Allocatable, allocatable)
	s.Conditions = append(s.Conditions, e.Conditions()...)
}

// extraLabels is have with the labels of e as they should be; ok is false if nothing changes.
func extraLabels(have map[string]string, e Extra) (map[string]string, bool) {
	want := e.Labels()
	out, changed := map[string]string{}, false
	for k, v := range have {
		if _, stays := want[k]; !stays && e.OwnsLabel(k) {
			changed = true
			continue
		}
		out[k] = v
	}
	for k, v := range want {
		if old, ok := out[k]; !ok || old != v {
			out[k], changed = v, true
		}
	}
	return out, changed
}

// label brings the labels of devices up to date.
func (n *Node) label(ctx context.Context) error {
	n.mu.Lock()
	base := n.written
	n.mu.Unlock()
	if cached := client.Cached(n.deps.Client, api.Nodes, "", n.config.Name); cached != nil && newer(cached, base) {
		base = cached
	}
	for range conflicts {
		labels, changed := extraLabels(base.Labels, n.deps.Extra)
		if !changed {
			return nil
		}
		next := base.DeepCopy()
		next.Labels = labels
		answer, err := client.Update(ctx, n.deps.Client, api.Nodes, next)
		if err == nil {
			n.note(answer)
			return nil
		}
		if !apierrors.IsConflict(err) {
			return err
		}
		if base, err = client.Get(ctx, n.deps.Client, api.Nodes, "", n.config.Name); err != nil {
			return err
		}
	}
	return errors.New("the node is changed by others all the time")
}
