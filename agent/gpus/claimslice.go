package gpus

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/agent/devices"
	"orch/gpu/params"
	"orch/gpu/smi"
)

// ConditionTimeSlice of a claim's device says whether the interval is in force that its GpuConfig asks for.
const ConditionTimeSlice = "TimeSliceSet"

// usualSlice is the driver's own.
const usualSlice = "Default"

// setSlice sets the interval of a card that a claim has. NVML cannot, nvidia-smi can: why says
// that it is not there, which a claim's status tells; an error is its refusal, which the pod waits for, as
// with NVIDIA's driver.
func (g Claims) setSlice(ctx context.Context, d devices.ClaimDevice, interval string) (why string, err error) {
	p, err := g.smiProgram()
	if err != nil {
		return err.Error(), nil
	}
	if err := p.SetTimeSlice(ctx, d.Part, interval); err != nil {
		return "", fmt.Errorf("setting the time slice to %s: %w", interval, err)
	}
	return "", nil
}

func (g Claims) smiProgram() (smi.Program, error) {
	path, env, err := g.driverProgram(g.config.Look().Machine, smi.Name, "libnvidia-ml.so.")
	if err == nil && path == "" {
		err = fmt.Errorf("%s is not among the driver's files, and NVML has no call for it", smi.Name)
	}
	return smi.Program{Path: path, Env: env}, err
}

// slices sets the intervals that a claim asks for and says of each device whether it is in force:
// an empty text, or why not. After an error all are as they were.
func (g Claims) slices(ctx context.Context, list []devices.ClaimDevice, sharing map[string]params.Sharing) (map[string]string, error) {
	var out map[string]string
	for _, d := range list {
		interval := sharing[d.Device].Interval
		if interval == "" || d.Admin {
			continue
		}
		why, err := g.setSlice(ctx, d, interval)
		if err != nil {
			g.usualSlices(ctx, list, claimState{Sharing: sharing, Slices: out})
			return nil, fmt.Errorf("device %s: %w", d.Device, err)
		}
		if why != "" && interval == usualSlice {
			why = "" // it is what nobody has changed
		}
		if out == nil {
			out = map[string]string{}
		}
		out[d.Device] = why
	}
	return out, nil
}

// usualSlices gives the cards back as they were. A card that does not answer keeps nobody's pod
// from ending.
func (g Claims) usualSlices(ctx context.Context, list []devices.ClaimDevice, state claimState) {
	for _, d := range list {
		why, set := state.Slices[d.Device]
		if !set || why != "" || state.Sharing[d.Device].Interval == usualSlice {
			continue
		}
		if why, err := g.setSlice(ctx, d, usualSlice); err != nil || why != "" {
			g.config.Log.Warn("a GPU keeps the time slice of a claim that is gone", "device", d.Device, "why", why, "err", err)
		}
	}
}

// sliceCondition is nil for a device whose claim asks for no interval.
func sliceCondition(d devices.ClaimDevice, state claimState) []metav1.Condition {
	why, asked := state.Slices[d.Device]
	interval := state.Sharing[d.Device].Interval
	switch {
	case !asked:
		return nil
	case why != "":
		return []metav1.Condition{{Type: ConditionTimeSlice, Status: metav1.ConditionFalse, Reason: "NotSupported",
			Message: fmt.Sprintf("the interval %s of the claim's GpuConfig is not applied: %s", interval, why)}}
	}
	return []metav1.Condition{{Type: ConditionTimeSlice, Status: metav1.ConditionTrue, Reason: "Applied", Message: "the card's time slice is " + interval}}
}
