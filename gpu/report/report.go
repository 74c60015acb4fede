// Package report says how the GPUs of a node are, for people: what `orch gpu status` and
// `orch top gpu` print, as plain values with a JSON form (Of), and what stands between a
// pod and its GPU, link by link (Examine). It is pure: it asks nobody, and refuses to
// judge what it was not told. Start reading at Report and Of; chain.go is the doctor.
package report

import (
	"cmp"
	"slices"

	"orch/gpu/device"
	"orch/gpu/share"
)

// Report is how a node's GPUs are at one moment: what the node answers at Path.
type Report struct {
	Node    string `json:"node"`
	Product string `json:"product,omitempty"`
	Kernel  string `json:"kernel,omitempty"`
	// Tier says who answered: nvml, sysfs or none.
	Tier   device.Tier `json:"tier"`
	Driver string      `json:"driver,omitempty"`
	CUDA   string      `json:"cuda,omitempty"`
	// Findings are what is wrong with the driver as a whole, the root first.
	Findings []Finding `json:"findings,omitempty"`
	// Layout says why cards are held back for their MIG layout; empty is fine.
	Layout    string     `json:"layout,omitempty"`
	Resources []Resource `json:"resources,omitempty"`
	Cards     []Card     `json:"cards"`
	// Stray are holders of devices that the machine does not have (any more).
	Stray []Holder `json:"stray,omitempty"`
	// Figures says why there are none; empty if there are.
	Figures string `json:"figures,omitempty"`
}

// Paths of the node's own API.
const (
	Path        = "/gpu/status"
	RecordPath  = "/gpu/record"
	MetricsPath = "/metrics/gpu"
	// Socket is where, below the agent's run folder, root on the node itself reaches them.
	Socket = "gpu.sock"
)

// Finding is something wrong with the driver, with what to do about it.
type Finding struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Fatal: no GPU is given out while it stands.
	Fatal bool `json:"fatal,omitempty"`
}

// Resource is one extended resource of the node.
type Resource struct {
	Name        string `json:"name"`
	Capacity    int64  `json:"capacity"`
	Allocatable int64  `json:"allocatable"`
	Held        int64  `json:"held"`
}

// Card is one GPU.
type Card struct {
	Unit
	Index int    `json:"index"`
	PCI   string `json:"pci,omitempty"`
	Model string `json:"model,omitempty"`
	// MIG is on or off; empty where a card cannot be partitioned.
	MIG     string `json:"mig,omitempty"`
	Devices []Part `json:"devices,omitempty"`
}

// Part is a MIG device of a card.
type Part struct {
	Unit
	Profile string `json:"profile"`
	Index   int    `json:"index"`
}

// Unit is what cards and MIG devices have in common. A figure that the driver does not
// say is nil.
type Unit struct {
	UUID        string   `json:"uuid,omitempty"`
	MemoryBytes *uint64  `json:"memoryBytes,omitempty"`
	UsedBytes   *uint64  `json:"usedBytes,omitempty"`
	Utilisation *float64 `json:"utilisationPercent,omitempty"`
	Temperature *float64 `json:"temperatureC,omitempty"`
	PowerWatts  *float64 `json:"powerWatts,omitempty"`
	// Health is Healthy or the state it is in; Sentence says why and what follows.
	Health   string `json:"health"`
	Sentence string `json:"sentence,omitempty"`
	// Resource is what it is offered as, Shares into how many it is divided (1: it is not).
	Resource string   `json:"resource,omitempty"`
	Shares   int      `json:"shares,omitempty"`
	Holders  []Holder `json:"holders,omitempty"`
}

// Holder is a container that holds a device or a share of it. Pod and container are missing for
// a claim that no pod uses any more, and the container for one that none of its pod's lists.
type Holder struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	Container string `json:"container"`
	Resource  string `json:"resource"`
	// Device is the id in the ledger.
	Device string `json:"device"`
	// Share is how much of the device it has, in words, and Enforced what keeps it within
	// that (gpu/share.Level); empty for a whole one.
	Share    string `json:"share,omitempty"`
	Enforced string `json:"enforced,omitempty"`
	// Claim is the name of the ResourceClaim that holds it for the container; empty for one that
	// asked for the resource. Admin: it only watches.
	Claim string `json:"claim,omitempty"`
	Admin bool   `json:"admin,omitempty"`
}

