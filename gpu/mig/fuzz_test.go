package mig

import "testing"

// FuzzConfig: a file is refused, or has a form for each name.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("version: v1\nmig-configs:\n  all-1g.5gb:\n  - devices: all\n    mig-enabled: true\n    mig-devices: {1g.5gb: 7}\n  x:\n  - devices: [0, 1]\n    device-filter: ['0x20B010DE']\n    mig-enabled: false"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = Parse(text)
	})
}
