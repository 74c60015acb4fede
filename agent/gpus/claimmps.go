package gpus

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/gpu/mps"
	"orch/gpu/params"
	pool "orch/gpu/slices"
)

// mpsGroup are devices of a claim whose users share them by MPS under the same parameters:
// one daemon serves them.
type mpsGroup struct {
	sharing params.Sharing
	devices []devices.ClaimDevice
}

// mpsGroups of a claim, in the order of their first devices.
func mpsGroups(list []devices.ClaimDevice, state []byte) []mpsGroup {
	var s claimState
	if err := json.Unmarshal(state, &s); err != nil {
		return nil // it was never prepared
	}
	var out []mpsGroup
	for _, d := range list {
		sharing := s.Sharing[d.Device]
		if sharing.Strategy != params.MPS || d.Admin {
			continue
		}
		i := slices.IndexFunc(out, func(g mpsGroup) bool { return g.sharing.Equal(sharing) })
		if i < 0 {
			out, i = append(out, mpsGroup{sharing: sharing}), len(out)
		}
		out[i].devices = append(out[i].devices, d)
	}
	return out
}

func claimKey(claim types.UID, group int) string { return fmt.Sprintf("claim-%s-%d", claim, group) }

// service is the daemon of a group.
func (g mpsGroup) service(key string) mps.Service {
	s := mps.Service{Key: key, Limits: mps.Limits{ThreadPercent: g.sharing.Threads}}
	for i, d := range g.devices {
		s.Devices = append(s.Devices, d.Part)
		bytes := g.sharing.PinnedBytes
		for _, key := range []string{strconv.Itoa(i), d.Part} { // the UUID goes before
			if n, ok := g.sharing.PinnedBytesOf[key]; ok {
				bytes = n
			}
		}
		s.MemoryMiB = append(s.MemoryMiB, bytes>>20)
	}
	return s
}

// claimServices are the daemons that claims want.
func claimServices(claims map[types.UID]devices.Claim) []mps.Service {
	var out []mps.Service
	for _, uid := range slices.Sorted(maps.Keys(claims)) {
		d, ok := claims[uid].Drivers[pool.Driver]
		if !ok || len(claims[uid].Pods) == 0 {
			continue
		}
		for i, group := range mpsGroups(d.Devices, d.State) {
			out = append(out, group.service(claimKey(uid, i)))
		}
	}
	return out
}

// claimClient is what a container gets for those of a claim's devices that MPS serves.
func (g Claims) claimClient(ctx context.Context, c host.DeviceHolder, claim devices.Claim, list []devices.ClaimDevice, state []byte) (host.DeviceEdits, error) {
	key := ""
	for i, group := range mpsGroups(claim.Drivers[pool.Driver].Devices, state) {
		if !slices.ContainsFunc(group.devices, func(d devices.ClaimDevice) bool {
			return slices.ContainsFunc(list, func(l devices.ClaimDevice) bool { return l.Device == d.Device })
		}) {
			continue
		}
		if key != "" {
			return host.DeviceEdits{}, fmt.Errorf("the container uses devices of claim %s that have different MPS parameters: a client has one daemon", claim.Name)
		}
		key = claimKey(claim.UID, i)
	}
	if key == "" {
		return host.DeviceEdits{}, nil
	}
	return g.MPSClient(ctx, c.Container, key)
}

// claimedByMPS tells whether MPS serves a device of a claim.
func (g *GPUs) claimedByMPS(h devices.Holding) bool {
	if g.config.Guard.Claims == nil || g.config.Guard.MPS == nil {
		return false
	}
	return slices.ContainsFunc(claimServices(g.config.Guard.Claims()), func(s mps.Service) bool {
		return strings.HasPrefix(s.Key, "claim-"+string(h.Claim.UID)+"-") && slices.Contains(s.Devices, h.IDs[0])
	})
}
