package health

import (
	"fmt"
	"time"

	"orch/gpu/device"
)

// Input is what happened to a unit: exactly one field is set.
type Input struct {
	// Event of the driver or the kernel log.
	Event *device.Event
	// Checked is the answer to DoCheck and DoVerify, and to any reading in passing.
	Checked *Reading
	// Drained: no container holds the unit any more.
	Drained bool
	// Reset is over; its error is "" for success.
	Reset *ResetDone
	// Renewed: the driver was loaded anew, or the card is another one.
	Renewed bool
	// Found is the problem the card had when the machine was read. One hung call is a
	// doubt; a second one, when the card is checked, is a fault.
	Found *device.Problem
}

// ResetDone is how a reset went. Unsupported: this card cannot be reset here.
type ResetDone struct {
	Err         string
	Unsupported bool
}

// stimulus is an Input boiled down to what the table knows.
type stimulus string

const (
	stimNothing   stimulus = ""
	stimDoubt     stimulus = "doubt"
	stimFault     stimulus = "fault" // reset, reboot or a person: the remedy is in the cause
	stimWell      stimulus = "well"
	stimDrained   stimulus = "drained"
	stimReset     stimulus = "reset"
	stimResetFail stimulus = "reset-failed"
	stimRenewed   stimulus = "renewed"
)

// step is a row of the machine: where to, and what its owner then does.
type step struct {
	to State
	do Do
}

// transitions is the drawing above as a table. What is not in it changes nothing: a
// card that is being reset throws errors, and one that Failed says nothing new.
var transitions = map[State]map[stimulus]step{
	Healthy:   {stimDoubt: {Suspect, DoCheck}, stimFault: {Draining, DoDrain}},
	Suspect:   {stimDoubt: {Suspect, DoCheck}, stimFault: {Draining, DoDrain}, stimWell: {Healthy, DoNothing}, stimRenewed: {Verifying, DoVerify}},
	Draining:  {stimFault: {Draining, DoDrain}, stimDrained: {Resetting, DoReset}, stimRenewed: {Verifying, DoVerify}},
	Resetting: {stimReset: {Verifying, DoVerify}, stimResetFail: {Resetting, DoReset}, stimRenewed: {Verifying, DoVerify}},
	Verifying: {stimWell: {Healthy, DoNothing}, stimFault: {Draining, DoDrain}, stimDoubt: {Verifying, DoVerify}, stimRenewed: {Verifying, DoVerify}},
	Failed:    {stimRenewed: {Verifying, DoVerify}},
}

// Step returns the unit after an input and what to do about it.
func Step(u Unit, in Input, p Policy, now time.Time) (Unit, Decision) {
	stim, cause, evict, notices := u.read(in, p)
	row, ok := transitions[u.State][stim]
	if !ok {
		return u, Decision{Notices: notices}
	}
	next := u
	if cause.Text != "" && worse(u.Cause, cause) {
		next.Cause = cause
	}
	if stim == stimFault {
		next.Evict = u.Evict || evict
	}
	row = next.exceptions(u.State, row)
	next.State = row.to
	if row.to == Resetting || row.to == Verifying && u.State == Draining {
		next.Attempts++
	}
	if next.State == Healthy {
		next.Cause, next.Evict, next.Attempts = Cause{}, false, 0
	}
	if next.State != u.State {
		next.Since = now
		notices = append(notices, u.change(next))
	}
	if next.State == u.State && next.State == Draining && next.Evict == u.Evict {
		row.do = DoNothing // it is under way
	}
	return next, Decision{Do: row.do, Notices: notices}
}

// exceptions bend the table: remedies that are no reset, and the end of patience.
func (u Unit) exceptions(from State, row step) step {
	final := u.Cause.Remedy == ClassReboot || u.Cause.Remedy == ClassFail
	tired := u.Attempts >= maxAttempts
	switch {
	case row.to == Resetting && (final || tired), row.to == Draining && from == Verifying && tired:
		return step{Failed, DoNothing}
	case row.to == Resetting && (u.GI != nil || u.Cause.Remedy == ClassDoubt):
		return step{Verifying, DoVerify}
	}
	return row
}

// worse tells whether a new cause takes the place of the old one: the first stays, as it
// has what happened, unless the new one needs more.
func worse(old, new Cause) bool {
	rank := map[Class]int{"": 0, ClassNote: 0, ClassApp: 0, ClassDoubt: 1, ClassReset: 2, ClassReboot: 3, ClassFail: 4}
	return old.Text == "" || rank[new.Remedy] > rank[old.Remedy]
}

