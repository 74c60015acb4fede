// Package ipam gives out addresses of this node's ranges and keeps what it gave
// on disk, in the layout of the CNI plugin host-local, so that either finds the
// other's addresses:
//
//	<dir>/<network>/lock                 held (flock) during a change
//	<dir>/<network>/10.42.0.7            "<container id>\r\n<interface>": who has it
//	<dir>/<network>/last_reserved_ip.0   where the next search begins, per range set
//
// An address is taken by making its file, which fails when it exists: it can't
// be given twice, whatever crashed before. Files of pods that are gone are
// removed by Keep. Start reading at Store.Reserve.
package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrExhausted: every address of the ranges is taken.
var ErrExhausted = errors.New("no free address")

// Range is a stretch of addresses, both ends included.
type Range struct {
	Subnet  netip.Prefix
	First   netip.Addr // invalid: the subnet's first after the network address
	Last    netip.Addr // invalid: the subnet's last before the broadcast address
	Gateway netip.Addr // never given out; invalid: the subnet's first
}

// Complete fills what is left open and refuses what makes no sense.
func (r Range) Complete() (Range, error) {
	if !r.Subnet.IsValid() || r.Subnet.Bits() > r.Subnet.Addr().BitLen()-2 {
		return r, fmt.Errorf("the subnet %s has no room for addresses", r.Subnet)
	}
	if r.Subnet != r.Subnet.Masked() {
		return r, fmt.Errorf("the subnet %s has host bits set (it should be %s)", r.Subnet, r.Subnet.Masked())
	}
	if !r.Gateway.IsValid() {
		r.Gateway = r.Subnet.Addr().Next()
	}
	if !r.First.IsValid() {
		r.First = r.Subnet.Addr().Next()
	}
	if !r.Last.IsValid() {
		r.Last = last(r.Subnet)
	}
	if !r.Subnet.Contains(r.First) || !r.Subnet.Contains(r.Last) || r.Last.Less(r.First) {
		return r, fmt.Errorf("the range %s to %s is not within the subnet %s", r.First, r.Last, r.Subnet)
	}
	return r, nil
}

// last is the last usable address: in IPv4 the one below the broadcast address.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	if a.Is4() {
		return a.Prev()
	}
	return a
}

// Set is one or more ranges of which a pod gets one address.
type Set []Range

// Owner is who has an address.
type Owner struct{ Container, Interface string }

// Store keeps the addresses of one network. Several goroutines, and other
// processes on the same directory, may use it.
type Store struct {
	dir string

	mu sync.Mutex // guards owned, and the directory among goroutines
	// owned mirrors the files that this process made or has read.
	owned map[Owner][]netip.Addr
}

// Open makes the directory where needed.
func Open(dir, network string) (*Store, error) {
	if network == "" || strings.ContainsAny(network, "/\x00") || network == "." || network == ".." {
		return nil, fmt.Errorf("opening the address store: bad network name %q", network)
	}
	s := &Store{dir: filepath.Join(dir, network), owned: map[Owner][]netip.Addr{}}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the address store: %w", err)
	}
	return s, nil
}

// locked runs f while no other goroutine and no other process changes the store.
func (s *Store) locked(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("locking the address store: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking the address store: %w", err)
	}
	return f()
}

// Reserved is an address that was given, with its range.
type Reserved struct {
	Addr  netip.Addr
	Range Range
}

// Request is what Reserve is asked for.
type Request struct {
	Owner Owner
	Sets  []Set
	// Wanted are addresses to be given and no others; at most one of each set.
	Wanted []netip.Addr
}

