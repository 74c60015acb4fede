package gpus

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/agent/claims"
	"orch/agent/devices"
	"orch/agent/host"
	"orch/gpu/params"
	"orch/gpu/slices"
)

// Claims are the GPUs as the driver gpu.nvidia.com of ResourceClaims.
type Claims struct{ *GPUs }

var (
	_ claims.Driver   = Claims{}
	_ claims.Resolver = Claims{}
	_ claims.Editor   = Claims{}
	_ claims.Nurse    = Claims{}
	_ claims.Speaker  = Claims{}
)

// cdiName is what NVIDIA's driver calls a device of a claim for container engines.
func cdiName(claim types.UID, device string) string {
	return "k8s.gpu.nvidia.com/claim=" + string(claim) + "-" + device
}

// Resolve finds the cards and MIG devices that the slices' names mean, and what cannot be had
// beside each.
func (g Claims) Resolve(claim *resource.ResourceClaim, list []devices.ClaimDevice) ([]devices.ClaimDevice, error) {
	v := g.config.Look()
	pool := slices.PoolOf(g.pool(v, nil))
	var out []devices.ClaimDevice
	for _, d := range list {
		found, ok := pool.Device(d.Device)
		if !ok || found.UUID == "" && g.config.Dynamic == nil || d.Pool != g.config.Node {
			return nil, fmt.Errorf("device %s of pool %s is not on this node", d.Device, d.Pool)
		}
		uuid := cmp.Or(found.UUID, found.Card)
		if !v.Allocatable(uuid) && !d.Admin && !tolerated(claim, d) {
			return nil, fmt.Errorf("device %s of pool %s is not healthy%s", d.Device, d.Pool, sentence(v, uuid))
		}
		d.Part, d.CDI, d.Excludes = cmp.Or(found.UUID, found.Name), []string{cdiName(claim.UID, d.Device)}, excludes(pool, found)
		out = append(out, d)
	}
	return out, nil
}

// tolerated tells that the claim wants the device whatever its taints say. Which taints
// those are the scheduler has looked at.
func tolerated(claim *resource.ResourceClaim, d devices.ClaimDevice) bool {
	for _, r := range claim.Status.Allocation.Devices.Results {
		if r.Driver == slices.Driver && r.Pool == d.Pool && r.Device == d.Device {
			return len(r.Tolerations) > 0
		}
	}
	return false
}

// sentence says what is wrong with a device, as the end of another sentence.
func sentence(v View, uuid string) string {
	card, gi := uuid, -1
	if d, ok := v.Machine.MIGDevice(uuid); ok {
		card, gi = d.Parent, d.GI
	}
	for _, u := range v.Units {
		if u.UUID == card && (u.GI < 0 || u.GI == gi) {
			return ": " + u.Sentence
		}
	}
	return ""
}

// claimState is what the ledger keeps for us.
type claimState struct {
	// Sharing is by device; those without are not in it.
	Sharing map[string]params.Sharing `json:"sharing,omitempty"`
	// Slices are the devices that the claim asks an interval of time-slicing for, by name: empty
	// if that is in force, else why not.
	Slices map[string]string `json:"slices,omitempty"`
	// Made are MIG devices that were made for the claim.
	Made []string `json:"made,omitempty"`
}

// Prepare reads the claim's parameters, and looks whether the devices are free for it.
func (g Claims) Prepare(ctx context.Context, claim *resource.ResourceClaim, known devices.ClaimDriver) (devices.ClaimDriver, error) {
	m := g.config.Look().Machine
	state := claimState{Sharing: map[string]params.Sharing{}}
	for _, d := range known.Devices {
		_, card := m.GPU(d.Part)
		mig := !card
		c, err := parameters(claim, d, mig)
		if err != nil {
			return known, fmt.Errorf("device %s: %w", d.Device, err)
		}
		if c.Sharing.Strategy == params.MPS {
			if err := g.mpsHere(m); err != nil {
				return known, fmt.Errorf("device %s: %w", d.Device, err)
			}
		}
		if c.Sharing.Strategy != "" {
			state.Sharing[d.Device] = c.Sharing
		}
		if d.Admin || unmade(d.Part) {
			continue
		}
		if err := g.handOver(ctx, m, d.Part); err != nil {
			return known, err
		}
	}
	var err error
	if known.Devices, state.Made, err = g.made(ctx, known.Devices); err != nil {
		return known, err
	}
	if state.Slices, err = g.slices(ctx, known.Devices, state.Sharing); err != nil {
		return known, err
	}
	known.State, err = json.Marshal(state)
	return known, err
}

// parameters are those of a device's request.
func parameters(claim *resource.ResourceClaim, d devices.ClaimDevice, mig bool) (params.Config, error) {
	kind := params.GPU
	if mig {
		kind = params.MIG
	}
	var given []params.Given
	for _, c := range resourceclaim.ConfigForResult(claim.Status.Allocation.Devices.Config, resource.DeviceRequestAllocationResult{Request: d.Requests[0]}) {
		if c.Opaque.Driver == slices.Driver {
			given = append(given, params.Given{Named: len(c.Requests) > 0, Text: c.Opaque.Parameters.Raw})
		}
	}
	return params.For(kind, given)
}

// Unprepare takes away what was made for the claim.
func (g Claims) Unprepare(ctx context.Context, _ devices.Claim, known devices.ClaimDriver) error {
	var state claimState
	if len(known.State) > 0 {
		if err := json.Unmarshal(known.State, &state); err != nil {
			return fmt.Errorf("reading what was prepared: %w", err)
		}
	}
	g.usualSlices(ctx, known.Devices, state)
	return g.unmake(ctx, known.Devices, state.Made)
}

// ClaimEdits are those for the claim's devices.
func (g Claims) ClaimEdits(ctx context.Context, c host.DeviceHolder, claim devices.Claim, list []devices.ClaimDevice, state []byte) (host.DeviceEdits, error) {
	var uuids []string
	for _, d := range list {
		uuids = append(uuids, d.Part)
	}
	out, err := g.given(ctx, c, g.config.Look().Machine, uuids)
	if err != nil {
		return host.DeviceEdits{}, err
	}
	more, err := g.claimClient(ctx, c, claim, list, state)
	if err != nil {
		return host.DeviceEdits{}, err
	}
	out.Add(more)
	return out, nil
}

// Conditions of a prepared device, beside that it is ready.
func (g Claims) Conditions(d devices.ClaimDevice, text []byte) []metav1.Condition {
	var state claimState
	if len(text) == 0 || json.Unmarshal(text, &state) != nil {
		return nil // another orch wrote it; what it said stays
	}
	return sliceCondition(d, state)
}

// ClaimHealth says how a device is.
func (g Claims) ClaimHealth(d devices.ClaimDevice) (core.ResourceHealthStatus, string) {
	v := g.config.Look()
	if v.Allocatable(d.Part) {
		return core.ResourceHealthStatusHealthy, ""
	}
	text := sentence(v, d.Part)
	return core.ResourceHealthStatusUnhealthy, cmp.Or(text[min(2, len(text)):], "the device does not answer")
}
