package cache

import (
	"context"
	"errors"

	"orch/datastore"
)

// Page is what a list found.
type Page struct {
	Items []*Item
	// Revision of the state that was read.
	Revision int64
	// Next is the key after which a further page starts; empty when this is the last.
	Next string
	// Remaining counts what follows; -1 if it is not known (a selective filter).
	Remaining int64
	// Bulky says that keeping the encodings of all items would push everything else out,
	// and most of themselves: they are to be made in passing.
	Bulky bool
}

// ListOptions say which part of a list is wanted.
type ListOptions struct {
	Filter Filter
	// After continues behind this key (Page.Next); empty starts at the beginning.
	After string
	Limit int64 // 0: all
	// Revision reads exactly this state, from the store's history if need be; 0
	// reads the newest.
	Revision int64
}

// List reads a page. Errors of a past state are the datastore's.
func (c *Cache) List(ctx context.Context, k *Kind, o ListOptions) (Page, error) {
	b, err := c.shelf(k)
	if err != nil {
		return Page{}, err
	}
	if o.Revision > 0 && o.Revision < c.store.Oldest() {
		return Page{}, datastore.ErrCompacted // even where nothing of the kind has changed since
	}
	seen := c.Revision()
	t, applied := b.snapshot()
	now := max(seen, applied)
	if o.Revision > 0 && o.Revision < applied {
		return c.listPast(ctx, k, b, o)
	}
	if o.Revision > now {
		return Page{}, datastore.ErrFuture
	}
	if err := b.unreadable(o.Filter.Namespace); err != nil {
		return Page{}, err
	}
	p := Page{Revision: now}
	if o.Revision > 0 {
		p.Revision = o.Revision // nothing of this kind has changed since
	}
	walk := func(from, to string, each func(entry) bool) {
		if to == "" {
			t.AscendGreaterOrEqual(entry{key: from}, each)
		} else {
			t.AscendRange(entry{key: from}, entry{key: to}, each)
		}
	}
	as, err := k.ahead(&o, walk)
	if err != nil {
		return Page{}, err
	}
	err = p.collect(k, o, walk, as)
	p.Bulky = c.bulky(p.Items)
	return p, err
}

// bulky tells whether items take more than half of the room for encodings.
func (c *Cache) bulky(items []*Item) bool {
	size := 0
	for _, i := range items {
		if size += i.size; size > c.budget.limit/2 {
			return true
		}
	}
	return false
}

// bounds is the range of keys that can match.
func (o *ListOptions) bounds(k *Kind) (from, to string) {
	switch {
	case k.Facts.Cluster && o.Filter.Name != "":
		from, to = o.Filter.Name, o.Filter.Name+"\x00"
	case !k.Facts.Cluster && o.Filter.Namespace != "" && o.Filter.Name != "":
		from = o.Filter.Namespace + "/" + o.Filter.Name
		to = from + "\x00"
	case !k.Facts.Cluster && o.Filter.Namespace != "":
		from, to = o.Filter.Namespace+"/", o.Filter.Namespace+"0" // '0' follows '/'
	}
	if o.After != "" {
		from = max(from, o.After+"\x00")
	}
	return from, to
}

// collect walks a range in key order and fills the page.
func (p *Page) collect(k *Kind, o ListOptions, walk func(from, to string, each func(entry) bool), as func(*Item) (*Item, error)) error {
	from, to := o.bounds(k)
	if to != "" && from >= to {
		return nil
	}
	var err error
	var rest int64
	last := ""
	walk(from, to, func(e entry) bool {
		full := o.Limit > 0 && int64(len(p.Items)) == o.Limit
		if full && p.Next != "" && !o.Filter.selective() {
			rest++ // only counting now
			return true
		}
		var i *Item
		if i, err = as(e.item); err != nil {
			return false
		}
		if !o.Filter.match(i) {
			return true
		}
		if full {
			p.Next, rest = last, 1
			return !o.Filter.selective()
		}
		last = e.key
		p.Items = append(p.Items, i)
		return true
	})
	p.Remaining = rest
	if o.Filter.selective() {
		p.Remaining = -1
	}
	return err
}

// listPast reads the store's history. It reads on in chunks as long as a selective
// filter leaves the page short.
func (c *Cache) listPast(ctx context.Context, k *Kind, b *shelf, o ListOptions) (Page, error) {
	r := datastore.ListRequest{Prefix: b.kind.prefix, Revision: o.Revision}
	if !k.Facts.Cluster && o.Filter.Namespace != "" {
		r.Prefix += o.Filter.Namespace + "/"
	}
	if o.After != "" {
		r.After = b.kind.prefix + o.After
	}
	l, err := c.store.List(ctx, r)
	if err != nil {
		return Page{}, err
	}
	items, broken := c.decodeAll(b.kind, l.KVs)
	for _, err := range broken {
		return Page{}, err
	}
	p := Page{Revision: o.Revision, Bulky: true} // nobody asks for these items again
	walk := func(from, to string, each func(entry) bool) {
		for _, i := range items {
			if i.key >= from && (to == "" || i.key < to) && !each(entry{i.key, i}) {
				return
			}
		}
	}
	as, err := k.ahead(&o, walk)
	if err != nil {
		return Page{}, err
	}
	err = p.collect(k, o, walk, as)
	return p, err
}

// Each walks the newest state in key order; "" means all namespaces.
func (c *Cache) Each(k *Kind, namespace string, each func(*Item) bool) {
	b, err := c.shelf(k)
	if err != nil {
		return
	}
	t, _ := b.snapshot()
	visit := func(e entry) bool {
		i, err := e.item.near(k)
		return err != nil || each(i)
	}
	if namespace == "" || k.Facts.Cluster {
		t.Ascend(visit)
		return
	}
	t.AscendRange(entry{key: namespace + "/"}, entry{key: namespace + "0"}, visit)
}

// Past reads one object as it was at revision.
func (c *Cache) Past(ctx context.Context, k *Kind, namespace, name string, revision int64) (*Item, error) {
	b, err := c.shelf(k)
	if err != nil {
		return nil, err
	}
	kv, err := c.store.Get(ctx, b.kind.prefix+b.kind.key(namespace, name), revision)
	if errors.Is(err, datastore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i, err := c.decode(b.kind, kv)
	if err != nil {
		return nil, err
	}
	return i.As(k)
}
