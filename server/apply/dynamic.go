package apply

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"orch/api"
)

// dynamicTypes are the types of a kind made at run time, and its empty object in them.
type dynamicTypes struct {
	managedfields.TypeConverter
	empty *typed.TypedValue
}

// dynamicLocked loads a kind's types at first use.
func (a *Applier) dynamicLocked(f *api.Facts) (*dynamicTypes, error) {
	if t := a.dynamic[f]; t != nil {
		return t, nil
	}
	t := &dynamicTypes{TypeConverter: managedfields.NewDeducedTypeConverter()}
	var err error
	if load := a.taught[f]; load != nil {
		if t.TypeConverter, err = load(); err != nil {
			return nil, fmt.Errorf("preparing server-side apply of %s: %w", f.Kind, err)
		}
	}
	if t.empty, err = t.ObjectToTyped(f.New()); err != nil {
		return nil, fmt.Errorf("preparing server-side apply of %s: %w", f.Kind, err)
	}
	a.dynamic[f] = t
	return t, nil
}

// strippedMeta are the fields that nobody owns, as upstream's stripMeta has them.
var strippedMeta = fieldpath.NewSet(
	fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"), fieldpath.MakePathOrDie("metadata"),
	fieldpath.MakePathOrDie("metadata", "name"), fieldpath.MakePathOrDie("metadata", "namespace"), fieldpath.MakePathOrDie("metadata", "creationTimestamp"),
	fieldpath.MakePathOrDie("metadata", "selfLink"), fieldpath.MakePathOrDie("metadata", "uid"), fieldpath.MakePathOrDie("metadata", "clusterName"),
	fieldpath.MakePathOrDie("metadata", "generation"), fieldpath.MakePathOrDie("metadata", "managedFields"), fieldpath.MakePathOrDie("metadata", "resourceVersion"),
)

// createDynamic gives a new custom resource its managedFields: the writer owns all of
// it. It is what updateDynamic does with an empty object, without its detours; false
// leaves the object to it.
func (a *Applier) createDynamic(obj api.Object, by Manager) bool {
	a.mu.Lock()
	t, err := a.dynamicLocked(by.Kind)
	a.mu.Unlock()
	if err != nil {
		return false
	}
	is, err := t.ObjectToTyped(obj, typed.AllowDuplicates)
	if err != nil {
		return false
	}
	c, err := t.empty.Compare(is)
	if err != nil {
		return false
	}
	set := c.Added.Union(c.Modified).Difference(strippedMeta)
	if s := by.skip(); s != "" {
		set = set.RecursiveDifference(fieldpath.NewSet(fieldpath.MakePathOrDie(s)))
	}
	d := &difference{changed: *set, dirty: !set.Empty()}
	a.record(obj, nil, d, by)
	return true
}
