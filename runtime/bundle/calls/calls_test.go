package calls

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"
)

// program is an executable as far as this package looks: code from offset from.
func program(from, size int, code []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+2*56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	le.PutUint32(b[64:], 6) // a segment of another kind
	p := b[64+56:]
	le.PutUint32(p, 1)
	le.PutUint32(p[4:], 5)
	le.PutUint64(p[8:], uint64(from))
	le.PutUint64(p[32:], uint64(size))
	return append(b, code...)
}

func gathered(t *testing.T, b []byte, piece int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := Gather(&out)
	for rest := b; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
		if _, err := w.Write(rest[:min(piece, len(rest))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestOwnProgram: this test's own program becomes another one, and itself again.
func TestOwnProgram(t *testing.T) {
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(own)
	Spread(b)
	if bytes.Equal(b, own) {
		t.Error("nothing was changed")
	}
	for _, piece := range []int{len(b), 64 << 10, 4097} {
		if !bytes.Equal(gathered(t, b, piece), own) {
			t.Errorf("in pieces of %d it did not become itself again", piece)
		}
	}
}

// TestCallsOfOneFunctionLookAlike is what it is for.
func TestCallsOfOneFunctionLookAlike(t *testing.T) {
	at := func(distance int32) []byte { return binary.LittleEndian.AppendUint32([]byte{call}, uint32(distance)) }
	b := program(64+2*56, 20, bytes.Join([][]byte{at(0), at(-5), at(-10), at(-15)}, nil))
	Spread(b)
	code := b[64+2*56:]
	for i := 5; i < 20; i += 5 {
		if !bytes.Equal(code[i:i+5], code[:5]) {
			t.Errorf("% x", code)
		}
	}
}

func TestOneToOne(t *testing.T) {
	const size = 50
	for pos := int32(0); pos <= size; pos++ {
		seen := map[int32]bool{}
		for d := int32(-120); d <= 120; d++ {
			a := absolute(d, pos, size)
			if seen[a] || relative(a, pos, size) != d {
				t.Fatalf("%d at %d became %d, then %d", d, pos, a, relative(a, pos, size))
			}
			seen[a] = true
		}
	}
}

// FuzzRoundTrip: whatever a file holds, it becomes itself again, in whatever pieces.
func FuzzRoundTrip(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 9000)
	for i := range noise {
		noise[i] = []byte{call, 0, 0xff, byte(r.UintN(256))}[r.IntN(4)]
	}
	f.Add(program(200, 8000, noise), uint16(7))
	f.Add(program(0, 1<<30, noise[:5000]), uint16(4096))
	f.Add([]byte("#!/bin/sh\n\xe8\xe8\xe8\xe8\xe8\xe8"), uint16(1))
	f.Fuzz(func(t *testing.T, file []byte, piece uint16) {
		b := bytes.Clone(file)
		Spread(b)
		if got := gathered(t, b, int(piece)+1); !bytes.Equal(got, file) {
			t.Errorf("%d bytes in pieces of %d became others", len(file), piece)
		}
	})
}

func BenchmarkGather(b *testing.B) {
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	Spread(own)
	b.SetBytes(int64(len(own)))
	for b.Loop() {
		w := Gather(discard{})
		for rest := own; len(rest) > 0; rest = rest[min(32<<10, len(rest)):] {
			_, _ = w.Write(rest[:min(32<<10, len(rest))])
		}
		_ = w.Close()
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
