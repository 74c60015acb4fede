// Package rules holds the packet filter of one node as a value: tables, chains,
// rules, the jumps that lead into them from the kernel's own chains, and the
// UDP frontends whose connection tracking must follow. It is what the service
// proxy and network policy produce, what a writer (package iptables) puts into
// the kernel, and what Trace walks a packet through. It refuses effects and
// knows no Kubernetes object. Start reading at Ruleset.
package rules

import (
	"maps"
	"net/netip"
	"slices"
)

// Table is one of the kernel's rule tables.
type Table string

const (
	Filter Table = "filter"
	NAT    Table = "nat"
)

// ID names a chain.
type ID struct {
	Table Table
	Name  string
}

// Chain is a list of rules. A chain that is part of a Ruleset never changes;
// successive rulesets share it, so that a writer may compare pointers first.
type Chain struct {
	ID
	Rules []Rule
}

// Jump is a rule in a chain of the kernel (PREROUTING, INPUT …), which belongs
// to everybody: the writer adds it when it is missing and touches nothing else.
type Jump struct {
	Table Table
	From  string
	Rule  Rule
	// Last puts the rule at the end, behind whatever others have there.
	Last bool
}

// Ruleset is everything orch wants in the packet filter of one node.
type Ruleset struct {
	Chains map[ID]*Chain
	Jumps  []Jump
	// UDP lists, per frontend, who answers. A flow that was translated to
	// somebody else is forgotten by the kernel after the rules are written.
	UDP map[Frontend]*Backends
}

// Frontend is where a UDP datagram is sent to; without a valid address it is a
// port of every address of the node.
type Frontend struct {
	Addr netip.Addr
	Port uint16
}

// Backends is an immutable set, shared between rulesets like chains are.
type Backends struct{ Addrs []netip.AddrPort }

// Has reports whether a is in the set.
func (b *Backends) Has(a netip.AddrPort) bool { return b != nil && slices.Contains(b.Addrs, a) }

// New returns an empty ruleset.
func New() *Ruleset {
	return &Ruleset{Chains: map[ID]*Chain{}, UDP: map[Frontend]*Backends{}}
}

// Add puts chains into the set; a chain of the same ID is replaced.
func (r *Ruleset) Add(chains ...*Chain) {
	for _, c := range chains {
		r.Chains[c.ID] = c
	}
}

// Equal reports whether two chains have the same rules.
func (c *Chain) Equal(o *Chain) bool {
	return c == o || c != nil && o != nil && c.ID == o.ID && slices.Equal(c.Rules, o.Rules)
}

// Clone returns a set that shares the chains.
func (r *Ruleset) Clone() *Ruleset {
	return &Ruleset{Chains: maps.Clone(r.Chains), Jumps: slices.Clone(r.Jumps), UDP: maps.Clone(r.UDP)}
}

// Rules counts all rules.
func (r *Ruleset) Rules() int {
	n := len(r.Jumps)
	for _, c := range r.Chains {
		n += len(c.Rules)
	}
	return n
}

// Proto is a transport protocol; zero is any.
type Proto uint8

const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return "all"
}

// State is a set of connection tracking states.
type State uint8

const (
	StateNew State = 1 << iota
	StateEstablished
	StateRelated
	StateInvalid
	StateDNAT
)

// AddrType matches by what the routing table says about an address.
type AddrType uint8

const (
	AnyType AddrType = iota
	Local            // an address of this host
	NotLocal
)

// Net matches an address; the zero value matches any.
type Net struct {
	Prefix netip.Prefix
	Not    bool
}

// Mark matches bits of the packet's mark; the zero value matches any.
type Mark struct {
	Bits uint32
	Not  bool
}

// Recent matches or keeps the source address in a named list of the kernel.
type Recent struct {
	Name string
	// Seconds is how long an entry counts, when checking.
	Seconds int
	// Keep puts the source address on the list instead of checking.
	Keep bool
}

// Rule is a set of conditions, all of which must hold, and what happens then.
// Rules are comparable with ==.
type Rule struct {
	Comment  string
	Proto    Proto
	Src, Dst Net
	DstPort  uint16 // needs Proto
	In, Out  string // device names
	SrcType  AddrType
	DstType  AddrType
	Mark     Mark
	State    State
	NotState bool
	// OneIn makes the rule match one packet in that many, at random.
	OneIn  int
	Recent Recent
	Do     Action
}

// Verb is what a rule does.
type Verb uint8

const (
	Nothing Verb = iota // counts and goes on
	Jumps               // goes through Chain and comes back
	Accept
	Drop
	Return
	Reject // TCP with a reset, everything else with ICMP port unreachable
	DNAT   // to To
	Masquerade
	SetMark   // sets Bits of the mark
	ClearMark // clears Bits, which are known to be set
)

// Action is a verb and its object.
type Action struct {
	Verb  Verb
	Chain string
	To    netip.AddrPort
	Bits  uint32
}

// JumpTo is the action that goes through a chain.
func JumpTo(chain string) Action { return Action{Verb: Jumps, Chain: chain} }

// Pod is what one pod asks of the ruleset besides Services.
type Pod struct {
	IPs   []netip.Addr
	Ports []HostPort
	// Masquerade lists destinations that the pod reaches under its own address;
	// everything else is masqueraded. Nil: the node's rule for all pods applies.
	Masquerade []netip.Prefix
}

// HostPort is a port of the node that leads to a pod.
type HostPort struct {
	HostIP   netip.Addr // invalid: every address of the node
	HostPort uint16
	Port     uint16 // the pod's
	Proto    Proto
}
