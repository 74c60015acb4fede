package sysfs

import "testing"

// FuzzXID: a line of the kernel log is no XID, or one of a card.
func FuzzXID(f *testing.F) {
	f.Add(`NVRM: Xid (PCI:0000:1b:00): 31, pid=4242, name=python3, Ch 00000008, intr 0`)
	f.Add(`NVRM: Xid (PCI:0000:1b:00 GPU-I:07): 95, pid='<unknown>', name=<unknown>, x`)
	f.Add(`6,1,2,-;NVRM: Xid (0000:1b:00.0): 99999999999`)
	f.Fuzz(func(t *testing.T, line string) {
		if e, ok := ParseXID(line); ok && (e.PCI == "" || e.PID < 0) {
			t.Errorf("%q gave %+v", line, e)
		}
	})
}
