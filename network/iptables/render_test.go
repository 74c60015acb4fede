package iptables

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orch/network/rules"
)

func TestRule(t *testing.T) {
	cases := []struct {
		name string
		rule rules.Rule
		want string
	}{
		{"everything", rules.Rule{Comment: `a "b"`, Proto: rules.UDP, Src: rules.Net{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Not: true}, Dst: rules.Net{Prefix: netip.MustParsePrefix("1.2.3.4/32")},
			DstPort: 53, In: "eth0", Out: "eth1", SrcType: rules.Local, DstType: rules.NotLocal, Mark: rules.Mark{Bits: 0x4000, Not: true}, State: rules.StateNew | rules.StateDNAT, NotState: true, OneIn: 3, Do: rules.JumpTo("X")},
			` -p udp ! -s 10.0.0.0/8 -d 1.2.3.4/32 -i eth0 -o eth1 -m comment --comment "a \"b\"" -m udp --dport 53 -m addrtype --src-type LOCAL -m addrtype ! --dst-type LOCAL -m mark ! --mark 0x4000/0x4000 -m conntrack ! --ctstate NEW,DNAT -m statistic --mode random --probability 0.3333333333 -j X`},
		{"translate and remember", rules.Rule{Proto: rules.TCP, Recent: rules.Recent{Name: "S", Keep: true}, Do: rules.Action{Verb: rules.DNAT, To: netip.MustParseAddrPort("10.0.0.1:80")}}, " -p tcp -m recent --name S --set -j DNAT --to-destination 10.0.0.1:80"},
		{"check the memory", rules.Rule{Recent: rules.Recent{Name: "S", Seconds: 9}, Do: rules.JumpTo("S")}, " -m recent --name S --rcheck --seconds 9 --reap -j S"},
		{"only counts", rules.Rule{Comment: "x"}, ` -m comment --comment "x"`},
		{"long comment", rules.Rule{Comment: strings.Repeat("x", 300)}, ` -m comment --comment "` + strings.Repeat("x", 255) + `"`},
		{"mark", rules.Rule{Do: rules.Action{Verb: rules.SetMark, Bits: 0x4000}}, " -j MARK --or-mark 0x4000"},
		{"unmark", rules.Rule{Do: rules.Action{Verb: rules.ClearMark, Bits: 0x4000}}, " -j MARK --xor-mark 0x4000"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := string(appendRule(nil, &c.rule)); got != c.want {
				t.Error(cmp.Diff(c.want, got))
			}
		})
	}
}

func chain(table rules.Table, name string, to ...string) *rules.Chain {
	c := &rules.Chain{ID: rules.ID{Table: table, Name: name}}
	for _, t := range to {
		c.Rules = append(c.Rules, rules.Rule{Do: rules.JumpTo(t)})
	}
	return c
}

func TestDiff(t *testing.T) {
	old, now := rules.New(), rules.New()
	old.Add(chain(rules.NAT, "A", "B"), chain(rules.NAT, "B"), chain(rules.Filter, "F"))
	now.Add(chain(rules.NAT, "A", "C"), chain(rules.NAT, "C"), chain(rules.Filter, "F"))
	now.Jumps = []rules.Jump{{Table: rules.NAT, From: "OUTPUT", Rule: rules.Rule{Do: rules.JumpTo("A")}}, {Table: rules.NAT, From: "OUTPUT", Rule: rules.Rule{Do: rules.JumpTo("C")}},
		{Table: rules.Filter, From: "INPUT", Last: true, Rule: rules.Rule{Do: rules.JumpTo("F")}}}
	b := diff(old, now)
	want := `*filter
-A INPUT -j F
COMMIT
*nat
:A - [0:0]
:C - [0:0]
:B - [0:0]
-A A -j C
-I OUTPUT -j C
-I OUTPUT -j A
-X B
COMMIT
`
	if d := cmp.Diff(want, string(b.text())); d != "" {
		t.Error(d)
	}
	if again := diff(now, now); !again.empty() {
		t.Errorf("no change: %q", again.text())
	}
}

func TestState(t *testing.T) {
	save := `# Generated
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SEP-OLD - [0:0]
:KUBE-POD-FW-OTHERS - [0:0]
-A PREROUTING -m comment --comment "kubernetes -j nowhere" -j KUBE-SERVICES
-A KUBE-SERVICES -j KUBE-SEP-OLD
COMMIT
`
	rs := rules.New()
	rs.Add(chain(rules.NAT, "KUBE-SERVICES", "A", "B"), chain(rules.NAT, "KUBE-MARK-MASQ"))
	rs.Jumps = []rules.Jump{{Table: rules.NAT, From: "PREROUTING", Rule: rules.Rule{Do: rules.JumpTo("KUBE-SERVICES")}}, {Table: rules.NAT, From: "OUTPUT", Rule: rules.Rule{Do: rules.JumpTo("KUBE-SERVICES")}}}
	s := parseState([]byte(save))
	fix := s.repair(rs)
	if len(fix.write) != 2 || len(fix.jumps) != 1 || fix.jumps[0].From != "OUTPUT" {
		t.Errorf("repair: %+v", fix)
	}
	if d := cmp.Diff([]rules.ID{{Table: rules.NAT, Name: "KUBE-SEP-OLD"}}, s.stale(rs, []string{"KUBE-SEP-", "KUBE-SVC-"})); d != "" {
		t.Error(d)
	}
}

func TestExplain(t *testing.T) {
	got := explain([]byte("*nat\n-A X -j NOWHERE\nCOMMIT\n"), "iptables-restore v1.8.9 (nf_tables): \nline 2: CHAIN_ADD failed\n")
	if !strings.Contains(got, "-A X -j NOWHERE") {
		t.Error(got)
	}
}
