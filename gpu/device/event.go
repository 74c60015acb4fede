package device

import "fmt"

// EventKind is what a card or the kernel reported.
type EventKind string

// Kinds of events. The first group are NVML's event types; "xid" comes from the kernel
// log as well; the last group are the host's.
const (
	EventXID            EventKind = "xid"
	EventSBE            EventKind = "single-bit-ecc"
	EventDBE            EventKind = "double-bit-ecc"
	EventSBEStorm       EventKind = "single-bit-ecc-storm"
	EventDRAMRetirement EventKind = "dram-retirement"
	EventDRAMFailure    EventKind = "dram-retirement-failure"
	EventMIGConfig      EventKind = "mig-config-change"
	EventPowerSource    EventKind = "power-source-change"
	EventPoison         EventKind = "non-fatal-poison"
	EventFatalPoison    EventKind = "fatal-poison"
	EventUnavailable    EventKind = "gpu-unavailable"
	EventRecovery       EventKind = "recovery-action"

	EventChanged  EventKind = "changed"  // the bus, the driver or the module changed: read the machine again
	EventOverflow EventKind = "overflow" // events were dropped: read the machine again
)

// Event is one of them. Which card it means is UUID if that is known, else PCI.
type Event struct {
	Kind EventKind `json:"kind"`
	UUID string    `json:"uuid,omitempty"` // of the card
	PCI  string    `json:"pci,omitempty"`  // sysfs' form
	// GI and CI are set when the event is about one MIG device only.
	GI *int `json:"gi,omitempty"`
	CI *int `json:"ci,omitempty"`
	// Data is the XID, or the RecoveryAction, or NVML's event data.
	Data uint64 `json:"data,omitempty"`
	// PID of the process the kernel log blames, 0 for none; Process its name.
	PID     int    `json:"pid,omitempty"`
	Process string `json:"process,omitempty"`
	// Text is the kernel's line after the number, for people.
	Text string `json:"text,omitempty"`
	// FromLog tells that the kernel log said it: NVML may have said it too.
	FromLog bool `json:"fromLog,omitempty"`
}

// RecoveryAction is what NVML says would mend a card (field 230).
type RecoveryAction int

// Actions by NVML's numbers.
const (
	RecoveryNone RecoveryAction = iota
	RecoveryReset
	RecoveryReboot
	RecoveryDrainP2P
	RecoveryDrainReset
	RecoveryIMEXDomain
	RecoveryBusReset
	RecoverySystemReboot
)

func (a RecoveryAction) String() string {
	names := [...]string{"none", "reset the GPU", "reboot the node", "drain peer-to-peer users", "drain and reset the GPU",
		"recover the IMEX domain", "reset the bus", "reboot the system"}
	if a < 0 || int(a) >= len(names) {
		return fmt.Sprintf("action %d", int(a))
	}
	return names[a]
}

// Problem is an answer that was an error. Its Error is for people and keeps NVML's number.
type Problem struct {
	// Op is what was asked: an NVML function or one of the helper's operations.
	Op string `json:"op,omitempty"`
	// Code is NVML's return value, or one of the Code constants below zero.
	Code int    `json:"code"`
	Text string `json:"text,omitempty"`
}

// Codes of NVML that decide something here, and ours (below zero).
const (
	CodeUninitialized        = 1
	CodeInvalidArgument      = 2
	CodeNotSupported         = 3
	CodeNoPermission         = 4
	CodeNotFound             = 6
	CodeInsufficientPower    = 8
	CodeDriverNotLoaded      = 9
	CodeTimeout              = 10
	CodeIRQ                  = 11
	CodeLibraryNotFound      = 12
	CodeFunctionNotFound     = 13
	CodeGPULost              = 15
	CodeResetRequired        = 16
	CodeOperatingSystem      = 17
	CodeVersionMismatch      = 18 // library against kernel module
	CodeInUse                = 19
	CodeMemory               = 20
	CodeInsufficientResource = 23
	CodeGPUNotFound          = 28
	CodeUnknown              = 999

	CodeHang      = -1 // the call passed its limit and the helper was killed
	CodeCrash     = -2 // the helper ended during the call
	CodeNoHelper  = -3 // this build carries no helper, or it cannot start on this host
	CodeStopped   = -4 // the helper is stopped on purpose
	CodeProtocol  = -5 // the helper spoke another protocol
	CodeBackOff   = -6 // the helper failed before; it is started again later
	CodeNoDevices = -7 // the bus has no NVIDIA GPU
)

func (p *Problem) Error() string {
	s := p.Text
	if s == "" {
		s = "no answer"
	}
	if p.Op != "" {
		s = p.Op + ": " + s
	}
	return fmt.Sprintf("%s (NVML %d)", s, p.Code)
}
