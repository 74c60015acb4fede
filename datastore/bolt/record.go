package bolt

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"orch/datastore"
)

// A record is, in order: CRC-32C of the rest (4 bytes), flags (1), the key's
// create revision (8), its previous mod revision and index (8 + 4; 0 for none),
// the key's length (4), the key, the value.
const (
	recordHeader = 4 + 1 + 8 + 8 + 4 + 4
	flagDelete   = 1
)

var (
	errRecord  = errors.New("a record's checksum is wrong")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// position is where a version's record lies.
type position struct {
	revision int64
	index    uint32
}

func (p position) bytes() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 12), uint64(p.revision))
	return binary.BigEndian.AppendUint32(b, p.index)
}

func positionOf(b []byte) position {
	return position{int64(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])}
}

// record is one version of one key as it lies on disk.
type record struct {
	delete bool
	create int64
	prev   position
	key    string
	value  []byte
}

func (r record) encode() []byte {
	b := make([]byte, 4, recordHeader+len(r.key)+len(r.value))
	var flags byte
	if r.delete {
		flags = flagDelete
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint64(b, uint64(r.create))
	b = binary.BigEndian.AppendUint64(b, uint64(r.prev.revision))
	b = binary.BigEndian.AppendUint32(b, r.prev.index)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.key)))
	b = append(b, r.key...)
	b = append(b, r.value...)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

// decode checks the checksum. The value aliases b, which bbolt owns: callers
// that keep it past the transaction copy it.
func decode(b []byte) (record, error) {
	if len(b) < recordHeader || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return record{}, errRecord
	}
	n := int(binary.BigEndian.Uint32(b[25:]))
	if n > len(b)-recordHeader {
		return record{}, errRecord
	}
	return record{
		delete: b[4]&flagDelete != 0,
		create: int64(binary.BigEndian.Uint64(b[5:])),
		prev:   position{int64(binary.BigEndian.Uint64(b[13:])), binary.BigEndian.Uint32(b[21:])},
		key:    string(b[recordHeader : recordHeader+n]),
		value:  b[recordHeader+n:],
	}, nil
}

// kv copies the value.
func (r record) kv(p position) datastore.KV {
	kv := datastore.KV{Key: r.key, CreateRevision: r.create, ModRevision: p.revision}
	if !r.delete {
		kv.Value = append([]byte{}, r.value...)
	}
	return kv
}
