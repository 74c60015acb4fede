package ldcache

import (
	"encoding/binary"
	"reflect"
	"slices"
	"testing"
)

// small is a cache of a few libraries.
func small() []byte {
	return Append(nil, []Entry{{Flags: X86_64, Name: "libcuda.so.1", Path: "/usr/lib/libcuda.so.1"}, {Flags: ARM64, Name: "libc.so.6", Path: "/lib/libc.so.6", HWCap: 3}})
}

// FuzzParse: a cache is refused, or written again holds the same libraries.
func FuzzParse(f *testing.F) {
	f.Add(small())
	f.Add(append([]byte(oldMagic+"\x01\x00\x00\x00"+"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), small()...))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(Append(nil, entries))
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		order := func(l []Entry) []Entry {
			slices.SortFunc(l, func(a, b Entry) int {
				return slices.Compare([]string{a.Name, a.Path, string(binary.LittleEndian.AppendUint64(nil, a.HWCap))}, []string{b.Name, b.Path, string(binary.LittleEndian.AppendUint64(nil, b.HWCap))})
			})
			return l
		}
		if len(again) != len(entries) || len(entries) == 1 && !reflect.DeepEqual(order(again), order(entries)) {
			t.Errorf("%+v became %+v", entries, again)
		}
	})
}

// TestNamesThatOverlap: an image's cache in which every entry names the same megabytes once
// had the agent hold them tens of thousands of times.
func TestNamesThatOverlap(t *testing.T) {
	b := []byte(magic)
	const entries = maxEntries
	b = append(binary.LittleEndian.AppendUint32(b, entries), make([]byte, header-24)...)
	for range entries {
		b = append(b, make([]byte, 4)...)
		for range 2 {
			b = binary.LittleEndian.AppendUint32(b, header+entries*entrySize)
		}
		b = append(b, make([]byte, 12)...)
	}
	long := slices.Concat(b, slices.Repeat([]byte("x"), 8<<20), []byte{0})
	if l, err := Parse(long); err == nil {
		t.Errorf("%d entries with names of 8 MiB", len(l))
	}
	many := slices.Concat(b, slices.Repeat([]byte("x"), maxName-1), []byte{0})
	if l, err := Parse(many); err == nil {
		t.Errorf("%d entries with names of %d bytes each", len(l), maxName)
	}
}
