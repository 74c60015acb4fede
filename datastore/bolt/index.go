package bolt

import (
	"slices"
	"sort"
	"strings"

	"github.com/google/btree"
)

// version is one entry of a key's history in the index.
type version struct {
	position
	create int64
	delete bool
}

// entry is all that the index knows of one key; versions are oldest first.
type entry struct {
	key      string
	versions []version
}

// index finds the record that was in force for a key at a revision.
type index struct {
	keys *btree.BTreeG[*entry]
}

func newIndex() *index {
	return &index{btree.NewG(64, func(a, b *entry) bool { return a.key < b.key })}
}

// at returns the version in force at revision, false if the key did not exist then.
func (e *entry) at(revision int64) (version, bool) {
	i := len(e.versions)
	for i > 0 && e.versions[i-1].revision > revision { // the newest is asked for mostly
		i--
	}
	if i == 0 || e.versions[i-1].delete {
		return version{}, false
	}
	return e.versions[i-1], true
}

func (x *index) add(key string, v version) {
	e, ok := x.keys.Get(&entry{key: key})
	if !ok {
		e = &entry{key: key}
		x.keys.ReplaceOrInsert(e)
	}
	e.versions = append(e.versions, v)
}

func (x *index) get(key string, revision int64) (version, bool) {
	if e, ok := x.keys.Get(&entry{key: key}); ok {
		return e.at(revision)
	}
	return version{}, false
}

// newest is like get for the newest state.
func (x *index) newest(key string) (version, bool) { return x.get(key, 1<<62) }

// ascend walks the keys under prefix behind after that existed at revision.
func (x *index) ascend(prefix, after string, revision int64, each func(key string, v version) bool) {
	x.keys.AscendGreaterOrEqual(&entry{key: max(prefix, after)}, func(e *entry) bool {
		if !strings.HasPrefix(e.key, prefix) {
			return false
		}
		v, ok := e.at(revision)
		if !ok || e.key <= after {
			return true
		}
		return each(e.key, v)
	})
}

// compact forgets what was replaced at or before revision and returns the
// positions of the forgotten versions in order.
func (x *index) compact(revision int64) []position {
	var gone []position
	var empty []*entry
	x.keys.Ascend(func(e *entry) bool {
		i := sort.Search(len(e.versions), func(i int) bool { return e.versions[i].revision > revision })
		if i > 0 && !e.versions[i-1].delete {
			i-- // still in force at revision
		}
		for _, v := range e.versions[:i] {
			gone = append(gone, v.position)
		}
		if i > 0 {
			e.versions = slices.Clone(e.versions[i:])
		}
		if len(e.versions) == 0 {
			empty = append(empty, e)
		}
		return true
	})
	for _, e := range empty {
		x.keys.Delete(e)
	}
	slices.SortFunc(gone, func(a, b position) int {
		if a.revision != b.revision {
			return int(a.revision - b.revision)
		}
		return int(a.index) - int(b.index)
	})
	return gone
}
