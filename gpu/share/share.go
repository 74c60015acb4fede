// Package share says how GPUs are shared, in two ways. Of a node: NVIDIA's sharing
// configuration file (version v1 of its device plugin), so that a file that people have
// goes on meaning the same. Of a pod: parts of cards, in HAMi's resources and KAI's
// annotations, which are one Request here. It owns those forms, their rules and the names
// of resources; it refuses to know which devices there are (gpu/alloc) and how a limit is
// enforced. Start reading at Config and Parse, then Request and Normalize (request.go).
package share

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// Strategy says how MIG devices become resources.
type Strategy string

// Strategies by NVIDIA's names. None offers cards as they are, Single offers the MIG
// devices of a node whose cards are all partitioned alike as nvidia.com/gpu, Mixed
// offers each profile under a name of its own beside whole cards.
const (
	None   Strategy = "none"
	Single Strategy = "single"
	Mixed  Strategy = "mixed"
)

// Method says how several pods use one device.
type Method string

// Methods by NVIDIA's names, as the label sharing-strategy has them.
const (
	Exclusive   Method = "none"
	TimeSlicing Method = "time-slicing"
	MPS         Method = "mps"
)

// Names of resources.
const (
	Prefix = "nvidia.com/"
	GPU    = Prefix + "gpu"
	// maxName is the longest resource name that NVIDIA's plugin takes, prefix included.
	maxName = 63
)

// MIGResource is the name under which the mixed strategy offers a profile:
// "1g.10gb+me" is nvidia.com/mig-1g.10gb.me.
func MIGResource(profile string) string {
	return Prefix + "mig-" + strings.ReplaceAll(profile, "+", ".")
}

// Config is how a node shares. The zero value shares nothing and ignores MIG.
type Config struct {
	MIG    Strategy
	Method Method
	// OneOnly refuses requests for more than one of a shared resource: more would not
	// give more.
	OneOnly   bool
	Resources []Replication
}

// Replication offers every device of a resource several times.
type Replication struct {
	Name string
	// As is the name that the shares are offered under, Name itself if not renamed.
	As       string
	Replicas int
	// Devices are the shared ones: indices ("0", "0:1") or UUIDs; nil is all.
	Devices []string
	// First shares that many devices, the first ones; 0 is all.
	First int
}

// Renamed tells whether shares have a name of their own.
func (r Replication) Renamed() bool { return r.As != r.Name }

// Of returns how a resource is shared; ok is false if it is not.
func (c Config) Of(resource string) (Replication, bool) {
	i := slices.IndexFunc(c.Resources, func(r Replication) bool { return r.Name == resource })
	if i < 0 {
		return Replication{Name: resource, As: resource, Replicas: 1}, false
	}
	return c.Resources[i], true
}

// file is the part of NVIDIA's form that says something here. Its other flags belong
// to parts that a node does not need (where the plugin's socket is, how it was started).
type file struct {
	Version string `json:"version"`
	Flags   struct {
		MIGStrategy string `json:"migStrategy"`
	} `json:"flags"`
	Sharing struct {
		TimeSlicing *sharing `json:"timeSlicing"`
		MPS         *sharing `json:"mps"`
	} `json:"sharing"`
}

type sharing struct {
	RenameByDefault            bool          `json:"renameByDefault"`
	FailRequestsGreaterThanOne *bool         `json:"failRequestsGreaterThanOne"`
	Resources                  []replication `json:"resources"`
}

type replication struct {
	Name     string `json:"name"`
	Rename   string `json:"rename"`
	Replicas int    `json:"replicas"`
	// Devices is "all", a number, or a list of indices and UUIDs.
	Devices any `json:"devices"`
}

// maxReplicas bounds the shares of one device: each becomes an id that is listed and kept.
const maxReplicas = 1024

// maxClients of one card that MPS takes from Volta on.
const maxClients = 48

