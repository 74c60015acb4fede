package apply

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"orch/api"
)

// Names and limits as upstream's.
const (
	fieldsType        = "FieldsV1"
	unknownManager    = "unknown"
	ancientManager    = "ancient-changes"
	maxUpdateManagers = 10
)

// setCacheSize bounds the decoded field sets kept by their text: objects of one
// controller own the same fields, so few texts cover most objects.
const setCacheSize = 2048

// setCache maps the text of a field set to the set. Sets in it are never changed.
type setCache struct {
	mu   sync.Mutex
	sets map[string]*fieldpath.Set
}

func (c *setCache) decode(f *metav1.FieldsV1) (*fieldpath.Set, error) {
	raw := f.GetRawString()
	c.mu.Lock()
	s := c.sets[raw]
	c.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s = &fieldpath.Set{}
	if err := s.FromJSON(f.GetRawReader()); err != nil {
		return nil, fmt.Errorf("decoding managed fields: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sets) >= setCacheSize {
		clear(c.sets)
	}
	c.sets[raw] = s
	return s, nil
}

// Create gives a new object its first managedFields.
func (a *Applier) Create(obj api.Object, by Manager) {
	if isReset(obj.GetManagedFields()) {
		obj.SetManagedFields(nil)
		return
	}
	base := obj.GetManagedFields()
	if _, err := a.decodeAll(base); err != nil {
		base = nil
	}
	if by.Kind.Dynamic {
		if len(base) == 0 && a.createDynamic(obj, by) {
			return
		}
		a.updateDynamic(by.Kind.New(), obj, by)
		return
	}
	p := a.planOf(by.Kind)
	d, err := p.compare(p.empty, reflect.ValueOf(obj).Elem(), by.skip())
	if err != nil {
		obj.SetManagedFields(nil)
		return
	}
	a.record(obj, base, d, by)
}

// Update gives a changed object its managedFields: the writer owns what it changed,
// and nobody else does. An update that changes nothing leaves them as they are.
func (a *Applier) Update(live, obj api.Object, by Manager) error {
	base := live.GetManagedFields()
	if by.Subresource == "" && !same(base, obj.GetManagedFields()) {
		given := obj.GetManagedFields()
		if isReset(given) {
			obj.SetManagedFields(nil)
			return nil
		}
		if len(given) > 0 {
			if _, err := a.decodeAll(given); err == nil {
				base = given
			}
		}
	}
	if len(base) == 0 { // upstream does not begin to track in the middle of an object's life
		obj.SetManagedFields(nil)
		return nil
	}
	if by.Kind.Dynamic {
		a.updateDynamic(live, obj, by)
		return nil
	}
	d, err := a.planOf(by.Kind).compare(reflect.ValueOf(live).Elem(), reflect.ValueOf(obj).Elem(), by.skip())
	if err != nil { // as upstream: rather the old record than none
		obj.SetManagedFields(live.GetManagedFields())
		return nil
	}
	a.record(obj, base, d, by)
	return nil
}

// skip is the part of an object that a write through this address does not own.
func (m Manager) skip() string {
	switch {
	case m.Subresource == "status":
		return "spec"
	case m.Subresource == "" && m.Kind.Status:
		return "status"
	}
	return ""
}

// record works a difference into the entries of base.
func (a *Applier) record(obj api.Object, base []metav1.ManagedFieldsEntry, d *difference, by Manager) {
	if !d.dirty && !d.lost {
		obj.SetManagedFields(base)
		return
	}
	version := by.Kind.GroupVersion().String()
	out := make([]metav1.ManagedFieldsEntry, 0, len(base)+1)
	own := false
	for _, e := range base {
		mine := e.Operation == metav1.ManagedFieldsOperationUpdate && e.Manager == by.name() && e.APIVersion == version && e.Subresource == by.Subresource
		if e.APIVersion == version {
			if !a.adjust(&e, d, mine) {
				continue
			}
		}
		own = own || mine
		out = append(out, e)
	}
	if !own && d.dirty {
		out = append(out, a.entry(&d.changed, by, version))
	}
	out = a.capped(out)
	sortEntries(out)
	if len(out) == 0 {
		out = nil
	}
	obj.SetManagedFields(out)
}

func (m Manager) name() string {
	if m.Name == "" {
		return unknownManager
	}
	return m.Name
}

// adjust takes from an entry what was removed or changed by another writer, and
// adds what its own manager changed. It returns false for an entry that owns nothing now.
func (a *Applier) adjust(e *metav1.ManagedFieldsEntry, d *difference, mine bool) bool {
	if e.FieldsV1 == nil {
		return false
	}
	set, err := a.sets.decode(e.FieldsV1)
	if err != nil {
		return true // an entry that cannot be read is left to who wrote it
	}
	is := set
	if d.lost && hasAny(is, &d.removed) {
		is = is.Difference(&d.removed)
	}
	switch {
	case mine && d.dirty:
		e.Time = a.stamp()
		if !hasAll(is, &d.changed) {
			is = is.Union(&d.changed)
		}
	case d.dirty && hasAny(is, &d.changed):
		is = is.Difference(&d.changed)
	}
	if is == set {
		return true
	}
	if is.Empty() {
		return false
	}
	e.FieldsV1 = encodeSet(is)
	return e.FieldsV1 != nil
}

func hasAny(s, of *fieldpath.Set) bool {
	found := false
	of.Iterate(func(p fieldpath.Path) { found = found || s.Has(p) })
	return found
}

func hasAll(s, of *fieldpath.Set) bool {
	all := true
	of.Iterate(func(p fieldpath.Path) { all = all && s.Has(p) })
	return all
}

func encodeSet(s *fieldpath.Set) *metav1.FieldsV1 {
	b, err := s.ToJSON()
	if err != nil {
		return nil // keys and values of objects are always JSON
	}
	f := &metav1.FieldsV1{}
	f.SetRawBytes(b)
	return f
}

func (a *Applier) stamp() *metav1.Time {
	return &metav1.Time{Time: a.now().UTC().Truncate(1e9)}
}

func (a *Applier) entry(s *fieldpath.Set, by Manager, version string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: by.name(), Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: version,
		Time: a.stamp(), FieldsType: fieldsType, FieldsV1: encodeSet(s), Subresource: by.Subresource,
	}
}

