package claims

import (
	"context"
	"errors"
	"maps"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
	"orch/agent/host"
)

// Devices are all that pods get: what the ledger gives for extended resources, and their claims.
type Devices struct {
	*devices.Manager
	Claimed *Claims
}

var _ host.Devices = Devices{}

// PrepareClaims is Claims.Prepare.
func (d Devices) PrepareClaims(ctx context.Context, pod *core.Pod) error {
	return d.Claimed.Prepare(ctx, pod)
}

// ReleaseClaims is Claims.Release.
func (d Devices) ReleaseClaims(ctx context.Context, pod types.UID) error {
	return d.Claimed.Release(ctx, pod)
}

// Keep is that of both.
func (d Devices) Keep(live map[types.UID]bool) error {
	return errors.Join(d.Manager.Keep(live), d.Claimed.Keep(live))
}

// Edits are those of both.
func (d Devices) Edits(ctx context.Context, c host.DeviceHolder) (host.DeviceEdits, error) {
	out, err := d.Manager.Edits(ctx, c)
	if err != nil {
		return out, err
	}
	claimed, err := d.Claimed.Edits(ctx, c)
	out.Add(claimed)
	return out, err
}

// Status is that of both.
func (d Devices) Status(pod types.UID) map[string][]core.ResourceStatus {
	out, claimed := d.Manager.Status(pod), d.Claimed.Status(pod)
	if len(claimed) == 0 {
		return out
	}
	out = maps.Clone(out)
	if out == nil {
		out = map[string][]core.ResourceStatus{}
	}
	for container, list := range claimed {
		out[container] = append(out[container], list...)
	}
	return out
}