// read turns an input into a stimulus with its cause.
func (u Unit) read(in Input, p Policy) (stim stimulus, cause Cause, evict bool, notices []Notice) {
	switch {
	case in.Event != nil:
		return u.readEvent(*in.Event, p)
	case in.Checked != nil:
		class, cause, evict := judge(*in.Checked)
		return stimulusOf(class), cause, evict, nil
	case in.Found != nil && (in.Found.Code == device.CodeHang || in.Found.Code == device.CodeCrash):
		return stimDoubt, Cause{Text: "the GPU does not answer: " + in.Found.Error(), Remedy: ClassDoubt}, false, nil
	case in.Found != nil:
		class, cause, evict := judge(Reading{Problem: in.Found})
		return stimulusOf(class), cause, evict, nil
	case in.Drained:
		return stimDrained, Cause{}, false, nil
	case in.Renewed:
		return stimRenewed, Cause{}, false, nil
	case in.Reset != nil && in.Reset.Unsupported:
		return stimResetFail, Cause{Text: u.Cause.Text + "; it cannot be reset here: " + in.Reset.Err, XID: u.Cause.XID, Remedy: ClassReboot, Lost: u.Cause.Lost}, false, nil
	case in.Reset != nil && in.Reset.Err != "":
		return stimResetFail, Cause{}, false, []Notice{u.notice("Warning", "GPUResetFailed", fmt.Sprintf("Resetting %s failed: %s", u.Name(), in.Reset.Err))}
	case in.Reset != nil:
		return stimReset, Cause{}, false, nil
	}
	return stimNothing, Cause{}, false, nil
}

// stimulusOf a judged reading.
func stimulusOf(c Class) stimulus {
	if c == ClassNote {
		return stimWell
	}
	return stimFault
}

// readEvent judges an event. An application's error is for its pod only.
func (u Unit) readEvent(e device.Event, p Policy) (stimulus, Cause, bool, []Notice) {
	switch e.Kind {
	case device.EventXID:
		x := Lookup(int(e.Data))
		class := p.class(x)
		cause := Cause{Text: fmt.Sprintf("XID %d, %s", x.Number, x.Text), XID: x.Number, Remedy: class}
		n := u.notice("Warning", "GPUXid", fmt.Sprintf("%s reports %s", u.Name(), cause.Text))
		n.PID = e.PID
		if class == ClassApp {
			n.Reason, n.Message = "GPUApplicationError", n.Message+": a fault of the program; the GPU serves on"
			if e.Process != "" {
				n.Message += fmt.Sprintf(" (process %d, %s)", e.PID, e.Process)
			}
		}
		return u.stimulusOfClass(class), cause, class != ClassDoubt, []Notice{n}
	case device.EventFatalPoison, device.EventDRAMFailure, device.EventDBE:
		return stimFault, Cause{Text: "the driver reports " + string(e.Kind), Remedy: ClassReset}, true, nil
	case device.EventUnavailable:
		return stimFault, Cause{Text: "the driver reports that the GPU is unavailable", Remedy: ClassReset, Lost: true}, true, nil
	case device.EventRecovery:
		return u.readAction(device.RecoveryAction(e.Data))
	case device.EventSBEStorm, device.EventDRAMRetirement, device.EventPoison:
		return stimDoubt, Cause{Text: "the driver reports " + string(e.Kind), Remedy: ClassDoubt}, false, nil
	}
	return stimNothing, Cause{}, false, nil
}

func (u Unit) stimulusOfClass(c Class) stimulus {
	switch c {
	case ClassDoubt:
		return stimDoubt
	case ClassReset, ClassReboot, ClassFail:
		return stimFault
	}
	return stimNothing
}

// readAction is a recovery action that came as an event: the same as one that was read.
func (u Unit) readAction(a device.RecoveryAction) (stimulus, Cause, bool, []Notice) {
	class, cause, evict := judge(Reading{Figures: device.Figures{Values: map[device.Figure]float64{device.RecoveryActionField: float64(a)}}})
	return stimulusOf(class), cause, evict, nil
}

func (u Unit) notice(kind, reason, message string) Notice {
	return Notice{UUID: u.UUID, GI: u.GI, Type: kind, Reason: reason, Message: message}
}

// change is the notice of a new state.
func (u Unit) change(next Unit) Notice {
	kind := "Warning"
	if next.State == Healthy {
		kind = "Normal"
	}
	return next.notice(kind, "GPU"+string(next.State), next.Sentence())
}
