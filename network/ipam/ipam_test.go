package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func rng(t testing.TB, subnet string) Range {
	t.Helper()
	r, err := Range{Subnet: netip.MustParsePrefix(subnet)}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, "net")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(id string, sets ...Set) Request { return Request{Owner: Owner{id, "eth0"}, Sets: sets} }

func TestRange(t *testing.T) {
	for _, c := range []struct{ subnet, first, last, gateway, bad string }{
		{subnet: "10.1.2.0/24", first: "10.1.2.1", last: "10.1.2.254", gateway: "10.1.2.1"},
		{subnet: "10.1.2.0/30", first: "10.1.2.1", last: "10.1.2.2", gateway: "10.1.2.1"},
		{subnet: "fd00::/120", first: "fd00::1", last: "fd00::ff", gateway: "fd00::1"},
		{subnet: "10.1.2.0/31", bad: "no room"},
		{subnet: "10.1.2.3/24", bad: "host bits"},
	} {
		r, err := Range{Subnet: netip.MustParsePrefix(c.subnet)}.Complete()
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v", c.subnet, err)
			}
			continue
		}
		if r.First.String() != c.first || r.Last.String() != c.last || r.Gateway.String() != c.gateway {
			t.Errorf("%s: %+v", c.subnet, r)
		}
	}
	if _, err := (Range{Subnet: netip.MustParsePrefix("10.0.0.0/24"), First: netip.MustParseAddr("10.0.1.1")}).Complete(); err == nil {
		t.Error("a range outside its subnet is taken")
	}
}

func TestRoundRobinAndExhaustion(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	set := Set{rng(t, "10.0.0.0/29")} // .1 is the gateway, .2 to .6 free
	var got []string
	for i := range 5 {
		r, err := s.Reserve(request(fmt.Sprint(i), set))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r[0].Addr.String())
	}
	if strings.Join(got, " ") != "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6" {
		t.Errorf("gave %v", got)
	}
	_, err := s.Reserve(request("x", set))
	if !errors.Is(err, ErrExhausted) || !strings.Contains(err.Error(), "10.0.0.1-10.0.0.6") {
		t.Errorf("exhausted: %v", err)
	}
	if err := s.Release(Owner{"1", "eth0"}); err != nil {
		t.Fatal(err)
	}
	// Another process continues where this one stopped, and goes round.
	r, err := open(t, dir).Reserve(request("y", set))
	if err != nil || r[0].Addr.String() != "10.0.0.3" {
		t.Errorf("after a release: %v %v", r, err)
	}
}

func TestLayoutIsHostLocals(t *testing.T) {
	dir := t.TempDir()
	if _, err := open(t, dir).Reserve(request("abc", Set{rng(t, "10.0.0.0/24")}, Set{rng(t, "fd00::/120")})); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"10.0.0.2": "abc\r\neth0", "fd00__2": "abc\r\neth0", "last_reserved_ip.0": "10.0.0.2", "last_reserved_ip.1": "fd00::2"} {
		b, err := os.ReadFile(filepath.Join(dir, "net", file))
		if err != nil || string(b) != want {
			t.Errorf("%s: %q %v", file, b, err)
		}
	}
	if err := open(t, dir).Release(Owner{"abc", "eth0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "net", "10.0.0.2")); err == nil {
		t.Error("another process didn't release it")
	}
}

func TestWantedAndAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir())
	set, tiny := Set{rng(t, "10.0.0.0/24")}, Set{rng(t, "10.9.0.0/30")}
	q := request("a", set)
	q.Wanted = []netip.Addr{netip.MustParseAddr("10.0.0.77")}
	if r, err := s.Reserve(q); err != nil || r[0].Addr != q.Wanted[0] {
		t.Fatalf("%v %v", r, err)
	}
	q.Owner.Container = "b"
	if _, err := s.Reserve(q); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("given twice: %v", err)
	}
	q.Wanted[0] = netip.MustParseAddr("10.8.0.1")
	if _, err := s.Reserve(q); err == nil || !strings.Contains(err.Error(), "no range") {
		t.Errorf("outside: %v", err)
	}
	if _, err := s.Reserve(request("c", set, tiny)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(request("d", set, tiny)); !errors.Is(err, ErrExhausted) {
		t.Fatal(err)
	}
	if left, _ := s.Find(Owner{"d", "eth0"}); len(left) != 0 {
		t.Errorf("half a reservation stayed: %v", left)
	}
	if _, err := s.Reserve(request("c", set)); err == nil {
		t.Error("the same owner got a second address")
	}
}

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	set := Set{rng(t, "10.0.0.0/24")}
	for _, id := range []string{"live", "dead"} {
		if _, err := s.Reserve(request(id, set)); err != nil {
			t.Fatal(err)
		}
	}
	// A crash between making a file and writing it.
	if err := os.WriteFile(filepath.Join(dir, "net", "10.0.0.9"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone, err := open(t, dir).Keep(func(o Owner) bool { return o.Container == "live" })
	if err != nil || len(gone) != 2 {
		t.Errorf("released %v, %v", gone, err)
	}
	if a, _ := s.Find(Owner{"live", "eth0"}); len(a) != 1 {
		t.Errorf("the live one has %v", a)
	}
}

func TestNeverTwice(t *testing.T) {
	dir := t.TempDir()
	set := Set{rng(t, "10.0.0.0/22")}
	stores := []*Store{open(t, dir), open(t, dir)}
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				r, err := stores[g%2].Reserve(request(fmt.Sprintf("%d-%d", g, i), set))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[r[0].Addr] {
					t.Errorf("%s given twice", r[0].Addr)
				}
				seen[r[0].Addr] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func BenchmarkReserveRelease(b *testing.B) {
	s := open(b, b.TempDir())
	set := Set{rng(b, "10.0.0.0/24")}
	for i := range 100 {
		if _, err := s.Reserve(request(fmt.Sprint("p", i), set)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		q := request("x", set)
		if _, err := s.Reserve(q); err != nil {
			b.Fatal(err)
		}
		if err := s.Release(q.Owner); err != nil {
			b.Fatal(err)
		}
	}
}
