package params

import (
	"reflect"
	"strings"
	"testing"
)

const head = `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"GpuConfig"`

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Config
		err        string
	}{
		{"nothing said", head + `}`, Config{Kind: GPU}, ""},
		{"time-slicing", head + `,"sharing":{"strategy":"TimeSlicing","timeSlicingConfig":{"interval":"Long"}}}`, Config{GPU, Sharing{Strategy: TimeSlicing, Interval: "Long"}}, ""},
		{"MPS", head + `,"sharing":{"strategy":"MPS","mpsConfig":{"defaultActiveThreadPercentage":50,"defaultPinnedDeviceMemoryLimit":"10Gi","defaultPerDevicePinnedMemoryLimit":{"0":"5Gi"}}}}`,
			Config{GPU, Sharing{Strategy: MPS, Threads: 50, PinnedBytes: 10 << 30, PinnedBytesOf: map[string]int64{"0": 5 << 30}}}, ""},
		{"a MIG device", strings.Replace(head, GPU, MIG, 1) + `,"sharing":{"strategy":"TimeSlicing"}}`, Config{MIG, Sharing{Strategy: TimeSlicing}}, ""},
		{"another version", `{"apiVersion":"v1","kind":"GpuConfig"}`, Config{}, `apiVersion: "v1"`},
		{"another kind", `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"TPUConfig"}`, Config{}, `kind: "TPUConfig", it must be GpuConfig or MigDeviceConfig`},
		{"a card for a virtual machine", `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"VfioDeviceConfig","iommu":{"backendPolicy":"PreferIommuFD"}}`, Config{}, "kind: VfioDeviceConfig is not supported: it hands a card to a virtual machine by VFIO, and this node gives cards to containers"},
		{"a compute domain's channel", `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"ComputeDomainChannelConfig","domainID":"x"}`, Config{}, "kind: ComputeDomainChannelConfig is not supported: it is of the driver compute-domain.nvidia.com"},
		{"a compute domain's daemon", `{"apiVersion":"resource.nvidia.com/v1beta1","kind":"ComputeDomainDaemonConfig","domainID":"x"}`, Config{}, "kind: ComputeDomainDaemonConfig is not supported: it is of the driver compute-domain.nvidia.com"},
		{"an unknown field", head + `,"shared":1}`, Config{}, `unknown field "shared"`},
		{"no strategy", head + `,"sharing":{}}`, Config{}, "sharing.strategy"},
		{"an unknown interval", head + `,"sharing":{"strategy":"TimeSlicing","timeSlicingConfig":{"interval":"Ages"}}}`, Config{}, "sharing.timeSlicingConfig.interval"},
		{"limits without MPS", head + `,"sharing":{"strategy":"TimeSlicing","mpsConfig":{}}}`, Config{}, "sharing.mpsConfig: the strategy is TimeSlicing"},
		{"an interval with MPS", head + `,"sharing":{"strategy":"MPS","timeSlicingConfig":{}}}`, Config{}, "sharing.timeSlicingConfig: the strategy is MPS"},
		{"a part's interval", strings.Replace(head, GPU, MIG, 1) + `,"sharing":{"strategy":"TimeSlicing","timeSlicingConfig":{}}}`, Config{}, "a MIG device has no interval"},
		{"too many threads", head + `,"sharing":{"strategy":"MPS","mpsConfig":{"defaultActiveThreadPercentage":101}}}`, Config{}, "it may be 1 to 100"},
		{"no memory", head + `,"sharing":{"strategy":"MPS","mpsConfig":{"defaultPinnedDeviceMemoryLimit":"0"}}}`, Config{}, "defaultPinnedDeviceMemoryLimit: 0"},
		{"no memory on one", head + `,"sharing":{"strategy":"MPS","mpsConfig":{"defaultPerDevicePinnedMemoryLimit":{"1":"1k"}}}}`, Config{}, "defaultPerDevicePinnedMemoryLimit[1]: 1k"},
		{"no JSON", `x`, Config{}, "invalid character"},
		{"too long", head + strings.Repeat(" ", maxText) + "}", Config{}, "are the most"},
	} {
		got, err := Parse([]byte(tc.text))
		if tc.err == "" && (err != nil || !reflect.DeepEqual(got, tc.want)) || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: %+v %v, want %+v %s", tc.name, got, err, tc.want, tc.err)
		}
	}
}

func TestFor(t *testing.T) {
	slicing := head + `,"sharing":{"strategy":"TimeSlicing"}}`
	mps := head + `,"sharing":{"strategy":"MPS"}}`
	mig := strings.Replace(mps, GPU, MIG, 1)
	for _, tc := range []struct {
		name  string
		kind  string
		given []Given
		want  Strategy
		err   string
	}{
		{"nothing", GPU, nil, "", ""},
		{"the last one", GPU, []Given{{Text: []byte(slicing)}, {Text: []byte(mps)}}, MPS, ""},
		{"those of another kind are for other devices", GPU, []Given{{Text: []byte(slicing)}, {Text: []byte(mig)}}, TimeSlicing, ""},
		{"but not by name", GPU, []Given{{Named: true, Text: []byte(mig)}}, "", "MigDeviceConfig is not for this device, but GpuConfig"},
		{"one that is damaged", GPU, []Given{{Text: []byte("{")}, {Text: []byte(mps)}}, "", "reading its parameters: unexpected EOF"},
	} {
		got, err := For(tc.kind, tc.given)
		if tc.err == "" && (err != nil || got.Sharing.Strategy != tc.want) || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: %+v %v", tc.name, got, err)
		}
	}
}
