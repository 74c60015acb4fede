// Package ldcache reads and writes the cache of glibc's dynamic loader
// (/etc/ld.so.cache), so that a container finds the driver's libraries without a
// program run inside it. It owns the form (glibc-ld.so.cache1.1, alone or behind the
// older one) and the loader's order of names; it refuses what it cannot read: the
// loader treats a file that it does not know as none. Source of the form: glibc's
// sysdeps/generic/dl-cache.h. Start reading at Parse and Append.
package ldcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Entry is one library that the loader knows.
type Entry struct {
	// Flags say what it is made for: X86_64 and ARM64 are those of 64-bit libraries.
	Flags     int32
	Name      string // SONAME, "libcuda.so.1"
	Path      string
	OSVersion uint32
	HWCap     uint64
}

// Flags of 64-bit ELF libraries for glibc.
const (
	X86_64 int32 = 0x0303
	ARM64  int32 = 0x0a03
)

// FlagsFor gives the flags of libraries of a GOARCH.
func FlagsFor(arch string) (int32, bool) {
	f, ok := map[string]int32{"amd64": X86_64, "arm64": ARM64}[arch]
	return f, ok
}

const (
	oldMagic   = "ld.so-1.7.0\x00"
	oldHeader  = 16 // magic, number of entries
	oldEntry   = 12
	magic      = "glibc-ld.so.cache1.1"
	header     = 48
	entrySize  = 24
	littleEnd  = 2
	hwcapIndex = 1 << 62 // the entry's hwcap is an index into an extension that we do not carry over
	// These bound what an image may have us read, and hold: names may overlap.
	maxEntries = 1 << 16
	maxBytes   = 16 << 20
	maxName    = 4096
)

// ErrForm says that b is no cache of a known form.
var ErrForm = errors.New("not a cache of the dynamic loader")

// Parse reads a cache. Entries for processor levels (glibc-hwcaps) are left out: the
// loader finds the plain ones beside them.
func Parse(b []byte) ([]Entry, error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrForm, maxBytes)
	}
	if bytes.HasPrefix(b, []byte(oldMagic)) && len(b) >= oldHeader {
		n := binary.LittleEndian.Uint32(b[12:])
		if n > maxEntries {
			return nil, fmt.Errorf("%w: %d entries", ErrForm, n)
		}
		at := (oldHeader + int(n)*oldEntry + 7) &^ 7 // the new form is aligned to its widest field
		if at > len(b) {
			return nil, fmt.Errorf("%w: only the old form", ErrForm)
		}
		b = b[at:]
	}
	if !bytes.HasPrefix(b, []byte(magic)) || len(b) < header {
		return nil, ErrForm
	}
	n := int(binary.LittleEndian.Uint32(b[20:]))
	if n > maxEntries || header+n*entrySize > len(b) {
		return nil, fmt.Errorf("%w: cut off", ErrForm)
	}
	out := make([]Entry, 0, n)
	held := 0
	for i := range n {
		raw := b[header+i*entrySize:]
		e := Entry{Flags: int32(binary.LittleEndian.Uint32(raw)), OSVersion: binary.LittleEndian.Uint32(raw[12:]), HWCap: binary.LittleEndian.Uint64(raw[16:])}
		var ok1, ok2 bool
		e.Name, ok1 = text(b, binary.LittleEndian.Uint32(raw[4:]))
		e.Path, ok2 = text(b, binary.LittleEndian.Uint32(raw[8:]))
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("%w: entry %d has no name", ErrForm, i)
		}
		if held += len(e.Name) + len(e.Path); held > maxBytes {
			return nil, fmt.Errorf("%w: its names are longer than %d bytes", ErrForm, maxBytes)
		}
		if e.HWCap&hwcapIndex == 0 {
			out = append(out, e)
		}
	}
	return out, nil
}

func text(b []byte, at uint32) (string, bool) {
	if int64(at) >= int64(len(b)) {
		return "", false
	}
	n := bytes.IndexByte(b[at:min(int(at)+maxName, len(b))], 0)
	if n < 0 {
		return "", false
	}
	return string(b[at : int(at)+n]), true
}

// Append writes a cache with the entries in the loader's order. Of several of one name
// and flags the first given is found first, so ours go before an image's.
func Append(dst []byte, entries []Entry) []byte {
	list := slices.Clone(entries)
	slices.SortStableFunc(list, func(a, b Entry) int {
		if c := compare(b.Name, a.Name); c != 0 {
			return c
		}
		return int(b.Flags) - int(a.Flags)
	})
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(list)))
	lengths := len(dst)
	dst = append(dst, make([]byte, header-24)...)
	dst[start+28] = littleEnd
	var names []byte
	at := make(map[string]uint32, 2*len(list))
	place := func(s string) uint32 {
		if p, ok := at[s]; ok {
			return p
		}
		p := uint32(header + len(list)*entrySize + len(names))
		at[s] = p
		names = append(append(names, s...), 0)
		return p
	}
	for _, e := range list {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(e.Flags))
		dst = binary.LittleEndian.AppendUint32(dst, place(e.Name))
		dst = binary.LittleEndian.AppendUint32(dst, place(e.Path))
		dst = binary.LittleEndian.AppendUint32(dst, e.OSVersion)
		dst = binary.LittleEndian.AppendUint64(dst, e.HWCap)
	}
	binary.LittleEndian.PutUint32(dst[lengths:], uint32(len(names)))
	return append(dst, names...)
}

// compare is the loader's order of names: numbers in them count as numbers, and a digit
// stands above anything else.
func compare(a, b string) int {
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		da, db := digit(a[i]), digit(b[j])
		switch {
		case da && db:
			var x, y int
			x, i = number(a, i)
			y, j = number(b, j)
			if x != y {
				return x - y
			}
		case da:
			return 1
		case db:
			return -1
		case a[i] != b[j]:
			return int(a[i]) - int(b[j])
		default:
			i, j = i+1, j+1
		}
	}
	return (len(a) - i) - (len(b) - j)
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func number(s string, i int) (n, end int) {
	for i < len(s) && digit(s[i]) {
		n = n*10 + int(s[i]-'0')
		i++
	}
	return n, i
}
