// Package calls makes programs pack closer: in machine code for amd64 a call says how far
// away its target is, so that no two calls of one function look alike; Spread says where
// the target is instead, and Gather undoes that. They change nothing else, and nothing in
// files that are no such programs. A twelfth of a packed Go program goes.
//
// Start reading at Spread.
package calls

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"math"
)

const (
	call   = 0xe8 // followed by the distance, 4 bytes
	length = 5
	// headMost is how far into a file its table of segments is looked for.
	headMost = 4096
)

// Spread changes a program in place.
func Spread(b []byte) {
	r := codeOf(b[:min(len(b), headMost)])
	each(b, 0, r, func(at []byte, pos, size int32) {
		binary.BigEndian.PutUint32(at, uint32(absolute(int32(binary.LittleEndian.Uint32(at)), pos, size)))
	})
}

// Gather is a writer of what w gets: what Spread made, as it was before. Close it to have
// the last bytes written; w stays open.
func Gather(w io.Writer) io.WriteCloser { return &gatherer{w: w} }

// code is the executable segment of a program, from offset up to end; both 0: none.
type code struct{ from, end int64 }

// codeOf reads the table of segments at the beginning of a file.
func codeOf(head []byte) (c code) {
	le := binary.LittleEndian
	if len(head) < 64 || string(head[:4]) != elf.ELFMAG || head[elf.EI_CLASS] != byte(elf.ELFCLASS64) || head[elf.EI_DATA] != byte(elf.ELFDATA2LSB) ||
		le.Uint16(head[18:]) != uint16(elf.EM_X86_64) || le.Uint16(head[54:]) != 56 {
		return c
	}
	table, n := le.Uint64(head[32:]), int(le.Uint16(head[56:]))
	for i := range n {
		at := table + uint64(i)*56
		if at > uint64(len(head)) || uint64(len(head))-at < 56 {
			return code{}
		}
		p := head[at:]
		if elf.ProgType(le.Uint32(p)) != elf.PT_LOAD || elf.ProgFlag(le.Uint32(p[4:]))&elf.PF_X == 0 {
			continue
		}
		from, size := le.Uint64(p[8:]), le.Uint64(p[32:])
		if from < math.MaxInt32 && size < math.MaxInt32 {
			return code{int64(from), int64(from + size)}
		}
	}
	return c
}

// each visits the distances behind what looks like calls in b, which begins at offset of
// the file, and tells how much of b needs no second look. What was visited is not looked
// at, so that both directions visit the same.
func each(b []byte, offset int64, c code, visit func(at []byte, pos, size int32)) (done int) {
	end := min(int64(len(b)), c.end-offset)
	i := max(0, c.from-offset)
	for ; i+length <= end; i++ {
		if b[i] == call {
			visit(b[i+1:i+length], int32(offset+i+length-c.from), int32(c.end-c.from))
			i += length - 1
		}
	}
	if offset+int64(len(b)) >= c.end {
		return len(b)
	}
	return int(min(max(i, 0), int64(len(b))))
}

// absolute turns a distance at pos into a place within size, if it leads there. It is one
// to one: what another distance's place would be taken for is moved out of the way.
func absolute(distance, pos, size int32) int32 {
	switch d := int64(distance); {
	case d < -int64(pos) || d >= int64(size):
		return distance
	case d+int64(pos) < int64(size):
		return int32(d + int64(pos))
	default:
		return int32(d - int64(size))
	}
}

// relative undoes absolute.
func relative(place, pos, size int32) int32 {
	switch p := int64(place); {
	case p < -int64(pos) || p >= int64(size):
		return place
	case p >= 0:
		return int32(p - int64(pos))
	default:
		return int32(p + int64(size))
	}
}

// gatherer holds back the head of the file until it is whole, then what may be the
// beginning of a call.
type gatherer struct {
	w      io.Writer
	held   []byte
	offset int64 // of held in the file
	known  bool
	code   code
}

func (g *gatherer) Write(p []byte) (int, error) {
	g.held = append(g.held, p...)
	if !g.known && len(g.held) < headMost {
		return len(p), nil
	}
	return len(p), g.pass(false)
}

func (g *gatherer) Close() error { return g.pass(true) }

func (g *gatherer) pass(last bool) error {
	if !g.known {
		g.known, g.code = true, codeOf(g.held[:min(len(g.held), headMost)])
	}
	done := each(g.held, g.offset, g.code, func(at []byte, pos, size int32) {
		binary.LittleEndian.PutUint32(at, uint32(relative(int32(binary.BigEndian.Uint32(at)), pos, size)))
	})
	if last {
		done = len(g.held)
	}
	_, err := g.w.Write(g.held[:done])
	g.offset += int64(done)
	g.held = append(g.held[:0], g.held[done:]...)
	return err
}
