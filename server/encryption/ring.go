package encryption

import (
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
	configv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"orch/server/registry/cache"
)

var _ cache.Sealer = (*slot)(nil)

// slot is the encryption of one resource. Its boxes are replaced as a whole, and a
// replacement is over only when no write that was sealed with the old ones is on its
// way to the store any more.
type slot struct {
	boxes atomic.Pointer[[]box]
	// writing is held shared from the sealing of a value until it is stored.
	writing sync.RWMutex
	// old counts values that were read and are not sealed as they would be today.
	old atomic.Int64
}

func newSlot(list []box) *slot {
	s := &slot{}
	s.boxes.Store(&list)
	return s
}

func (s *slot) Write(key string, plain []byte, commit func([]byte) error) error {
	s.writing.RLock()
	defer s.writing.RUnlock()
	sealed, err := sealWith(*s.boxes.Load(), []byte(key), plain)
	if err != nil {
		return err
	}
	return commit(sealed)
}

func (s *slot) Open(key string, sealed []byte) ([]byte, error) {
	list := *s.boxes.Load()
	if staleIn(list, sealed) {
		s.old.Add(1)
	}
	return openWith(list, []byte(key), sealed)
}

func (s *slot) Stale(sealed []byte) bool { return staleIn(*s.boxes.Load(), sealed) }

func (s *slot) replace(list []box) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.boxes.Store(&list)
}

// plain is how resources lie that no configuration names.
var plain = []box{{}}

// ring has the boxes of all resources that a configuration names.
type ring map[schema.GroupResource][]box

// newRing follows upstream: earlier entries mask later ones by their wildcards, and
// entries of the same name add up.
func newRing(plugins plugins, configs ...*configv1.EncryptionConfiguration) (ring, error) {
	r := ring{}
	for _, c := range configs {
		for _, rc := range c.Resources {
			list, err := boxes(rc.Providers, plugins)
			if err != nil {
				return nil, err
			}
			masked := map[schema.GroupResource]bool{}
			for gr := range r {
				masked[gr] = gr.Resource == "*"
			}
			for _, name := range rc.Resources {
				gr := parseName(name)
				if masked[schema.GroupResource{Group: gr.Group, Resource: "*"}] || masked[schema.GroupResource{Group: "*", Resource: "*"}] {
					continue
				}
				r[gr] = append(r[gr], list...)
			}
		}
	}
	return r, nil
}

// parseName reads "secrets", "deployments.apps", "*.apps", "*." and "*.*".
func parseName(name string) schema.GroupResource { return schema.ParseGroupResource(name) }

// of finds the boxes of a resource; nil if it is not named.
func (r ring) of(group, plural string) []box {
	for _, gr := range []schema.GroupResource{{Group: group, Resource: plural}, {Group: group, Resource: "*"}, {Group: "*", Resource: "*"}} {
		if list := r[gr]; len(list) > 0 {
			return list
		}
	}
	return nil
}
