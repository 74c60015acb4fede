package rules

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func jump(from, to string) Jump {
	return Jump{Table: NAT, From: from, Rule: Rule{Do: JumpTo(to)}}
}

func packet() Packet {
	return Packet{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: TCP, DstPort: 80, In: "eth0"}
}

func to(addr string) Action { return Action{Verb: DNAT, To: netip.MustParseAddrPort(addr)} }

var nowhere = Host{Local: func(netip.Addr) bool { return false }}

func TestEveryRandomBranchIsTaken(t *testing.T) {
	rs := New()
	rs.Jumps = []Jump{jump("PREROUTING", "A")}
	rs.Add(&Chain{ID{NAT, "A"}, []Rule{{OneIn: 3, Do: to("1.1.1.1:1")}, {OneIn: 2, Do: to("2.2.2.2:2")}, {Do: to("3.3.3.3:3")}}})
	var got []string
	for _, o := range rs.Trace(nowhere, packet()) {
		got = append(got, o.String())
	}
	if d := cmp.Diff([]string{"1.1.1.1:1", "2.2.2.2:2", "3.3.3.3:3"}, got); d != "" {
		t.Error(d)
	}
}

func TestReturnGoesOnInTheCaller(t *testing.T) {
	rs := New()
	rs.Jumps = []Jump{jump("PREROUTING", "A"), jump("POSTROUTING", "P")}
	rs.Add(&Chain{ID{NAT, "A"}, []Rule{{Do: JumpTo("B")}, {Do: Action{Verb: SetMark, Bits: 4}}}},
		&Chain{ID{NAT, "B"}, []Rule{{Do: Action{Verb: Return}}, {Do: to("1.1.1.1:1")}}},
		&Chain{ID{NAT, "P"}, []Rule{{Mark: Mark{Bits: 4}, Do: Action{Verb: Masquerade}}}})
	if got := rs.Trace(nowhere, packet()); len(got) != 1 || got[0].String() != "10.0.0.2:80 masquerade" || strings.Join(got[0].Path, " ") != "A B P" {
		t.Errorf("%+v", got)
	}
}

// The tracer refuses what the kernel refuses.
func TestBrokenRulesets(t *testing.T) {
	for name, c := range map[string]struct {
		chain *Chain
		want  string
	}{
		"missing chain": {&Chain{ID{NAT, "A"}, []Rule{{Do: JumpTo("B")}}}, "isn't there"},
		"circle":        {&Chain{ID{NAT, "A"}, []Rule{{Do: JumpTo("A")}}}, "circle"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(r.(string), c.want) {
					t.Errorf("%v", r)
				}
			}()
			rs := New()
			rs.Jumps = []Jump{jump("PREROUTING", "A")}
			rs.Add(c.chain)
			rs.Trace(nowhere, packet())
		})
	}
}
