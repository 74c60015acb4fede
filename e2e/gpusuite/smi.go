package gpusuite

import (
	"encoding/csv"
	"fmt"
	"math"
	"strconv"
	"strings"

	"orch/gpu/device"
)

// row is one figure that nvidia-smi and orch both say of a card. say gives orch's, in
// nvidia-smi's unit; ok is false where orch has none.
type row struct {
	field string
	say   func(d device.Driver, g device.GPU) (value string, ok bool)
	// off is by how much numbers may differ.
	off float64
}

var rows = []row{
	{"index", func(_ device.Driver, g device.GPU) (string, bool) { return strconv.Itoa(g.Index), true }, 0},
	{"name", func(_ device.Driver, g device.GPU) (string, bool) { return g.Name, g.Name != "" }, 0},
	{"uuid", func(_ device.Driver, g device.GPU) (string, bool) { return g.UUID, g.UUID != "" }, 0},
	{"pci.bus_id", func(_ device.Driver, g device.GPU) (string, bool) { return g.PCI.NVMLBusID(), g.PCI.Address != "" }, 0},
	{"memory.total", func(_ device.Driver, g device.GPU) (string, bool) { return mebibytes(g.MemoryBytes) }, 1},
	{"driver_version", func(d device.Driver, _ device.GPU) (string, bool) { return d.Version, d.Version != "" }, 0},
	{"compute_cap", func(_ device.Driver, g device.GPU) (string, bool) {
		if g.Compute == nil {
			return "", false
		}
		return g.Compute.String(), true
	}, 0},
	{"power.limit", func(_ device.Driver, g device.GPU) (string, bool) {
		if g.PowerLimitMilliwatt == nil {
			return "", false
		}
		return fmt.Sprintf("%.2f", float64(*g.PowerLimitMilliwatt)/1000), true
	}, 0.01},
	{"mig.mode.current", func(_ device.Driver, g device.GPU) (string, bool) {
		return enabled(g.MIG.Enabled()), g.MIG != nil
	}, 0},
	{"persistence_mode", func(_ device.Driver, g device.GPU) (string, bool) { return switched(g.Persistence) }, 0},
	{"ecc.mode.current", func(_ device.Driver, g device.GPU) (string, bool) {
		if g.ECC == nil {
			return "", false
		}
		return enabled(g.ECC.Current), true
	}, 0},
	{"serial", func(_ device.Driver, g device.GPU) (string, bool) { return g.Serial, g.Serial != "" }, 0},
	{"vbios_version", func(_ device.Driver, g device.GPU) (string, bool) { return g.VBIOS, g.VBIOS != "" }, 0},
	{"compute_mode", func(_ device.Driver, g device.GPU) (string, bool) {
		return computeModes[g.ComputeMode], g.ComputeMode != ""
	}, 0},
}

// computeModes are nvidia-smi's words.
var computeModes = map[string]string{"Default": "Default", "ExclusiveThread": "Exclusive_Thread", "Prohibited": "Prohibited", "ExclusiveProcess": "Exclusive_Process"}

func mebibytes(bytes *uint64) (string, bool) {
	if bytes == nil {
		return "", false
	}
	return strconv.FormatUint(*bytes>>20, 10), true
}

func switched(b *bool) (string, bool) {
	if b == nil {
		return "", false
	}
	return enabled(*b), true
}

func enabled(on bool) string {
	if on {
		return "Enabled"
	}
	return "Disabled"
}

// Query is the argument for nvidia-smi: --query-gpu=Query(), with
// --format=csv,noheader,nounits.
func Query() string {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.field
	}
	return strings.Join(names, ",")
}

// Compare says how nvidia-smi's answer to Query differs from the machine; nothing if it
// does not. "Not supported" on both sides is no difference.
func Compare(answer string, m device.Machine) []string {
	read := csv.NewReader(strings.NewReader(answer))
	read.TrimLeadingSpace, read.FieldsPerRecord = true, len(rows)
	cards, err := read.ReadAll()
	if err != nil {
		return []string{fmt.Sprintf("nvidia-smi's answer cannot be read: %v", err)}
	}
	var out []string
	if len(cards) != len(m.GPUs) {
		out = append(out, fmt.Sprintf("nvidia-smi has %d cards, orch %d", len(cards), len(m.GPUs)))
	}
	for i, card := range cards[:min(len(cards), len(m.GPUs))] {
		for k, r := range rows {
			said, ok := r.say(m.Driver, m.GPUs[i])
			if theirs := strings.TrimSpace(card[k]); !same(theirs, said, ok, r.off) {
				out = append(out, fmt.Sprintf("card %d: %s: nvidia-smi says %q, orch %q", i, r.field, theirs, said))
			}
		}
	}
	return out
}

func same(theirs, ours string, ok bool, off float64) bool {
	if strings.HasPrefix(theirs, "[") || theirs == "N/A" || theirs == "0" && !ok { // [N/A], [Not Supported]
		return !ok
	}
	if !ok || theirs == ours {
		return ok
	}
	a, err := strconv.ParseFloat(theirs, 64)
	b, err2 := strconv.ParseFloat(ours, 64)
	return off > 0 && err == nil && err2 == nil && math.Abs(a-b) <= off
}
