package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// FuzzRecord: bytes are refused, or are a record that encodes to the same bytes.
func FuzzRecord(f *testing.F) {
	f.Add(record{create: 3, prev: position{2, 1}, key: "/registry/pods/a", value: []byte("v")}.encode(), true)
	f.Add(record{delete: true, key: "k"}.encode(), false)
	f.Add([]byte("short"), true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) > 4 { // else the checksum stops nearly all
			b = bytes.Clone(b)
			binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
		}
		r, err := decode(b)
		if err != nil {
			return
		}
		b = bytes.Clone(b)
		b[4] &= flagDelete // other flags mean nothing yet
		binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
		if again := r.encode(); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}
