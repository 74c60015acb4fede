// Package params reads what a claim says of its devices beyond which they are: the opaque
// parameters of NVIDIA's DRA driver, resource.nvidia.com/v1beta1 GpuConfig and MigDeviceConfig.
// It owns their form and rules; an error names the field. It refuses to know how a device is
// shared (gpu/mps) and which device there is. Start reading at Config, then For.
package params

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Version is the API version of all parameters.
const Version = "resource.nvidia.com/v1beta1"

// Kinds of parameters that this node has devices for.
const (
	GPU = "GpuConfig"
	MIG = "MigDeviceConfig"
)

// others are kinds that NVIDIA's drivers know and this node does not act on, with the reason.
var others = map[string]string{
	"VfioDeviceConfig":           "it hands a card to a virtual machine by VFIO, and this node gives cards to containers: leave it out, or use " + GPU,
	"ComputeDomainChannelConfig": "it is of the driver compute-domain.nvidia.com, and this node has no multi-node NVLink domains",
	"ComputeDomainDaemonConfig":  "it is of the driver compute-domain.nvidia.com, and this node has no multi-node NVLink domains",
}

// Strategy is how the users of one claim share a device.
type Strategy string

// Strategies by NVIDIA's names; none is what the driver does by itself, which is time-slicing.
const (
	TimeSlicing Strategy = "TimeSlicing"
	MPS         Strategy = "MPS"
)

// intervals are how long one user of a card has it at a time (smi.TimeSlices).
var intervals = []string{"Default", "Short", "Medium", "Long"}

// Config is one set of parameters.
type Config struct {
	Kind    string
	Sharing Sharing
}

// Sharing is how the users of a claim share each of its devices. The zero value says nothing.
type Sharing struct {
	Strategy Strategy `json:"strategy,omitempty"`
	// Interval of time-slicing, empty for the driver's own.
	Interval string `json:"interval,omitempty"`
	// Threads is MPS' default active thread percentage, 0 for all.
	Threads int `json:"threads,omitempty"`
	// PinnedBytes is MPS' limit of memory on every device, PinnedBytesOf that on one by index or
	// UUID, which goes before; 0 is none.
	PinnedBytes   int64            `json:"pinnedBytes,omitempty"`
	PinnedBytesOf map[string]int64 `json:"pinnedBytesOf,omitempty"`
}

// Equal tells that two are the same.
func (s Sharing) Equal(o Sharing) bool {
	return s.Strategy == o.Strategy && s.Interval == o.Interval && s.Threads == o.Threads && s.PinnedBytes == o.PinnedBytes && maps.Equal(s.PinnedBytesOf, o.PinnedBytesOf)
}

// form is NVIDIA's.
type form struct {
	Kind       string   `json:"kind"`
	APIVersion string   `json:"apiVersion"`
	Sharing    *sharing `json:"sharing,omitempty"`
}

type sharing struct {
	Strategy    Strategy `json:"strategy"`
	TimeSlicing *struct {
		Interval string `json:"interval,omitempty"`
	} `json:"timeSlicingConfig,omitempty"`
	MPS *struct {
		Threads     *int                         `json:"defaultActiveThreadPercentage,omitempty"`
		Pinned      *resource.Quantity           `json:"defaultPinnedDeviceMemoryLimit,omitempty"`
		PinnedByKey map[string]resource.Quantity `json:"defaultPerDevicePinnedMemoryLimit,omitempty"`
	} `json:"mpsConfig,omitempty"`
}

// maxText bounds what is read; the API has the same limit.
const maxText = 10 << 10

// Parse reads one set of parameters. What is not known is refused, as NVIDIA's driver does.
func Parse(text []byte) (Config, error) {
	var f form
	if len(text) > maxText {
		return Config{}, fmt.Errorf("%d bytes, %d are the most", len(text), maxText)
	}
	// Their kinds go first: their fields are not ours to judge.
	var head struct {
		Kind string `json:"kind"`
	}
	if json.Unmarshal(text, &head) == nil && others[head.Kind] != "" {
		return Config{}, fmt.Errorf("kind: %s is not supported: %s", head.Kind, others[head.Kind])
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return Config{}, err
	}
	switch {
	case f.APIVersion != Version:
		return Config{}, fmt.Errorf("apiVersion: %q, it must be %s", f.APIVersion, Version)
	case f.Kind != GPU && f.Kind != MIG:
		return Config{}, fmt.Errorf("kind: %q, it must be %s or %s", f.Kind, GPU, MIG)
	}
	out := Config{Kind: f.Kind}
	if f.Sharing == nil {
		return out, nil
	}
	var err error
	out.Sharing, err = f.Sharing.read(f.Kind)
	return out, err
}

func (s *sharing) read(kind string) (Sharing, error) {
	out := Sharing{Strategy: s.Strategy}
	switch {
	case s.Strategy != TimeSlicing && s.Strategy != MPS:
		return out, fmt.Errorf("sharing.strategy: %q, it must be %s or %s", s.Strategy, TimeSlicing, MPS)
	case s.TimeSlicing != nil && kind == MIG:
		return out, errors.New("sharing.timeSlicingConfig: a MIG device has no interval of its own")
	case s.TimeSlicing != nil && s.Strategy != TimeSlicing:
		return out, fmt.Errorf("sharing.timeSlicingConfig: the strategy is %s", s.Strategy)
	case s.MPS != nil && s.Strategy != MPS:
		return out, fmt.Errorf("sharing.mpsConfig: the strategy is %s", s.Strategy)
	}
	if s.TimeSlicing != nil && s.TimeSlicing.Interval != "" {
		if out.Interval = s.TimeSlicing.Interval; !slices.Contains(intervals, out.Interval) {
			return out, fmt.Errorf("sharing.timeSlicingConfig.interval: %q, it may be Default, Short, Medium or Long", out.Interval)
		}
	}
	if s.MPS == nil {
		return out, nil
	}
	if p := s.MPS.Threads; p != nil {
		if out.Threads = *p; *p < 1 || *p > 100 {
			return out, fmt.Errorf("sharing.mpsConfig.defaultActiveThreadPercentage: %d, it may be 1 to 100", *p)
		}
	}
	if q := s.MPS.Pinned; q != nil {
		if out.PinnedBytes = q.Value(); out.PinnedBytes < 1<<20 {
			return out, fmt.Errorf("sharing.mpsConfig.defaultPinnedDeviceMemoryLimit: %s, it must be 1Mi at least", q)
		}
	}
	for key, q := range s.MPS.PinnedByKey {
		if q.Value() < 1<<20 {
			return out, fmt.Errorf("sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit[%s]: %s, it must be 1Mi at least", key, q.String())
		}
		if out.PinnedBytesOf == nil {
			out.PinnedBytesOf = map[string]int64{}
		}
		out.PinnedBytesOf[key] = q.Value()
	}
	return out, nil
}

// Given is a set of parameters as a claim has it.
type Given struct {
	// Named tells that it is for requests by name, and not for all.
	Named bool
	Text  []byte
}

// For is what holds for a device of that kind (GPU or MIG): of those that are given for its
// request, in the claim's order, the last of its kind. One that names the request must be of
// its kind.
func For(kind string, given []Given) (Config, error) {
	out := Config{Kind: kind}
	for _, g := range given {
		c, err := Parse(g.Text)
		if err != nil {
			return out, fmt.Errorf("reading its parameters: %w", err)
		}
		switch {
		case c.Kind == kind:
			out = c
		case g.Named:
			return out, fmt.Errorf("reading its parameters: kind: %s is not for this device, but %s", c.Kind, kind)
		}
	}
	return out, nil
}