// capped merges the oldest entries of updates while there are too many, version by
// version, as upstream's capManagersManager.
func (a *Applier) capped(l []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	var updates []int
	for i := range l {
		if l[i].Operation == metav1.ManagedFieldsOperationUpdate {
			updates = append(updates, i)
		}
	}
	extra := len(updates) - maxUpdateManagers
	if extra <= 0 {
		return l
	}
	slices.SortStableFunc(updates, func(i, j int) int {
		return cmp.Or(cmp.Compare(seconds(&l[i]), seconds(&l[j])), cmp.Compare(l[i].Manager, l[j].Manager))
	})
	buckets := map[string]int{} // by version: the entry that takes the others in
	gone := map[int]bool{}
	for _, i := range updates {
		if extra == 0 {
			break
		}
		b, ok := buckets[l[i].APIVersion]
		if !ok {
			buckets[l[i].APIVersion] = i
			continue
		}
		first, err1 := a.sets.decode(l[b].FieldsV1)
		more, err2 := a.sets.decode(l[i].FieldsV1)
		if err1 != nil || err2 != nil {
			continue
		}
		l[b].Manager, l[b].Subresource, l[b].Time = ancientManager, "", l[i].Time
		l[b].FieldsV1 = encodeSet(first.Union(more))
		gone[i] = true
		extra--
	}
	out := l[:0]
	for i := range l {
		if !gone[i] {
			out = append(out, l[i])
		}
	}
	return out
}

func seconds(e *metav1.ManagedFieldsEntry) int64 {
	if e.Time == nil {
		return 0
	}
	return e.Time.Unix()
}

func sortEntries(l []metav1.ManagedFieldsEntry) {
	slices.SortFunc(l, func(p, q metav1.ManagedFieldsEntry) int {
		return cmp.Or(
			cmp.Compare(p.Operation, q.Operation), cmp.Compare(seconds(&p), seconds(&q)), cmp.Compare(p.Manager, q.Manager),
			cmp.Compare(p.APIVersion, q.APIVersion), cmp.Compare(p.Subresource, q.Subresource))
	})
}

// isReset: an empty list, or one empty entry, asks to forget all managers.
func isReset(l []metav1.ManagedFieldsEntry) bool {
	if len(l) == 0 {
		return l != nil
	}
	return len(l) == 1 && reflect.DeepEqual(l[0], metav1.ManagedFieldsEntry{})
}

func same(a, b []metav1.ManagedFieldsEntry) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.ManagedFieldsEntry) bool {
		return x.Manager == y.Manager && x.Operation == y.Operation && x.APIVersion == y.APIVersion && x.Subresource == y.Subresource &&
			x.FieldsType == y.FieldsType && x.Time.Equal(y.Time) && (x.FieldsV1 == nil) == (y.FieldsV1 == nil) &&
			(x.FieldsV1 == nil || bytes.Equal(x.FieldsV1.GetRawBytes(), y.FieldsV1.GetRawBytes()))
	}) && (a == nil) == (b == nil)
}

// decodeAll checks entries that a client sent.
func (a *Applier) decodeAll(l []metav1.ManagedFieldsEntry) (int, error) {
	for i := range l {
		e := &l[i]
		switch {
		case e.Operation != metav1.ManagedFieldsOperationApply && e.Operation != metav1.ManagedFieldsOperationUpdate:
			return i, fmt.Errorf("operation must be `Apply` or `Update`")
		case e.APIVersion == "":
			return i, fmt.Errorf("apiVersion must not be empty")
		case e.FieldsType != fieldsType || e.FieldsV1 == nil:
			return i, fmt.Errorf("invalid fieldsType %q in managed fields entry %d", e.FieldsType, i)
		}
		if _, err := a.sets.decode(e.FieldsV1); err != nil {
			return i, err
		}
	}
	return len(l), nil
}
