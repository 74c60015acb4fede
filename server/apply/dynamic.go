package apply

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
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
	if a.taught[f] != nil { // else the kind may be gone, and nobody would forget it again
		a.dynamic[f] = t
	}
	return t, nil
}

// createDynamic gives a new custom resource its managedFields: the writer owns all of
// it. It is what updateDynamic does with an empty object, without its detours; false
// leaves the object to it.
func (a *Applier) createDynamic(obj api.Object, by Manager) bool {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return false
	}
	a.mu.Lock()
	t, err := a.dynamicLocked(by.Kind)
	a.mu.Unlock()
	if err != nil {
		return false
	}
	f := fresh{types: t.empty.Schema()}
	tree := f.object(t.empty.TypeRef(), u.Object, by.skip())
	meta, ok := u.Object["metadata"].(map[string]any)
	if f.unfit || !ok {
		return false
	}
	if len(tree) == 0 {
		delete(meta, "managedFields")
	} else {
		meta["managedFields"] = []any{entryOf(tree, by, a.stamp())}
	}
	return true
}
