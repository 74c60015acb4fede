// Package health decides what an error means for a card, a MIG device or a pod, and how
// a card comes back: a state machine over values. It reads no driver, resets nothing and
// knows no clock; gpu/inventory feeds it and does what it decides. It refuses to let one
// unit's trouble touch another: a Step sees one Unit.
//
//	            note, a program's own error: stays, the pod is told
//	┌─────────┐
//	│ Healthy │◄───────────────────────────────┬────────────────────────────┐
//	└─┬─────┬─┘                                │ the card says all is well  │
//	  │     │ doubt              ┌─────────┐   │                            │
//	  │     └───────────────────►│ Suspect ├───┘                            │
//	  │                          └───┬─────┘                                │
//	  │ error that needs a reset,    │ the card says what would mend it     │ all is well
//	  │ a reboot or a person         ▼                                      │
//	  │                        ┌──────────┐ nobody    ┌───────────┐  ┌──────┴────┐
//	  └───────────────────────►│ Draining ├──────────►│ Resetting ├─►│ Verifying │
//	                           └──┬────┬──┘ holds it  └─────┬─────┘  └──┬──────┬─┘
//	  only a reboot or a person   │    │ no reset needed    │ three     │      │ not well, again
//	  helps                       │    └───────────────────►│ times     │      └─► Draining
//	                              ▼                (Verifying)          │ three times
//	                           ┌────────┐◄──────────────────┴───────────┘
//	                           │ Failed │── driver loaded anew, card changed ──► Verifying
//	                           └────────┘
//
// A MIG device goes the same way without Resetting. Start reading at Step, then the
// tables: transitions (step.go) and the XIDs (xid.go).
package health

import (
	"fmt"
	"slices"
	"time"

	"orch/gpu/device"
)

// State of a unit.
type State string

// States. A unit is given to new pods in Healthy only.
const (
	Healthy   State = "Healthy"
	Suspect   State = "Suspect"
	Draining  State = "Draining"
	Resetting State = "Resetting"
	Verifying State = "Verifying"
	Failed    State = "Failed"
)

// maxAttempts bounds resets in one illness.
const maxAttempts = 3

// Unit is a card, or a MIG device of one.
type Unit struct {
	UUID string `json:"uuid"`
	// GI is the GPU instance for a MIG device, nil for a card.
	GI    *int      `json:"gi,omitempty"`
	State State     `json:"state"`
	Since time.Time `json:"since,omitzero"`
	Cause Cause     `json:"cause,omitzero"`
	// Evict: what runs on the unit is lost or in the way; else it may end by itself.
	Evict bool `json:"evict,omitempty"`
	// Attempts counts resets, or drains where there is no reset, since the unit was last Healthy.
	Attempts int `json:"attempts,omitempty"`
}

// Cause is why a unit is not Healthy.
type Cause struct {
	Text string `json:"text"`
	// XID is 0 for a cause that is none.
	XID int `json:"xid,omitempty"`
	// Remedy is what must happen: reset, reboot, a person's look, or nothing but a check.
	Remedy Class `json:"remedy,omitempty"`
	// Lost: the card does not answer at all.
	Lost bool `json:"lost,omitempty"`
}

// New is a unit that nothing is known against.
func New(uuid string, gi *int) Unit { return Unit{UUID: uuid, GI: gi, State: Healthy} }

// Allocatable tells whether new pods may be given the unit.
func (u Unit) Allocatable() bool { return u.State == Healthy }

// Name is how sentences call the unit.
func (u Unit) Name() string {
	if u.GI != nil {
		return fmt.Sprintf("MIG instance %d of GPU %s", *u.GI, u.UUID)
	}
	return "GPU " + u.UUID
}

// Sentence says what is the matter and what will happen, for a condition.
func (u Unit) Sentence() string {
	var next string
	switch u.State {
	case Healthy:
		return u.Name() + " is healthy"
	case Suspect:
		next = "it is asked how it is before new pods get it"
	case Draining:
		next = "it gets no new pods and is mended when those that hold it have ended"
		switch {
		case u.Cause.Remedy == ClassReboot:
			next = "pods that hold it are evicted; then the node must be rebooted"
		case u.Cause.Remedy == ClassFail:
			next = "pods that hold it are evicted; then a person must look at the hardware"
		case u.Evict:
			next = "pods that hold it are evicted, then it is mended"
		}
	case Resetting:
		next = fmt.Sprintf("it is being reset (attempt %d of %d)", u.Attempts, maxAttempts)
	case Verifying:
		next = "it is checked before it is given out again"
	case Failed:
		next = map[Class]string{ClassReboot: "reboot the node to bring it back", ClassFail: "a person must look at the hardware"}[u.Cause.Remedy]
		if next == "" {
			next = fmt.Sprintf("%d attempts did not mend it: reboot the node, then replace the card", u.Attempts)
		}
	}
	return fmt.Sprintf("%s: %s; %s", u.Name(), u.Cause.Text, next)
}

// Taint is a device taint as NVIDIA's DRA driver sets it.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// Taint keys.
const (
	TaintXID         = "gpu.nvidia.com/xid"
	TaintLost        = "gpu.nvidia.com/gpu-lost"
	TaintUnmonitored = "gpu.nvidia.com/unmonitored"
)

