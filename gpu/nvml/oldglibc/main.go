// Command oldglibc makes a dynamic program start on glibc older than the one it was
// linked with. A linker binds each function to the newest version of its symbol, and
// glibc 2.34 gave new ones to functions that are as old as Unix (dlopen, pthread_create,
// __libc_start_main) when it moved them between its libraries; on a host with an older
// glibc the program then does not start although it would run. The command takes the
// version off such symbols, so that the loader binds whichever the host has, and takes
// the versions out of the list of those needed. The functions must then be in a library
// that the program names, which scripts/bundle sees to.
//
// It changes 64-bit little-endian ELF files in place. Only scripts/bundle runs it, on
// the NVML helper. Start reading at loosen.
package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// newest is the newest version that hosts are expected to have: RHEL 7's.
var newest = []int{2, 17}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: oldglibc PROGRAM")
		os.Exit(2)
	}
	if err := rewrite(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "oldglibc:", err)
		os.Exit(1)
	}
}

func rewrite(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	defer f.Close()
	names, err := loosen(f, raw)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		fmt.Printf("nvml helper: starts on glibc %s too; these functions now take any version: %s\n", text(newest), strings.Join(names, ", "))
	}
	return os.WriteFile(path, raw, 0o755)
}

func text(version []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(version), " ", "."), "[]")
}

// global is VER_NDX_GLOBAL: a symbol without a version.
const global = 1

// loosen changes raw, the bytes of f, and returns the symbols that lost their version.
func loosen(f *elf.File, raw []byte) ([]string, error) {
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, errors.New("the program is not 64-bit little-endian ELF")
	}
	needs, versions := f.Section(".gnu.version_r"), f.Section(".gnu.version")
	strs := f.Section(".dynstr")
	if needs == nil || versions == nil || strs == nil {
		return nil, errors.New("the program needs no versions: it is static")
	}
	text, err := strs.Data()
	if err != nil {
		return nil, fmt.Errorf("reading names: %w", err)
	}
	loose, err := drop(part(raw, needs), text)
	if err != nil {
		return nil, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return nil, fmt.Errorf("reading symbols: %w", err)
	}
	var names []string
	table := part(raw, versions)
	for i, s := range symbols { // symbol 0 of the table is left out of the list
		at := table[2*(i+1):]
		if loose[binary.LittleEndian.Uint16(at)] {
			binary.LittleEndian.PutUint16(at, global)
			names = append(names, s.Name)
		}
	}
	return names, nil
}

func part(raw []byte, s *elf.Section) []byte { return raw[s.Offset : s.Offset+s.Size] }

// drop goes through the needed versions, a list of libraries each with a list of versions,
// all linked by offsets from where they stand; it takes those out that are too new and
// returns their numbers. A library keeps at least one: the loader wants that.
func drop(b, text []byte) (map[uint16]bool, error) {
	le := binary.LittleEndian
	loose := map[uint16]bool{}
	for need := 0; ; {
		first := need + int(le.Uint32(b[need+8:]))
		var keep []int
		for i, aux := 0, first; i < int(le.Uint16(b[need+2:])); i++ {
			version, _, _ := strings.Cut(string(text[le.Uint32(b[aux+8:]):]), "\x00")
			newer, err := newerThan(version)
			if err != nil {
				return nil, err
			}
			if newer {
				loose[le.Uint16(b[aux+6:])] = true
			} else {
				keep = append(keep, aux)
			}
			aux += int(le.Uint32(b[aux+12:]))
		}
		if len(keep) == 0 {
			return nil, errors.New("a library would be left without a version")
		}
		le.PutUint16(b[need+2:], uint16(len(keep)))
		le.PutUint32(b[need+8:], uint32(keep[0]-need))
		for i, aux := range keep {
			next := 0
			if i+1 < len(keep) {
				next = keep[i+1] - aux
			}
			le.PutUint32(b[aux+12:], uint32(next))
		}
		next := int(le.Uint32(b[need+12:]))
		if next == 0 {
			return loose, nil
		}
		need += next
	}
}

// newerThan tells whether a version of glibc is newer than what hosts have; versions of
// other libraries are not our concern.
func newerThan(version string) (bool, error) {
	rest, ok := strings.CutPrefix(version, "GLIBC_")
	if !ok {
		return false, nil
	}
	for i, word := range strings.Split(rest, ".") {
		n, err := strconv.Atoi(word)
		if err != nil {
			return false, fmt.Errorf("the program needs %s, which is no version to do without", version)
		}
		if i >= len(newest) || n != newest[i] {
			return i >= len(newest) || n > newest[i], nil
		}
	}
	return false, nil
}
