package share

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Config
	}{
		{"nothing shared", "version: v1\nflags: {migStrategy: mixed, plugin: {deviceIDStrategy: uuid}}", Config{MIG: Mixed, Method: Exclusive}},
		{"time slices", "version: v1\nsharing:\n  timeSlicing:\n    resources:\n    - {name: nvidia.com/gpu, replicas: 10}",
			Config{MIG: None, Method: TimeSlicing, Resources: []Replication{{Name: GPU, As: GPU, Replicas: 10}}}},
		{"renamed", "version: v1\nsharing:\n  timeSlicing:\n    renameByDefault: true\n    failRequestsGreaterThanOne: true\n    resources:\n    - {name: gpu, replicas: 2, devices: [0, GPU-1]}\n    - {name: mig-1g.5gb, rename: small, replicas: 3, devices: 1}",
			Config{MIG: None, Method: TimeSlicing, OneOnly: true, Resources: []Replication{
				{Name: GPU, As: GPU + ".shared", Replicas: 2, Devices: []string{"0", "GPU-1"}},
				{Name: "nvidia.com/mig-1g.5gb", As: "nvidia.com/small", Replicas: 3, First: 1}}}},
		{"MPS", "version: v1\nsharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4, devices: all}]}}",
			Config{MIG: None, Method: MPS, OneOnly: true, Resources: []Replication{{Name: GPU, As: GPU, Replicas: 4}}}},
	} {
		got, err := Parse([]byte(tc.text))
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, %v, want %+v", tc.name, got, err, tc.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	slicing := func(rows string) string {
		return "version: v1\nsharing: {timeSlicing: {resources: [" + rows + "]}}"
	}
	for name, tc := range map[string]struct{ text, want string }{
		"no YAML":         {"\t", "reading the sharing configuration: "},
		"another version": {"version: v2", `version is "v2", only v1 is known`},
		"strategy":        {"version: v1\nflags: {migStrategy: both}", `flags.migStrategy is "both", it may be none, single or mixed`},
		"both":            {"version: v1\nsharing: {mps: {}, timeSlicing: {}}", "sharing has both timeSlicing and mps"},
		"empty":           {"version: v1\nsharing: {mps: {}}", "sharing.mps.resources is empty"},
		"two of MPS":      {"version: v1\nsharing: {mps: {failRequestsGreaterThanOne: false, resources: [{name: gpu, replicas: 2}]}}", "a client has one daemon and so one share"},
		"many of MPS":     {"version: v1\nsharing: {mps: {resources: [{name: gpu, replicas: 49}]}}", "sharing.mps.resources[0].replicas: 49, MPS serves 48 clients of a card at most"},
		"one replica":     {slicing("{name: gpu, replicas: 1}"), "sharing.timeSlicing.resources[0].replicas: 1, it may be 2 to 1024"},
		"too many":        {slicing("{name: gpu, replicas: 100000}"), "replicas: 100000, it may be 2 to 1024"},
		"no name":         {slicing("{replicas: 2}"), "resources[0].name: is missing"},
		"bad name":        {slicing("{name: 'g p u', replicas: 2}"), `resources[0].`},
		"long name":       {slicing("{name: " + strings.Repeat("x", 60) + ", replicas: 2}"), "is longer than 63 characters"},
		"twice":           {slicing("{name: gpu, replicas: 2}, {name: nvidia.com/gpu, replicas: 3}"), `resources[1].name: "nvidia.com/gpu" is there twice`},
		"devices":         {slicing("{name: gpu, replicas: 2, devices: some}"), "devices: some, it may be all, a number above 0, or a list"},
		"no devices":      {slicing("{name: gpu, replicas: 2, devices: []}"), "devices: [], it may be all"},
		"odd device":      {slicing("{name: gpu, replicas: 2, devices: [{}]}"), "is neither an index nor a UUID"},
	} {
		if _, err := Parse([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error is %v, want %q", name, err, tc.want)
		}
	}
}

func TestMIGResource(t *testing.T) {
	if got := MIGResource("1g.10gb+me"); got != "nvidia.com/mig-1g.10gb.me" {
		t.Error(got)
	}
}