// Taints of the unit: none while it is Healthy; NoExecute once its pods must go.
func (u Unit) Taints() []Taint {
	if u.State == Healthy {
		return nil
	}
	effect := "NoSchedule"
	if u.Evict && u.State != Suspect {
		effect = "NoExecute"
	}
	switch {
	case u.Cause.Lost:
		return []Taint{{TaintLost, "", effect}}
	case u.Cause.XID != 0:
		return []Taint{{TaintXID, fmt.Sprint(u.Cause.XID), effect}}
	}
	return []Taint{{TaintUnmonitored, string(u.State), effect}}
}

// Do is what the owner must do next.
type Do string

// Things to do. Each ends in an input: Check and Verify in Checked, Drain in Drained,
// Reset in ResetDone.
const (
	DoNothing Do = ""
	DoCheck   Do = "check"
	DoDrain   Do = "drain"
	DoReset   Do = "reset"
	DoVerify  Do = "verify"
)

// Notice is a Kubernetes event to emit, on the node and on the pods concerned.
type Notice struct {
	UUID    string `json:"uuid"`
	GI      *int   `json:"gi,omitempty"`
	PID     int    `json:"pid,omitempty"` // whose pod is concerned; 0: all on the unit
	Type    string `json:"type"`          // Normal or Warning
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Decision is what a Step came to.
type Decision struct {
	Do      Do
	Notices []Notice
}

// Reading is what a card says of itself when it is checked.
type Reading struct {
	Problem   *device.Problem
	Figures   device.Figures
	Processes []device.Process
	// Idle demands that nobody holds the unit: after a drain or a reset.
	Idle bool
}

// maxIdleBytes is what the driver itself may use of an idle card beside the reserved part.
const maxIdleBytes = 512 << 20

// Within are the processes on a unit, of those on its card: all for the card (gi below 0),
// those of the GPU instance for a MIG device.
func Within(onCard []device.Process, gi int) []device.Process {
	return slices.DeleteFunc(slices.Clone(onCard), func(p device.Process) bool { return gi >= 0 && (p.GI == nil || *p.GI != gi) })
}

// HandOver tells whether a unit that nobody should hold can be given on, and why not:
// a process that still computes on it, or memory that a zombie keeps. A screen's is no
// pod's, and explains what memory is in use.
func HandOver(f device.Figures, processes []device.Process) (why string, clean bool) {
	if f.Problem != nil {
		return f.Problem.Error(), false
	}
	for _, p := range processes {
		if p.Kind == device.ProcessGraphics {
			continue
		}
		size := "an unknown amount"
		if p.UsedBytes != nil {
			size = fmt.Sprintf("%d MiB", *p.UsedBytes>>20)
		}
		return fmt.Sprintf("process %d still holds %s of its memory", p.PID, size), false
	}
	if len(processes) > 0 {
		return "", true
	}
	if used, ok := f.Get(device.FBUsedBytes); ok && used > maxIdleBytes {
		return fmt.Sprintf("%.0f MiB of its memory are in use although no process holds it", used/(1<<20)), false
	}
	return "", true
}

// judge turns a reading into what must happen; ClassNote means that all is well.
func judge(r Reading) (Class, Cause, bool) {
	flag := func(f device.Figure) bool { v, ok := r.Figures.Get(f); return ok && v != 0 }
	bad := r.Problem
	if bad == nil {
		bad = r.Figures.Problem
	}
	switch {
	case bad != nil && bad.Code == device.CodeGPULost:
		return ClassReboot, Cause{Text: "the GPU is lost: " + bad.Error(), Remedy: ClassReboot, Lost: true}, true
	case bad != nil && bad.Code == device.CodeHang:
		return ClassReset, Cause{Text: "the driver hangs on the GPU: " + bad.Error(), Remedy: ClassReset, Lost: true}, true
	case bad != nil:
		// Only a driver that says so tells that what runs on the card is lost; a crash may
		// be the helper's own.
		return ClassReset, Cause{Text: "the GPU does not answer: " + bad.Error(), Remedy: ClassReset}, bad.Code == device.CodeResetRequired
	case flag(device.RemapFailure):
		return ClassFail, Cause{Text: "row remapping failed: the memory is worn out", Remedy: ClassFail}, true
	}
	action, _ := r.Figures.Get(device.RecoveryActionField)
	switch a := device.RecoveryAction(action); a {
	case device.RecoveryReset, device.RecoveryBusReset:
		return ClassReset, Cause{Text: "the driver asks to " + a.String(), Remedy: ClassReset}, true
	case device.RecoveryReboot, device.RecoverySystemReboot:
		return ClassReboot, Cause{Text: "the driver asks to " + a.String(), Remedy: ClassReboot}, true
	case device.RecoveryDrainP2P, device.RecoveryIMEXDomain:
		return ClassDoubt, Cause{Text: "the driver asks to " + a.String(), Remedy: ClassDoubt}, true
	case device.RecoveryDrainReset:
		return ClassReset, Cause{Text: "the driver asks to " + a.String(), Remedy: ClassReset}, false
	}
	if flag(device.RemapPending) || flag(device.RetiredPending) {
		return ClassReset, Cause{Text: "memory rows wait to be remapped at the next reset", Remedy: ClassReset}, false
	}
	if r.Idle {
		if why, clean := HandOver(r.Figures, r.Processes); !clean {
			return ClassReset, Cause{Text: why, Remedy: ClassReset}, true
		}
	}
	return ClassNote, Cause{}, false
}