// Parse reads NVIDIA's sharing configuration. An error names the field that is wrong
// and what it may be.
func Parse(text []byte) (Config, error) {
	var f file
	if err := yaml.Unmarshal(text, &f); err != nil {
		return Config{}, fmt.Errorf("reading the sharing configuration: %w", err)
	}
	if f.Version != "v1" {
		return Config{}, fmt.Errorf("reading the sharing configuration: version is %q, only v1 is known", f.Version)
	}
	c := Config{MIG: Strategy(cmp.Or(f.Flags.MIGStrategy, string(None))), Method: Exclusive}
	if !slices.Contains([]Strategy{None, Single, Mixed}, c.MIG) {
		return Config{}, fmt.Errorf("reading the sharing configuration: flags.migStrategy is %q, it may be none, single or mixed", c.MIG)
	}
	s, at := f.Sharing.TimeSlicing, "sharing.timeSlicing"
	switch {
	case f.Sharing.MPS != nil && s != nil:
		return Config{}, errors.New("reading the sharing configuration: sharing has both timeSlicing and mps, a node has one of them")
	case f.Sharing.MPS != nil:
		s, at, c.Method = f.Sharing.MPS, "sharing.mps", MPS
	case s != nil:
		c.Method = TimeSlicing
	default:
		return c, nil
	}
	// An MPS client sees its own share only: two would be two processes' worth, never more memory.
	c.OneOnly = c.Method == MPS
	if s.FailRequestsGreaterThanOne != nil {
		c.OneOnly = *s.FailRequestsGreaterThanOne
	}
	if c.Method == MPS && !c.OneOnly {
		return Config{}, errors.New("reading the sharing configuration: sharing.mps.failRequestsGreaterThanOne: false, but a client has one daemon and so one share")
	}
	for i, r := range s.Resources {
		out, err := r.read(s.RenameByDefault)
		if err == nil && c.Method == MPS && out.Replicas > maxClients {
			err = fmt.Errorf("replicas: %d, MPS serves %d clients of a card at most", out.Replicas, maxClients)
		}
		if err == nil {
			err = c.add(out)
		}
		if err != nil {
			return Config{}, fmt.Errorf("reading the sharing configuration: %s.resources[%d].%w", at, i, err)
		}
	}
	if len(c.Resources) == 0 {
		return Config{}, fmt.Errorf("reading the sharing configuration: %s.resources is empty", at)
	}
	return c, nil
}

func (c *Config) add(r Replication) error {
	if slices.ContainsFunc(c.Resources, func(o Replication) bool { return o.Name == r.Name || o.As == r.As }) {
		return fmt.Errorf("name: %q is there twice", r.Name)
	}
	c.Resources = append(c.Resources, r)
	return nil
}

// read checks one row. Errors begin with the field's name.
func (r replication) read(rename bool) (Replication, error) {
	out := Replication{Name: qualified(r.Name), As: qualified(r.Rename), Replicas: r.Replicas}
	switch {
	case r.Rename == "" && rename:
		out.As = out.Name + ".shared"
	case r.Rename == "":
		out.As = out.Name
	}
	for _, field := range []struct{ name, value string }{{"name", out.Name}, {"rename", out.As}} {
		if err := CheckName(field.value); err != nil {
			return out, fmt.Errorf("%s: %w", field.name, err)
		}
	}
	if r.Replicas < 2 || r.Replicas > maxReplicas {
		return out, fmt.Errorf("replicas: %d, it may be 2 to %d", r.Replicas, maxReplicas)
	}
	err := out.setDevices(r.Devices)
	return out, err
}

func qualified(name string) string {
	if name == "" || strings.HasPrefix(name, Prefix) {
		return name
	}
	return Prefix + name
}

// CheckName tells why a name cannot be a resource of a node.
func CheckName(name string) error {
	short := strings.TrimPrefix(name, Prefix)
	if short == "" {
		return errors.New("is missing")
	}
	if len(name) > maxName {
		return fmt.Errorf("%q is longer than %d characters", name, maxName)
	}
	if msgs := validation.IsDNS1123Subdomain(short); len(msgs) > 0 {
		return fmt.Errorf("%q: %s", name, msgs[0])
	}
	return nil
}

func (r *Replication) setDevices(v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		if v == "all" {
			return nil
		}
	case float64:
		if v >= 1 && v == float64(int(v)) {
			r.First = int(v)
			return nil
		}
	case []any:
		for _, e := range v {
			switch e := e.(type) {
			case string:
				r.Devices = append(r.Devices, e)
			case float64:
				r.Devices = append(r.Devices, fmt.Sprint(int(e)))
			default:
				return fmt.Errorf("devices: %v is neither an index nor a UUID", e)
			}
		}
		if len(v) > 0 {
			return nil
		}
	}
	return fmt.Errorf("devices: %v, it may be all, a number above 0, or a list of indices and UUIDs", v)
}
