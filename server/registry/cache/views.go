package cache

import (
	"sync"

	"orch/api"
)

// viewBytes bounds the stored bytes of objects that are kept as webhooks converted them.
// The oldest go first; they are converted again when somebody asks.
const viewBytes = 8 << 20

// viewChunk is how many objects a page by selectors converts at a time, until it is full.
const viewChunk = 500

// As gives the same version as an object of kind k, which is the item's kind or
// stored as it. It may wait for a webhook where k.Convert is set.
func (i *Item) As(k *Kind) (*Item, error) {
	if k == i.kind || k.FromStored == nil && k.Convert == nil {
		return i, nil
	}
	if t := i.view(k); t != nil {
		return t, nil
	}
	if k.Convert != nil {
		out, err := k.convert([]*Item{i})
		if err != nil {
			return nil, err
		}
		return out[0], nil
	}
	o, err := k.FromStored(i.obj)
	if err != nil {
		return nil, err
	}
	return i.keep(k, o), nil
}

// near is As for those who look at metadata only and must not wait: where that
// would mean a webhook, they get the object as it is stored.
func (i *Item) near(k *Kind) (*Item, error) {
	if k.Convert != nil {
		return i, nil
	}
	return i.As(k)
}

// Stale tells whether the object is stored in another version than it would be now.
func (i *Item) Stale() bool {
	if i.stored != nil {
		i = i.stored
	}
	f := i.kind.Facts
	return f.Dynamic && i.obj.GetObjectKind().GroupVersionKind().Version != f.Version
}

func (i *Item) view(k *Kind) *Item {
	if l := i.views.Load(); l != nil {
		for _, t := range *l {
			if t.kind == k {
				return t
			}
		}
	}
	return nil
}

// keep makes o the item's view as k.
func (i *Item) keep(k *Kind, o api.Object) *Item {
	t := &Item{kind: k, key: i.key, obj: o, rev: i.rev, size: i.size, budget: i.budget, stored: i}
	i.setView(k, t)
	if k.Convert != nil && o != i.obj && i.budget != nil {
		i.budget.converted.add(i, k)
	}
	return t
}

// setView puts t, nil for none, in the place of the view as k.
func (i *Item) setView(k *Kind, t *Item) {
	for {
		old := i.views.Load()
		var now []*Item
		if old != nil {
			for _, o := range *old {
				if o.kind != k {
					now = append(now, o)
				}
			}
		}
		if t != nil {
			now = append(now, t)
		}
		if i.views.CompareAndSwap(old, &now) {
			return
		}
	}
}

// converted bounds the views that webhooks made: first in, first out.
type converted struct {
	mu    sync.Mutex
	total int
	queue []convertedView
}

type convertedView struct {
	item *Item
	kind *Kind
}

func (c *converted) add(i *Item, k *Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, convertedView{i, k})
	c.total += i.size
	for c.total > viewBytes && len(c.queue) > 1 {
		o := c.queue[0]
		c.queue[0] = convertedView{}
		c.queue = c.queue[1:]
		c.total -= o.item.size
		o.item.setView(o.kind, nil)
	}
}

// flights are conversions on their way, so that nobody asks a webhook for what another
// is waiting for already.
type flights struct {
	mu sync.Mutex
	of map[*Item]*flight // guarded by mu
}

// flight is one call; out and err are read after done.
type flight struct {
	done chan struct{}
	out  map[*Item]*Item
	err  error
}

// convert gives the views of items as k, in their order, with one call for those that
// nobody has or is waiting for.
func (k *Kind) convert(items []*Item) ([]*Item, error) {
	out, wait := make([]*Item, len(items)), make([]*flight, len(items))
	mine := &flight{done: make(chan struct{}), out: map[*Item]*Item{}}
	var call []*Item
	k.flights.mu.Lock()
	for n, i := range items {
		if out[n] = i.view(k); out[n] != nil {
			continue
		}
		if wait[n] = k.flights.of[i]; wait[n] == nil {
			wait[n] = mine
			k.flights.of[i] = mine
			call = append(call, i)
		}
	}
	k.flights.mu.Unlock()
	if len(call) > 0 {
		k.fly(mine, call)
	}
	for n, f := range wait {
		if f == nil {
			continue
		}
		<-f.done
		if f.err != nil {
			return nil, f.err
		}
		out[n] = f.out[items[n]]
	}
	return out, nil
}

func (k *Kind) fly(f *flight, call []*Item) {
	defer close(f.done)
	in := make([]api.Object, len(call))
	for n, i := range call {
		in[n] = i.obj
	}
	var made []api.Object
	made, f.err = k.Convert(in)
	for n := range made {
		f.out[call[n]] = call[n].keep(k, made[n])
	}
	k.flights.mu.Lock()
	defer k.flights.mu.Unlock()
	for _, i := range call {
		delete(k.flights.of, i)
	}
}

// ahead converts what a walk is going to need with as few calls as can be, and gives the
// function that hands it out.
func (k *Kind) ahead(o *ListOptions, walk func(from, to string, each func(entry) bool)) (func(*Item) (*Item, error), error) {
	if k.Convert == nil {
		return func(i *Item) (*Item, error) { return i.As(k) }, nil
	}
	var items []*Item
	from, to := o.bounds(k)
	walk(from, to, func(e entry) bool {
		if o.Filter.places(e.item) {
			items = append(items, e.item)
		}
		return o.Limit == 0 || o.Filter.selective() || int64(len(items)) <= o.Limit
	})
	byItem := make(map[*Item]*Item, len(items))
	chunk, matched := len(items), int64(0)
	if o.Limit > 0 && o.Filter.selective() {
		chunk = viewChunk
	}
	for len(items) > 0 && (o.Limit == 0 || matched <= o.Limit) { // one more than the page tells that there is a next
		some := items[:min(len(items), chunk)]
		items = items[len(some):]
		made, err := k.convert(some)
		if err != nil {
			return nil, err
		}
		for n, i := range some {
			byItem[i] = made[n]
			if o.Filter.match(made[n]) {
				matched++
			}
		}
	}
	return func(i *Item) (*Item, error) {
		if m := byItem[i]; m != nil {
			return m, nil
		}
		return i.near(k) // counted only, or not of the place that the filter names
	}, nil
}

// places tells whether an item is where the filter looks: conversion moves none.
func (f *Filter) places(i *Item) bool {
	return (f.Name == "" || i.obj.GetName() == f.Name) && (f.Namespace == "" || i.obj.GetNamespace() == f.Namespace)
}

// resolved turns the raw events of a watch of a kind that webhooks convert into those that
// the watcher gets. It runs on the watcher's goroutine: the feed never waits for a webhook.
func (w *Watch) resolved(events []Event) ([]Event, error) {
	var items []*Item
	for _, e := range events {
		if e.raw != nil && e.raw.old != nil {
			items = append(items, e.raw.old)
		}
		if e.raw != nil && e.raw.item != nil {
			items = append(items, e.raw.item)
		}
	}
	if _, err := w.kind.convert(items); err != nil {
		return nil, err
	}
	out := make([]Event, 0, len(events))
	for _, e := range events {
		if e.raw == nil {
			out = append(out, e)
			continue
		}
		ev, ok, err := w.seen(e.raw)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, ev)
		}
	}
	return out, nil
}
