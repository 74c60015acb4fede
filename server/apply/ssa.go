package apply

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"orch/api"
)

// Apply merges what a manager wants into live (a fresh object if there is none) and
// returns the outcome with its managedFields. Neither argument is changed. Errors
// are status errors for conflicts and bad requests.
func (a *Applier) Apply(live api.Object, intent *unstructured.Unstructured, by Manager, force bool) (api.Object, error) {
	m, err := a.managerFor(by)
	if err != nil {
		return nil, err
	}
	was := live.DeepCopyObject().(api.Object)
	was.GetObjectKind().SetGroupVersionKind(by.Kind.GVK())
	out, err := m.Apply(was, intent.DeepCopy(), by.Name, force)
	if err != nil {
		return nil, err
	}
	return asKind(by.Kind, out)
}

// asKind makes the kind's Go type of what structured merge gives back.
func asKind(f *api.Facts, o runtime.Object) (api.Object, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok || f.Dynamic {
		return o.(api.Object), nil
	}
	out := f.New()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, fmt.Errorf("failed to convert new typed object: %w", err)
	}
	return out, nil
}

// managerFor makes what applying to a kind needs, once somebody does.
func (a *Applier) managerFor(by Manager) (*managedfields.FieldManager, error) {
	key := Manager{Kind: by.Kind, Subresource: by.Subresource}
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.managers[key]; m != nil {
		return m, nil
	}
	gvk := by.Kind.GVK()
	env := environment{by.Kind, a.converts[by.Kind]}
	var reset map[fieldpath.APIVersion]fieldpath.Filter
	if s := by.skip(); s != "" {
		set := fieldpath.NewSet(fieldpath.MakePathOrDie(s))
		if by.Kind.Dynamic && by.Subresource == "status" {
			set.Insert(fieldpath.MakePathOrDie("metadata"))
		}
		reset = map[fieldpath.APIVersion]fieldpath.Filter{
			fieldpath.APIVersion(gvk.GroupVersion().String()): fieldpath.NewExcludeSetFilter(set),
		}
	}
	var m *managedfields.FieldManager
	var err error
	if by.Kind.Dynamic {
		types, failed := a.dynamicLocked(by.Kind)
		if failed != nil {
			return nil, failed
		}
		m, err = managedfields.NewDefaultCRDFieldManager(types.TypeConverter, env, env, env, gvk, gvk.GroupVersion(), by.Subresource, reset)
	} else {
		m, err = managedfields.NewDefaultFieldManager(typesOf(by.Kind), env, env, env, gvk, gvk.GroupVersion(), by.Subresource, reset)
	}
	if err != nil {
		return nil, fmt.Errorf("preparing server-side apply of %s: %w", by.Kind.Kind, err)
	}
	if !by.Kind.Dynamic || a.taught[by.Kind] != nil { // see dynamicLocked
		a.managers[key] = m
	}
	return m, nil
}

// Teach gives a kind made at run time its types; without them they are deduced from
// the objects. load runs when they are first needed.
func (a *Applier) Teach(f *api.Facts, load func() (managedfields.TypeConverter, error), convert Convert) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taught[f] = load
	if convert != nil {
		a.converts[f] = convert
	}
}

// Forget drops what is kept for a kind that is gone.
func (a *Applier) Forget(f *api.Facts) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.taught, f)
	delete(a.converts, f)
	delete(a.dynamic, f)
	for m := range a.managers {
		if m.Kind == f {
			delete(a.managers, m)
		}
	}
}

// updateDynamic keeps the managedFields of a custom resource with upstream's own code.
func (a *Applier) updateDynamic(live, obj api.Object, by Manager) {
	m, err := a.managerFor(by)
	if err != nil {
		obj.SetManagedFields(live.GetManagedFields())
		return
	}
	was := live.DeepCopyObject().(api.Object)
	was.GetObjectKind().SetGroupVersionKind(by.Kind.GVK())
	obj.GetObjectKind().SetGroupVersionKind(by.Kind.GVK())
	out, err := m.Update(was, obj, by.name())
	if err != nil { // the object does not fit its schema: validation says so
		obj.SetManagedFields(live.GetManagedFields())
		return
	}
	if o, err := meta.Accessor(out); err == nil {
		obj.SetManagedFields(o.GetManagedFields())
	}
}

// environment answers the few questions that upstream's field manager has about a
// kind: there is one version of it, and defaults are set elsewhere.
type environment struct {
	kind    *api.Facts
	convert Convert
}

func (e environment) New(schema.GroupVersionKind) (runtime.Object, error) {
	o := e.kind.New()
	o.GetObjectKind().SetGroupVersionKind(e.kind.GVK())
	return o, nil
}

func (environment) Default(runtime.Object) {}

func (e environment) ConvertToVersion(in runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	if e.kind.Dynamic {
		return e.convertDynamic(in, gv)
	}
	gvk, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{e.kind.GVK()})
	if !ok || gvk != e.kind.GVK() {
		return nil, runtime.NewNotRegisteredGVKErrForTarget("orch", e.kind.GVK(), gv)
	}
	if in.GetObjectKind().GroupVersionKind().Empty() {
		in.GetObjectKind().SetGroupVersionKind(e.kind.GVK())
	}
	return in, nil
}

// convertDynamic shows a custom resource as another version of its kind: by its definition's
// webhook, else the fields are the same.
func (e environment) convertDynamic(in runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	if gvk.Empty() {
		gvk = e.kind.GVK()
	}
	to, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk})
	if !ok || to.Group != e.kind.Group || to.Kind != e.kind.Kind {
		return nil, runtime.NewNotRegisteredGVKErrForTarget("orch", gvk, gv)
	}
	if to == in.GetObjectKind().GroupVersionKind() {
		return in, nil
	}
	out := in.DeepCopyObject()
	if u, ok := out.(*unstructured.Unstructured); ok && e.convert != nil {
		u.SetGroupVersionKind(gvk)
		return e.convert(u, to.GroupVersion())
	}
	out.GetObjectKind().SetGroupVersionKind(to)
	return out, nil
}

func (e environment) Convert(in, out, context any) error {
	return fmt.Errorf("converting %T to %T is not needed here", in, out)
}

func (e environment) ConvertFieldLabel(schema.GroupVersionKind, string, string) (string, string, error) {
	return "", "", fmt.Errorf("field labels are not converted here")
}
