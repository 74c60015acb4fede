package flow

import (
	"cmp"
	"math"
	"slices"

	flowcontrol "k8s.io/api/flowcontrol/v1"

	"orch/api/histogram"
	"orch/server/flow/fair"
)

// plan is the configuration in force. It is never changed.
type plan struct {
	schemas  []*schema // in order of precedence, none of them dangling
	catchAll *schema
	levels   map[string]*level
}

// bounds are a level's seats as configured.
type bounds struct{ nominal, low, high int }

// maxSeatsPart bounds a request's width to this part of its level.
const maxSeatsPart = 0.15

// digest puts the objects in force. It takes the mandatory ones for granted and passes
// over schemas whose level is not there.
func (c *Control) digest(levels []*flowcontrol.PriorityLevelConfiguration, schemas []*flowcontrol.FlowSchema) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.plan.Load()
	if old == nil {
		old = &plan{}
	}
	p := &plan{levels: map[string]*level{}}
	for _, o := range levels {
		if sound(o) {
			p.levels[o.Name] = c.level(old, o)
		}
	}
	for _, o := range mandatoryLevels() {
		if p.levels[o.Name] == nil {
			p.levels[o.Name] = c.level(old, o)
		}
	}
	for name, l := range old.levels {
		if p.levels[name] != nil {
			continue
		}
		l.unwanted.Store(true)
		l.mu.Lock()
		idle := l.set.Idle()
		l.mu.Unlock()
		if !idle { // it keeps seats until those that are in it have run
			p.levels[name] = l
		}
	}
	p.adopt(schemas)
	c.share(p)
	c.plan.Store(p)
}

// sound tells whether a level says what its type demands. Validation sees to that; a
// level that slipped by counts as missing.
func sound(o *flowcontrol.PriorityLevelConfiguration) bool {
	s := &o.Spec
	exempt := s.Type == flowcontrol.PriorityLevelEnablementExempt
	if exempt != (s.Exempt != nil) || exempt == (s.Limited != nil) || exempt != (o.Name == flowcontrol.PriorityLevelConfigurationNameExempt) {
		return false
	}
	return exempt || (s.Limited.LimitResponse.Type == flowcontrol.LimitResponseTypeQueue) == (s.Limited.LimitResponse.Queuing != nil)
}

// level gives the running level of that name the object's content, or begins one.
func (c *Control) level(old *plan, o *flowcontrol.PriorityLevelConfiguration) *level {
	l := old.levels[o.Name]
	if l == nil {
		now := c.now()
		l = &level{name: o.Name, counts: map[string]*counts{}, nominal: 1, wanted: histogram.NewTimed(demandBounds, now), used: histogram.NewTimed(usedBounds, now),
			room: 1, executing: histogram.NewTimed(partBounds, now), waiting: histogram.NewTimed(partBounds, now)}
		l.set = fair.New(c.now(), fair.Config{}, 0, l.started)
	}
	l.spec = &o.Spec
	l.uid.Store([]string{string(o.UID)})
	l.unwanted.Store(false)
	return l
}

// adopt takes the schemas whose level is there.
func (p *plan) adopt(list []*flowcontrol.FlowSchema) {
	take := func(o *flowcontrol.FlowSchema) {
		l := p.levels[o.Spec.PriorityLevelConfiguration.Name]
		if l == nil || l.unwanted.Load() {
			return
		}
		s := &schema{name: o.Name, spec: &o.Spec, uid: []string{string(o.UID)}, level: l}
		p.schemas = append(p.schemas, s)
		if o.Name == flowcontrol.FlowSchemaNameCatchAll {
			p.catchAll = s
		}
	}
	for _, o := range list {
		take(o)
	}
	for _, o := range mandatorySchemas() {
		if !slices.ContainsFunc(p.schemas, func(s *schema) bool { return s.name == o.Name }) {
			take(o)
		}
	}
	slices.SortFunc(p.schemas, func(a, b *schema) int {
		return cmp.Or(cmp.Compare(a.spec.MatchingPrecedence, b.spec.MatchingPrecedence), cmp.Compare(a.name, b.name))
	})
}

// share gives every level its part of the server's seats and its queues.
func (c *Control) share(p *plan) {
	sum := 0.0
	for _, l := range p.levels {
		sum += float64(terms(l.spec).shares)
	}
	for _, l := range p.levels {
		t := terms(l.spec)
		b := bounds{}
		if sum > 0 {
			b.nominal = int(math.Ceil(float64(c.cfg.Seats) * float64(t.shares) / sum))
		}
		b.low = b.nominal - int(math.Round(float64(b.nominal)*float64(t.lendable)/100))
		b.high = b.nominal + c.cfg.Seats
		if t.borrowing != nil {
			b.high = b.nominal + int(math.Round(float64(b.nominal)*float64(*t.borrowing)/100))
		}
		l.bounds = b
		l.mu.Lock()
		l.nominal, l.room = float64(max(b.nominal, 1)), float64(max(t.queues.Queues*t.queues.QueueLength, 1))
		l.mu.Unlock()
		l.queued.Store(t.queues.Queues > 1)
		most := 0
		if t.queues.Queues > 0 {
			most = max(1, min(int(math.Ceil(float64(b.nominal)*maxSeatsPart)), b.nominal/max(1, t.queues.HandSize)))
		}
		l.most.Store(int64(most))
	}
	c.allot(p)
}

// levelTerms is a level's object in short.
type levelTerms struct {
	shares, lendable int32
	borrowing        *int32
	queues           fair.Config
}

func terms(s *flowcontrol.PriorityLevelConfigurationSpec) levelTerms {
	t := levelTerms{}
	value := func(p *int32, otherwise int32) int32 {
		if p == nil {
			return otherwise
		}
		return *p
	}
	if x := s.Exempt; x != nil {
		t.shares, t.lendable = value(x.NominalConcurrencyShares, 0), value(x.LendablePercent, 0)
		t.queues.Exempt = true
		return t
	}
	l := s.Limited
	t.shares, t.lendable, t.borrowing = value(l.NominalConcurrencyShares, 30), value(l.LendablePercent, 0), l.BorrowingLimitPercent
	if q := l.LimitResponse.Queuing; q != nil {
		t.queues = fair.Config{Queues: int(q.Queues), HandSize: int(q.HandSize), QueueLength: int(q.QueueLengthLimit)}
	}
	return t
}
