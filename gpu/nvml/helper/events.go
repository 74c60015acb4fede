//go:build cgo

package main

import (
	"fmt"
	"math"
	"os"
	"runtime"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"orch/gpu/device"
	"orch/gpu/nvml/wire"
)

// eventTypes are NVML's event types that mean something here; clocks, P-states and
// power sources do not.
var eventTypes = []struct {
	bit  uint64
	kind device.EventKind
}{
	{nvml.EventTypeSingleBitEccError, device.EventSBE},
	{nvml.EventTypeDoubleBitEccError, device.EventDBE},
	{nvml.EventTypeXidCriticalError, device.EventXID},
	{nvml.EventMigConfigChange, device.EventMIGConfig},
	{nvml.EventTypeSingleBitEccErrorStorm, device.EventSBEStorm},
	{nvml.EventTypeDramRetirementEvent, device.EventDRAMRetirement},
	{nvml.EventTypeDramRetirementFailure, device.EventDRAMFailure},
	{nvml.EventTypeNonFatalPoisonError, device.EventPoison},
	{nvml.EventTypeFatalPoisonError, device.EventFatalPoison},
	{nvml.EventTypeGpuUnavailableError, device.EventUnavailable},
	{nvml.EventTypeGpuRecoveryAction, device.EventRecovery},
}

func (c *card) eventMask() uint64 {
	supported := ask(c, "nvmlDeviceGetSupportedEventTypes", c.GetSupportedEventTypes)
	if supported == nil {
		return 0
	}
	var wanted uint64
	for _, t := range eventTypes {
		wanted |= t.bit
	}
	return *supported & wanted
}

func (c *card) eventKinds() []device.EventKind {
	var out []device.EventKind
	mask := c.eventMask()
	for _, t := range eventTypes {
		if mask&t.bit != 0 {
			out = append(out, t.kind)
		}
	}
	return out
}

// watch registers every card that can be, and starts the thread that waits. A card
// that refuses is left out: the kernel log still speaks for it.
func (s *session) watch(w *output) *device.Problem {
	if s.watched {
		return nil
	}
	if bad := s.need("nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2", "nvmlDeviceGetCount_v2"); bad != nil {
		return bad
	}
	set, ret := s.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return failed("nvmlEventSetCreate", ret)
	}
	n, ret := s.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return failed("nvmlDeviceGetCount_v2", ret)
	}
	registered := 0
	for i := range n {
		c, bad := s.byIndex(i)
		if bad != nil {
			continue
		}
		if mask := c.eventMask(); mask != 0 && c.RegisterEvents(mask, set) == nvml.SUCCESS {
			registered++
		}
	}
	if registered == 0 {
		return &device.Problem{Op: "nvmlDeviceRegisterEvents", Code: device.CodeNotSupported, Text: "no card reports events"}
	}
	s.watched = true
	go wait(set, w)
	return nil
}

// hourMS bounds one wait: drivers differ in what they make of a very long one.
const hourMS = 3600 * 1000

// wait blocks in the driver until something happens. Its thread does nothing else.
func wait(set nvml.EventSet, w *output) {
	runtime.LockOSThread()
	for {
		e, ret := set.Wait(hourMS)
		switch ret {
		case nvml.SUCCESS:
			if err := w.send(wire.Line{Event: event(e)}); err != nil {
				os.Exit(1)
			}
		case nvml.ERROR_TIMEOUT:
		default:
			// Waiting again would spin. The agent hears that events are over and
			// starts anew.
			fmt.Fprintln(os.Stderr, "helper: waiting for events:", ret.Error())
			os.Exit(3)
		}
	}
}

func event(e nvml.EventData) *device.Event {
	out := &device.Event{Data: e.EventData}
	for _, t := range eventTypes {
		if e.EventType&t.bit != 0 {
			out.Kind = t.kind
		}
	}
	if e.Device != nil {
		if uuid, ret := e.Device.GetUUID(); ret == nvml.SUCCESS {
			out.UUID = uuid
		} else if p, ret := e.Device.GetPciInfo(); ret == nvml.SUCCESS {
			out.PCI = device.Address(cString(p.BusId[:]))
		}
	}
	if e.GpuInstanceId != math.MaxUint32 {
		out.GI, out.CI = new(int(e.GpuInstanceId)), new(int(e.ComputeInstanceId))
	}
	return out
}
