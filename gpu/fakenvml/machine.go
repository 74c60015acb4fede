// Package fakenvml is a driver without a card: a catalogue of machines as recordings,
// and a Player that answers from one as gpu/nvml's client would, with faults on
// demand. It owns no process, no device node and no clock; what it plays is a
// device.Recording, so the recording of a user's bug report plays as well. It refuses
// what a real card refuses: instances that do not fit, modes that need an idle card.
//
// The recordings in machines/ are written by TestCatalogue -rewrite from the table in
// facts_test.go. Start reading at Load, then Player.
package fakenvml

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"slices"
	"strings"

	"orch/gpu/device"
)

//go:embed machines/*.json
var machines embed.FS

// Names lists the catalogue, sorted: "a100-40", "h100-8", "mixed", ...
func Names() []string {
	entries, err := machines.ReadDir("machines")
	if err != nil {
		panic(err) // embedded: it is there or the build is broken
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".json"))
	}
	slices.Sort(out)
	return out
}

// Load returns a machine of the catalogue.
func Load(name string) (device.Recording, error) {
	f, err := machines.Open("machines/" + name + ".json")
	if err != nil {
		return device.Recording{}, fmt.Errorf("loading the machine %q: there is none; there are %s", name, strings.Join(Names(), ", "))
	}
	defer f.Close()
	rec, err := device.ReadRecording(f)
	if err != nil {
		return device.Recording{}, fmt.Errorf("loading the machine %q: %w", name, err)
	}
	return rec, nil
}

// Take keeps the first n cards of a recording, so that one box of eight makes machines
// of one to eight.
func Take(rec device.Recording, n int) device.Recording {
	rec.Machine = rec.Machine.Clone()
	rec.Machine.GPUs = rec.Machine.GPUs[:min(n, len(rec.Machine.GPUs))]
	known := func(uuid string) bool { _, ok := rec.Machine.GPU(uuid); return ok }
	for i := range rec.Machine.GPUs {
		rec.Machine.GPUs[i].Peers = slices.DeleteFunc(rec.Machine.GPUs[i].Peers, func(p device.Peer) bool { return !known(p.UUID) })
	}
	rec.Figures = slices.DeleteFunc(slices.Clone(rec.Figures), func(f device.Figures) bool {
		_, mig := rec.Machine.MIGDevice(f.UUID)
		return !known(f.UUID) && !mig
	})
	rec.Processes = slices.DeleteFunc(slices.Clone(rec.Processes), func(p device.Process) bool { return !known(p.UUID) })
	return rec
}

// Minors of the capabilities as the driver numbers them in /proc/driver/nvidia-caps/mig-minors:
// 1 and 2 are config and monitor, then 15 GPU instances of nine for each card.
func giCapMinor(gpuMinor, gi int) int     { return 3 + gpuMinor*15*9 + gi*9 }
func ciCapMinor(gpuMinor, gi, ci int) int { return giCapMinor(gpuMinor, gi) + 1 + ci }

// instance makes a GPU instance with compute instances of so many slices; without parts,
// with one that takes all of it.
func instance(card string, minor int, kind device.Profile, at device.Placement, parts ...int) device.GPUInstance {
	// The driver numbers instances by size from the top, and of one size by where they start.
	gi := map[int]int{1: 7, 2: 3, 4: 1, 8: 0}[at.Size] + at.Start/at.Size
	out := device.GPUInstance{ID: gi, ProfileID: kind.ID, Placement: at, CapMinor: new(giCapMinor(minor, gi))}
	if len(parts) == 0 {
		parts = []int{kind.Slices}
	}
	for ci, n := range parts {
		c := device.ComputeInstance{ID: ci, Slices: n, UUID: migUUID(card, gi, ci, kind.Name), Index: ci,
			MemoryBytes: new(kind.MemoryMiB << 20), Attributes: kind.Attributes, CapMinor: new(ciCapMinor(minor, gi, ci))}
		for _, k := range kind.Compute {
			if k.Slices == n {
				c.ProfileID = k.ID
				if k.Multiprocessors > 0 {
					c.Attributes.Multiprocessors = new(k.Multiprocessors)
				}
			}
		}
		out.Compute = append(out.Compute, c)
	}
	return out
}

func migUUID(card string, gi, ci int, profile string) string {
	name := fmt.Append(nil, card, "/", gi, "/", profile)
	if ci > 0 {
		name = fmt.Append(name, "/", ci)
	}
	h := sha256.Sum256(name)
	return fmt.Sprintf("MIG-%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