// Reserve gives one address out of each set. It gives all or none. A second
// request of the same owner is an error: it would leak the first.
func (s *Store) Reserve(q Request) ([]Reserved, error) {
	var given []Reserved
	err := s.locked(func() error {
		if len(s.owned[q.Owner]) > 0 {
			return fmt.Errorf("reserving an address: %s has %v already", q.Owner.Container, s.owned[q.Owner])
		}
		wanted := slices.Clone(q.Wanted)
		for i, set := range q.Sets {
			got, err := s.fromSet(q.Owner, i, set, &wanted)
			if err != nil {
				return err
			}
			given = append(given, got)
		}
		if len(wanted) > 0 {
			return fmt.Errorf("reserving an address: %v is in no range of this node", wanted)
		}
		return nil
	})
	if err != nil {
		for _, g := range given {
			_ = os.Remove(s.file(g.Addr))
		}
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range given {
		s.owned[q.Owner] = append(s.owned[q.Owner], g.Addr)
	}
	return given, nil
}

func (s *Store) fromSet(owner Owner, index int, set Set, wanted *[]netip.Addr) (Reserved, error) {
	for i, w := range *wanted {
		for _, r := range set {
			if !r.Subnet.Contains(w) {
				continue
			}
			*wanted = slices.Delete(slices.Clone(*wanted), i, i+1)
			if w == r.Gateway || w.Less(r.First) || r.Last.Less(w) {
				return Reserved{}, fmt.Errorf("reserving %s: not in the range %s to %s, or the gateway", w, r.First, r.Last)
			}
			taken, err := s.take(owner, w)
			if err == nil && !taken {
				err = fmt.Errorf("reserving %s: it is in use", w)
			}
			return Reserved{w, r}, err
		}
	}
	return s.search(owner, index, set)
}

// search goes round the set, beginning after the address that was given last: a
// fresh address each time keeps old neighbours' caches and connections from
// meeting the wrong pod.
func (s *Store) search(owner Owner, index int, set Set) (Reserved, error) {
	lastFile := filepath.Join(s.dir, "last_reserved_ip."+strconv.Itoa(index))
	text, _ := os.ReadFile(lastFile) // none, or nonsense: begin at the beginning
	previous, _ := netip.ParseAddr(strings.TrimSpace(string(text)))
	begin := 0
	for i, r := range set {
		if previous.IsValid() && r.Subnet.Contains(previous) && !previous.Less(r.First) && previous.Less(r.Last) {
			begin = i
		} else {
			continue
		}
		if got, ok, err := s.between(owner, r, previous.Next(), r.Last); ok || err != nil {
			return got, s.remember(lastFile, got, err)
		}
		break
	}
	for i := range set {
		r := set[(begin+i)%len(set)]
		if got, ok, err := s.between(owner, r, r.First, r.Last); ok || err != nil {
			return got, s.remember(lastFile, got, err)
		}
	}
	return Reserved{}, fmt.Errorf("reserving an address: all of %s are in use on this node (remedy: fewer pods, or a larger pod range for the node): %w", describe(set), ErrExhausted)
}

func (s *Store) remember(file string, got Reserved, err error) error {
	if err == nil {
		// Losing it costs nothing but the round robin.
		_ = os.WriteFile(file, []byte(got.Addr.String()), 0o600)
	}
	return err
}

func (s *Store) between(owner Owner, r Range, from, to netip.Addr) (Reserved, bool, error) {
	for a := from; !to.Less(a); a = a.Next() {
		if a == r.Gateway {
			continue
		}
		taken, err := s.take(owner, a)
		if taken || err != nil {
			return Reserved{a, r}, taken, err
		}
	}
	return Reserved{}, false, nil
}

// take makes the file of an address; false when somebody has it.
func (s *Store) take(owner Owner, a netip.Addr) (bool, error) {
	f, err := os.OpenFile(s.file(a), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reserving %s: %w", a, err)
	}
	_, err = f.WriteString(owner.Container + "\r\n" + owner.Interface)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(s.file(a))
		return false, fmt.Errorf("reserving %s: %w", a, err)
	}
	return true, nil
}

func (s *Store) file(a netip.Addr) string {
	return filepath.Join(s.dir, strings.ReplaceAll(a.String(), ":", "_"))
}

func describe(set Set) string {
	var all []string
	for _, r := range set {
		all = append(all, fmt.Sprintf("%s-%s", r.First, r.Last))
	}
	return strings.Join(all, ", ")
}

// Release gives back what the owner has; nothing is fine.
func (s *Store) Release(owner Owner) error {
	return s.locked(func() error {
		addrs, known := s.owned[owner]
		if !known { // reserved by an earlier process
			all, err := s.scan()
			if err != nil {
				return err
			}
			addrs = all[owner]
		}
		for _, a := range addrs {
			if err := os.Remove(s.file(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("releasing %s: %w", a, err)
			}
		}
		delete(s.owned, owner)
		return nil
	})
}

// Find lists the addresses of an owner.
func (s *Store) Find(owner Owner) ([]netip.Addr, error) {
	var addrs []netip.Addr
	err := s.locked(func() error {
		all, err := s.scan()
		addrs = all[owner]
		return err
	})
	return addrs, err
}

// Keep releases the addresses of all owners that live refuses, and of none that
// can't be read. It returns what it released.
func (s *Store) Keep(live func(Owner) bool) ([]netip.Addr, error) {
	var gone []netip.Addr
	err := s.locked(func() error {
		all, err := s.scan()
		if err != nil {
			return err
		}
		for owner, addrs := range all {
			if live(owner) {
				s.owned[owner] = addrs
				continue
			}
			for _, a := range addrs {
				if err := os.Remove(s.file(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("releasing %s: %w", a, err)
				}
				gone = append(gone, a)
			}
			delete(s.owned, owner)
		}
		return nil
	})
	return gone, err
}

// scan reads all files. A file without content (a power cut between two writes)
// belongs to nobody.
func (s *Store) scan() (map[Owner][]netip.Addr, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the address store: %w", err)
	}
	all := map[Owner][]netip.Addr{}
	for _, e := range entries {
		a, err := netip.ParseAddr(strings.ReplaceAll(e.Name(), "_", ":"))
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the address store: %w", err)
		}
		id, ifname, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		owner := Owner{strings.TrimSpace(id), strings.TrimSpace(ifname)}
		all[owner] = append(all[owner], a)
	}
	return all, nil
}
