package rules

import (
	"fmt"
	"net/netip"
	"strings"
)

// Packet is the first packet of a connection.
type Packet struct {
	Src, Dst netip.Addr
	Proto    Proto
	DstPort  uint16
	In       string // the device that it came by; empty: a process of this host sent it
	State    State  // zero: StateNew
	Mark     uint32
}

// Host is what Trace must know about the machine.
type Host struct {
	// Local reports an address of the host.
	Local func(netip.Addr) bool
	// Recent names the lists that hold the packet's source.
	Recent map[string]bool
}

// Outcome is one way that a packet can end.
type Outcome struct {
	Verdict    Verb // Accept, Drop or Reject
	To         netip.AddrPort
	Masquerade bool
	// Delivered: to a process of this host, not forwarded.
	Delivered bool
	// Remembered is the list that keeps the source now.
	Remembered string
	// Path lists the chains that were gone through.
	Path []string
}

// String is short: "10.0.0.1:80 masquerade", "drop".
func (o Outcome) String() string {
	switch o.Verdict {
	case Drop:
		return "drop"
	case Reject:
		return "reject"
	}
	words := []string{o.To.String()}
	if o.Masquerade {
		words = append(words, "masquerade")
	}
	if o.Delivered {
		words = append(words, "local")
	}
	return strings.Join(words, " ")
}

// Trace walks a packet through the ruleset as the kernel does, along every
// branch of the random rules; the outcomes come in the order of the rules.
func (r *Ruleset) Trace(h Host, p Packet) []Outcome {
	if p.State == 0 {
		p.State = StateNew
	}
	var all []Outcome
	var choices []bool
	for {
		t := &tracer{rs: r, host: h, p: p, choices: choices}
		all = append(all, t.run())
		// The next branch: the last rule that was taken is skipped instead.
		choices = t.taken
		for len(choices) > 0 && !choices[len(choices)-1] {
			choices = choices[:len(choices)-1]
		}
		if len(choices) == 0 {
			return all
		}
		choices[len(choices)-1] = false
	}
}

// tracer follows one packet along one branch.
type tracer struct {
	rs      *Ruleset
	host    Host
	p       Packet
	choices []bool // what the random rules do, as far as decided
	taken   []bool // what they did
	out     Outcome
	depth   int
}

func (t *tracer) run() Outcome {
	hooks := []struct {
		table Table
		chain string
	}{{NAT, "PREROUTING"}, {Filter, "FORWARD"}, {NAT, "POSTROUTING"}}
	if t.p.In == "" {
		hooks[0].chain, hooks[1].chain = "OUTPUT", "OUTPUT"
	}
	t.out.Verdict = Accept
	for i, hook := range hooks {
		if i == 1 {
			t.out.To = netip.AddrPortFrom(t.p.Dst, t.p.DstPort)
			t.out.Delivered = t.host.Local(t.p.Dst)
			if t.out.Delivered && t.p.In != "" {
				hook.chain = "INPUT"
			}
		}
		if i == 2 && t.out.Delivered && t.p.In != "" {
			break
		}
		if v := t.base(hook.table, hook.chain); v == Drop || v == Reject {
			t.out.Verdict = v
			break
		}
	}
	t.out.To = netip.AddrPortFrom(t.p.Dst, t.p.DstPort)
	return t.out
}

// base goes through the jumps of a kernel chain, last ones last.
func (t *tracer) base(table Table, chain string) Verb {
	for _, last := range []bool{false, true} {
		for _, j := range t.rs.Jumps {
			if j.Table != table || j.From != chain || j.Last != last || !t.matches(&j.Rule) {
				continue
			}
			if v, final := t.act(table, &j.Rule); final {
				return v
			}
		}
	}
	return Accept
}

// chain returns final when the packet needs no further rule of the table.
func (t *tracer) chain(id ID) (v Verb, final bool) {
	c := t.rs.Chains[id]
	if c == nil {
		panic(fmt.Sprintf("rules: jump to a chain that isn't there: %v", id))
	}
	if t.depth++; t.depth > 50 {
		panic(fmt.Sprintf("rules: chains jump in a circle: %v", t.out.Path))
	}
	defer func() { t.depth-- }()
	t.out.Path = append(t.out.Path, id.Name)
	for i := range c.Rules {
		rule := &c.Rules[i]
		if !t.matches(rule) {
			continue
		}
		if rule.Do.Verb == Return {
			return Return, false
		}
		if v, final := t.act(id.Table, rule); final {
			return v, true
		}
	}
	return Return, false
}

func (t *tracer) act(table Table, rule *Rule) (v Verb, final bool) {
	switch do := rule.Do; do.Verb {
	case Jumps:
		return t.chain(ID{table, do.Chain})
	case Accept, Drop, Reject:
		return do.Verb, true
	case Return:
		return Accept, true
	case DNAT:
		t.p.Dst, t.p.DstPort = do.To.Addr(), do.To.Port()
		t.p.State |= StateDNAT
		return Accept, true
	case Masquerade:
		t.out.Masquerade = true
		return Accept, true
	case SetMark:
		t.p.Mark |= do.Bits
	case ClearMark:
		t.p.Mark &^= do.Bits
	}
	return Accept, false
}

func (t *tracer) matches(r *Rule) bool {
	p := &t.p
	switch {
	case r.Proto != 0 && r.Proto != p.Proto,
		r.DstPort != 0 && r.DstPort != p.DstPort,
		!r.Src.matches(p.Src), !r.Dst.matches(p.Dst),
		r.In != "" && r.In != p.In,
		!t.typed(r.SrcType, p.Src), !t.typed(r.DstType, p.Dst),
		r.Mark.Bits != 0 && (p.Mark&r.Mark.Bits == r.Mark.Bits) == r.Mark.Not,
		r.State != 0 && (p.State&r.State != 0) == r.NotState:
		return false
	}
	if r.Recent.Name != "" {
		if r.Recent.Keep {
			t.out.Remembered = r.Recent.Name
		} else if !t.host.Recent[r.Recent.Name] {
			return false
		}
	}
	return r.OneIn <= 1 || t.choose()
}

// choose takes the next decision: as told, else the rule matches.
func (t *tracer) choose() bool {
	c := true
	if len(t.taken) < len(t.choices) {
		c = t.choices[len(t.taken)]
	}
	t.taken = append(t.taken, c)
	return c
}

func (t *tracer) typed(want AddrType, a netip.Addr) bool {
	return want == AnyType || t.host.Local(a) == (want == Local)
}

func (n Net) matches(a netip.Addr) bool {
	return !n.Prefix.IsValid() || n.Prefix.Contains(a) != n.Not
}
