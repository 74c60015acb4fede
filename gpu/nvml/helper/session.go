//go:build cgo

package main

import (
	"fmt"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"orch/gpu/device"
	"orch/gpu/nvml/wire"
)

// session is an open driver. Only the goroutine that answers uses it; the one that
// waits for events has the event set alone.
type session struct {
	lib     nvml.Interface
	without map[string]bool // what the agent says to do without
	found   map[string]bool // what look-ups said
	samples map[string]nvml.GpmSample
	watched bool
}

func newSession(lib nvml.Interface, without []string) *session {
	s := &session{lib: lib, without: map[string]bool{}, found: map[string]bool{}, samples: map[string]nvml.GpmSample{}}
	for _, name := range without {
		s.without[name] = true
	}
	return s
}

// has tells whether a function may be called. A call without it ends the process.
func (s *session) has(symbol string) bool {
	baseline, known := symbols[symbol]
	if !known {
		panic("the function " + symbol + " is not in the table")
	}
	if s.without[symbol] {
		return false
	}
	if baseline {
		return true
	}
	ok, asked := s.found[symbol]
	if !asked {
		ok = s.lib.Extensions().LookupSymbol(symbol) == nil
		s.found[symbol] = ok
	}
	return ok
}

// missing are the functions that this driver lacks.
func (s *session) missing() []string {
	var out []string
	for name := range symbols {
		if !s.has(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// card is one card, or MIG device, being asked. fatal keeps the first answer that is
// about the whole card, after which nothing more is asked.
type card struct {
	*session
	nvml.Device
	fatal *device.Problem
}

// ask calls one function and answers nil where the driver does not say.
func ask[T any](c *card, symbol string, f func() (T, nvml.Return)) *T {
	if c.fatal != nil || !c.has(symbol) {
		return nil
	}
	v, ret := f()
	if ret != nvml.SUCCESS {
		c.note(symbol, ret)
		return nil
	}
	return &v
}

// note keeps an answer that means that the card is gone, not just this figure.
func (c *card) note(symbol string, ret nvml.Return) {
	switch ret {
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_IRQ_ISSUE:
		c.fatal = failed(symbol, ret)
	}
}

// text is ask for what would be an empty string anyway.
func text(c *card, symbol string, f func() (string, nvml.Return)) string {
	if v := ask(c, symbol, f); v != nil {
		return *v
	}
	return ""
}

func failed(symbol string, ret nvml.Return) *device.Problem {
	return &device.Problem{Op: symbol, Code: int(ret), Text: ret.Error()}
}

// need is for calls without which an operation makes no sense.
func (s *session) need(names ...string) *device.Problem {
	for _, name := range names {
		if !s.has(name) {
			return &device.Problem{Op: name, Code: device.CodeFunctionNotFound, Text: "this driver does not have the function"}
		}
	}
	return nil
}

// byUUID finds a card, or a MIG device.
func (s *session) byUUID(uuid string) (*card, *device.Problem) {
	if bad := s.need("nvmlDeviceGetHandleByUUID"); bad != nil {
		return nil, bad
	}
	d, ret := s.lib.DeviceGetHandleByUUID(uuid)
	if ret != nvml.SUCCESS {
		return nil, failed("nvmlDeviceGetHandleByUUID", ret)
	}
	return &card{session: s, Device: d}, nil
}

func (s *session) byIndex(i int) (*card, *device.Problem) {
	if bad := s.need("nvmlDeviceGetHandleByIndex_v2"); bad != nil {
		return nil, bad
	}
	d, ret := s.lib.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return nil, failed("nvmlDeviceGetHandleByIndex_v2", ret)
	}
	return &card{session: s, Device: d}, nil
}

// answer does one request.
func (s *session) answer(r wire.Request, w *output) (any, *device.Problem) {
	switch r.Op {
	case wire.OpSystem:
		return s.system()
	case wire.OpCard:
		c, bad := s.byIndex(r.Index)
		if bad != nil {
			return nil, bad
		}
		return c.describe(r.Index), nil
	case wire.OpPeers:
		return s.peers(r.Index)
	case wire.OpWatch:
		return true, s.watch(w)
	}
	c, bad := s.byUUID(r.UUID)
	if bad != nil {
		return nil, bad
	}
	switch r.Op {
	case wire.OpFigures:
		return c.allFigures(r.UUID), nil
	case wire.OpProcesses:
		return c.processes(r.UUID)
	case wire.OpMIGMode:
		return c.setMIGMode(r.On)
	case wire.OpCreate:
		return c.create(r.Profile, r.At, r.Parts)
	case wire.OpDestroy:
		return true, c.destroy(r.GI)
	case wire.OpComputeMode:
		return true, c.setComputeMode(r.Mode)
	case wire.OpMemoryLimits:
		if bad := s.need("nvmlDeviceSetMemoryLimits_v1"); bad != nil {
			return nil, bad
		}
		if ret := c.SetMemoryLimits_v1(r.Namespace, r.RequestBytes, r.LimitBytes); ret != nvml.SUCCESS {
			return nil, failed("nvmlDeviceSetMemoryLimits_v1", ret)
		}
		return true, nil
	}
	return nil, &device.Problem{Op: string(r.Op), Code: device.CodeProtocol, Text: fmt.Sprintf("there is no operation %q", r.Op)}
}

// system is what belongs to no card.
func (s *session) system() (wire.System, *device.Problem) {
	all := &card{session: s}
	out := wire.System{Missing: s.missing()}
	out.Driver.Version = text(all, "nvmlSystemGetDriverVersion", s.lib.SystemGetDriverVersion)
	out.Driver.NVML = text(all, "nvmlSystemGetNVMLVersion", s.lib.SystemGetNVMLVersion)
	if v := ask(all, "nvmlSystemGetCudaDriverVersion_v2", s.lib.SystemGetCudaDriverVersion_v2); v != nil {
		out.Driver.CUDA = fmt.Sprintf("%d.%d", *v/1000, *v%1000/10)
	}
	if bad := s.need("nvmlDeviceGetCount_v2"); bad != nil {
		return out, bad
	}
	n, ret := s.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return out, failed("nvmlDeviceGetCount_v2", ret)
	}
	out.Count = n
	return out, nil
}

// computeModes by NVML's numbers, in nvidia-smi's words.
var computeModes = []string{"Default", "ExclusiveThread", "Prohibited", "ExclusiveProcess"}

func (c *card) setComputeMode(mode string) *device.Problem {
	i := slices.Index(computeModes, mode)
	if i < 0 {
		return &device.Problem{Op: "nvmlDeviceSetComputeMode", Code: device.CodeInvalidArgument, Text: fmt.Sprintf("there is no compute mode %q", mode)}
	}
	if bad := c.need("nvmlDeviceSetComputeMode"); bad != nil {
		return bad
	}
	if ret := c.SetComputeMode(nvml.ComputeMode(i)); ret != nvml.SUCCESS {
		return failed("nvmlDeviceSetComputeMode", ret)
	}
	return nil
}