// Part tells that others may be on the device: who is kept apart by MIG has it whole.
func (h Holder) Part() bool { return h.Share != "" && h.Enforced != string(share.ByMIG) }

// Name says who it is, for people.
func (h Holder) Name() string {
	pod := h.Namespace + "/" + h.Pod
	switch {
	case h.Claim == "":
		return pod
	case h.Pod == "":
		return "claim " + h.Namespace + "/" + h.Claim
	}
	return pod + " (claim " + h.Claim + ")"
}

// Trouble is a unit that is not healthy; GI is -1 for the card.
type Trouble struct {
	UUID            string
	GI              int
	State, Sentence string
}

// Offer is how a device is offered.
type Offer struct {
	Resource string
	Shares   int
}

// Input is all that a Report is made of. Holders and Offers are by the device's UUID.
type Input struct {
	Node      string
	Machine   device.Machine
	Figures   []device.Figures
	NoFigures string
	Findings  []Finding
	Layout    string
	Troubles  []Trouble
	Resources []Resource
	Holders   map[string][]Holder
	Offers    map[string]Offer
}

// Of makes the report.
func Of(in Input) Report {
	m := in.Machine
	r := Report{Node: in.Node, Product: m.Host.Product, Kernel: m.Host.Kernel, Tier: cmp.Or(m.Tier, device.TierNone), Driver: cmp.Or(m.Driver.Version, m.Module.Version),
		CUDA: m.Driver.CUDA, Findings: in.Findings, Layout: in.Layout, Resources: in.Resources, Cards: []Card{}, Figures: in.NoFigures}
	known := map[string]bool{}
	for _, g := range m.GPUs {
		c := Card{Unit: in.unit(g.UUID, g.UUID, -1, g.Problem), Index: g.Index, PCI: g.PCI.Address, Model: g.Name}
		c.MemoryBytes = cmp.Or(g.MemoryBytes, c.MemoryBytes)
		known[g.UUID] = true
		if g.MIG != nil {
			c.MIG = map[bool]string{true: "on", false: "off"}[g.MIG.Enabled()]
		}
		for _, d := range g.MIGDevices() {
			p := Part{Unit: in.unit(d.UUID, g.UUID, d.GI, d.Problem), Profile: d.Profile, Index: d.Index}
			p.MemoryBytes = cmp.Or(d.MemoryBytes, p.MemoryBytes)
			known[d.UUID] = true
			c.Devices = append(c.Devices, p)
		}
		r.Cards = append(r.Cards, c)
	}
	for uuid, holders := range in.Holders {
		if !known[uuid] {
			r.Stray = append(r.Stray, holders...)
		}
	}
	slices.SortFunc(r.Stray, func(a, b Holder) int { return cmp.Compare(a.where()+a.Device, b.where()+b.Device) })
	return r
}

func (h Holder) where() string { return h.Namespace + "/" + h.Pod + "/" + h.Container }

func (in Input) unit(uuid, card string, gi int, problem *device.Problem) Unit {
	u := Unit{UUID: uuid, Health: "Healthy", Resource: in.Offers[uuid].Resource, Shares: in.Offers[uuid].Shares, Holders: in.Holders[uuid]}
	for _, t := range in.Troubles {
		if t.UUID == card && (t.GI == gi || t.GI < 0) {
			u.Health, u.Sentence = t.State, t.Sentence
		}
	}
	if problem != nil && u.Sentence == "" {
		u.Health, u.Sentence = "NotAnswering", problem.Error()
	}
	for _, f := range in.Figures {
		if f.UUID == uuid && uuid != "" {
			u.read(f)
		}
	}
	return u
}

func (u *Unit) read(f device.Figures) {
	number := func(name device.Figure, scale float64) *float64 {
		v, ok := f.Get(name)
		if !ok {
			return nil
		}
		v /= scale
		return &v
	}
	bytes := func(name device.Figure) *uint64 {
		v, ok := f.Get(name)
		if !ok || v < 0 {
			return nil
		}
		b := uint64(v)
		return &b
	}
	u.MemoryBytes, u.UsedBytes = bytes(device.FBTotalBytes), bytes(device.FBUsedBytes)
	u.Utilisation, u.Temperature, u.PowerWatts = number(device.GPUUtilPercent, 1), number(device.TemperatureC, 1), number(device.PowerMilliwatt, 1000)
}
