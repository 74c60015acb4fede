package iptables

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"orch/network/rules"
)

// appendRule writes the conditions and the target of a rule in the syntax of
// iptables-restore, without the chain.
func appendRule(b []byte, r *rules.Rule) []byte {
	if r.Proto != 0 {
		b = append(append(b, " -p "...), r.Proto.String()...)
	}
	b = appendNet(b, " -s ", r.Src)
	b = appendNet(b, " -d ", r.Dst)
	if r.In != "" {
		b = append(append(b, " -i "...), r.In...)
	}
	if r.Out != "" {
		b = append(append(b, " -o "...), r.Out...)
	}
	if r.Comment != "" {
		b = append(b, " -m comment --comment "...)
		b = strconv.AppendQuote(b, r.Comment[:min(len(r.Comment), maxComment)])
	}
	if r.DstPort != 0 {
		b = fmt.Appendf(b, " -m %s --dport %d", r.Proto, r.DstPort)
	}
	b = appendMatches(b, r)
	return appendAction(b, r)
}

// maxComment is the kernel's limit.
const maxComment = 255

func appendNet(b []byte, flag string, n rules.Net) []byte {
	if !n.Prefix.IsValid() {
		return b
	}
	if n.Not {
		b = append(b, " !"...)
	}
	return n.Prefix.AppendTo(append(b, flag...))
}

func appendMatches(b []byte, r *rules.Rule) []byte {
	b = appendType(b, " --src-type", r.SrcType)
	b = appendType(b, " --dst-type", r.DstType)
	if r.Mark.Bits != 0 {
		b = fmt.Appendf(b, " -m mark%s --mark %#x/%#x", not(r.Mark.Not), r.Mark.Bits, r.Mark.Bits)
	}
	if r.State != 0 {
		b = append(append(append(b, " -m conntrack"...), not(r.NotState)...), " --ctstate "...)
		comma := ""
		for _, s := range states {
			if r.State&s.bit != 0 {
				b = append(append(b, comma...), s.name...)
				comma = ","
			}
		}
	}
	if r.OneIn > 1 {
		b = fmt.Appendf(b, " -m statistic --mode random --probability %0.10f", 1/float64(r.OneIn))
	}
	switch {
	case r.Recent.Name == "":
	case r.Recent.Keep:
		b = append(append(append(b, " -m recent --name "...), r.Recent.Name...), " --set"...)
	default:
		b = fmt.Appendf(b, " -m recent --name %s --rcheck --seconds %d --reap", r.Recent.Name, r.Recent.Seconds)
	}
	return b
}

var states = [...]struct {
	bit  rules.State
	name string
}{{rules.StateNew, "NEW"}, {rules.StateEstablished, "ESTABLISHED"}, {rules.StateRelated, "RELATED"}, {rules.StateInvalid, "INVALID"}, {rules.StateDNAT, "DNAT"}}

func not(is bool) string {
	if is {
		return " !"
	}
	return ""
}

func appendType(b []byte, flag string, t rules.AddrType) []byte {
	if t == rules.AnyType {
		return b
	}
	return append(append(append(append(b, " -m addrtype"...), not(t == rules.NotLocal)...), flag...), " LOCAL"...)
}

func appendAction(b []byte, r *rules.Rule) []byte {
	switch a := r.Do; a.Verb {
	case rules.Jumps:
		return append(append(b, " -j "...), a.Chain...)
	case rules.Accept:
		return append(b, " -j ACCEPT"...)
	case rules.Drop:
		return append(b, " -j DROP"...)
	case rules.Return:
		return append(b, " -j RETURN"...)
	case rules.Reject:
		if r.Proto == rules.TCP {
			// A process of this host would see the ICMP message only with its second
			// try, a second later.
			return append(b, " -j REJECT --reject-with tcp-reset"...)
		}
		return append(b, " -j REJECT --reject-with icmp-port-unreachable"...)
	case rules.DNAT:
		return r.Do.To.AppendTo(append(b, " -j DNAT --to-destination "...))
	case rules.Masquerade:
		return append(b, " -j MASQUERADE --random-fully"...)
	case rules.SetMark:
		return fmt.Appendf(b, " -j MARK --or-mark %#x", a.Bits)
	case rules.ClearMark:
		// Exclusive or, as upstream: the rule is reached with the bits set.
		return fmt.Appendf(b, " -j MARK --xor-mark %#x", a.Bits)
	}
	return b
}

// batch is what one run of iptables-restore shall do.
type batch struct {
	write  []*rules.Chain // emptied and written, made where missing
	remove []rules.ID     // emptied and deleted
	jumps  []rules.Jump   // added to the kernel's chains
}

func (b *batch) empty() bool { return len(b.write)+len(b.remove)+len(b.jumps) == 0 }

// text is the input of iptables-restore --noflush. Every table is one
// transaction. The filter table comes first, so that what has lost its
// endpoints is refused before its translation goes.
func (b *batch) text() []byte {
	var out []byte
	for _, table := range []rules.Table{rules.Filter, rules.NAT} {
		body := b.table(table)
		if len(body) > 0 {
			out = append(append(append(append(append(out, '*'), table...), '\n'), body...), "COMMIT\n"...)
		}
	}
	return out
}

func (b *batch) table(table rules.Table) []byte {
	var out, body []byte
	declare := func(name string) { out = append(append(append(out, ':'), name...), " - [0:0]\n"...) }
	add := func(verb, chain string, r *rules.Rule) {
		body = appendRule(append(append(append(body, verb...), ' '), chain...), r)
		body = append(body, '\n')
	}
	for _, c := range b.write {
		if c.Table != table {
			continue
		}
		declare(c.Name)
		for i := range c.Rules {
			add("-A", c.Name, &c.Rules[i])
		}
	}
	// Each of the first ones is inserted at the top, so the last goes in first.
	for _, j := range slices.Backward(b.jumps) {
		if j.Table == table && !j.Last {
			add("-I", j.From, &j.Rule)
		}
	}
	for _, j := range b.jumps {
		if j.Table == table && j.Last {
			add("-A", j.From, &j.Rule)
		}
	}
	for _, id := range b.remove {
		if id.Table == table {
			declare(id.Name)
			body = append(append(append(body, "-X "...), id.Name...), '\n')
		}
	}
	return append(out, body...)
}

// diff is the batch that leads from one ruleset to another. Chains are compared
// by pointer first: successive rulesets share what didn't change.
func diff(old, now *rules.Ruleset) batch {
	var b batch
	for id, c := range now.Chains {
		if !c.Equal(old.Chains[id]) {
			b.write = append(b.write, c)
		}
	}
	for id := range old.Chains {
		if now.Chains[id] == nil {
			b.remove = append(b.remove, id)
		}
	}
	// Only what changed is sorted: that is little, and the chains are many.
	slices.SortFunc(b.write, func(x, y *rules.Chain) int { return compare(x.ID, y.ID) })
	slices.SortFunc(b.remove, compare)
	for _, j := range now.Jumps {
		if !slices.Contains(old.Jumps, j) {
			b.jumps = append(b.jumps, j)
		}
	}
	return b
}

func compare(a, b rules.ID) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Name, b.Name))
}
