package registry

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"orch/api"
	"orch/server/validate"
)

// Every kind has a file in testdata/kinds, named plural.group.yaml. Its first
// document is a good object; the further ones are broken twins of it:
//
//	name: what is wrong
//	update: true            # the good object is what is stored; without: a create
//	set: {/spec/replicas: -1, /spec/selector: null}   # null takes the field away
//	errors: [...]           # the beginnings of all errors, in order
type twin struct {
	Name   string
	Update bool
	Sub    string
	Set    map[string]any
	Errors []string
}

// withoutRules are kinds that are computed, or have nothing to check beyond their metadata.
var withoutRules = map[string]bool{"serviceaccounts": true, "componentstatuses": true}

func fixture(f *api.Facts) string {
	name := f.Plural
	if f.Group != "" {
		name += "." + f.Group
	}
	if f.SameAs != nil {
		name += "." + f.Version
	}
	return filepath.Join("testdata", "kinds", name+".yaml")
}

func TestEveryKindHasRowAndFixtures(t *testing.T) {
	rows := map[*api.Facts]int{}
	for _, r := range BuiltIn() {
		rows[r.Facts]++
	}
	for _, f := range api.All() {
		if rows[f] != 1 {
			t.Errorf("%s has %d rows, want 1", f.GVR(), rows[f])
		}
		if f.Computed {
			continue
		}
		docs, err := documents(fixture(f))
		if err != nil {
			t.Error(err)
			continue
		}
		if len(docs) < 2 && !withoutRules[f.Plural] {
			t.Errorf("%s has no broken twin", fixture(f))
		}
	}
	if len(rows) != len(api.All()) {
		t.Errorf("%d rows for %d kinds", len(rows), len(api.All()))
	}
}

func documents(file string) ([][]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var docs [][]byte
	for _, d := range strings.Split(string(b), "\n---\n") {
		docs = append(docs, []byte(d))
	}
	return docs, nil
}

func TestFixtures(t *testing.T) {
	for _, r := range BuiltIn() {
		if r.Computed {
			continue
		}
		docs, err := documents(fixture(r.Facts))
		if err != nil {
			continue // the counting test says so
		}
		t.Run(strings.TrimSuffix(filepath.Base(fixture(r.Facts)), ".yaml"), func(t *testing.T) {
			good, errs := admit(t, &r, docs[0])
			if len(errs) > 0 {
				t.Fatalf("the good object is refused: %v", errs)
			}
			stored := throughStore(t, &r, good)
			if errs := r.replace(copyOf(good), stored, ""); len(errs) > 0 {
				t.Errorf("an update without a change is refused: %v", errs)
			}
			again := copyOf(good)
			if r.hooks.setDefaults != nil {
				r.hooks.setDefaults(again)
			}
			if a, b := asJSON(t, good), asJSON(t, again); a != b {
				t.Errorf("defaulting twice changes the object:\n%s\n%s", a, b)
			}
			for _, c := range r.Columns {
				c.Cell(good, good.GetCreationTimestamp().Time)
				c.Cell(r.Facts.New(), time.Now()) // as of a bookmark
			}
			for _, d := range docs[1:] {
				var w twin
				if err := yaml.UnmarshalStrict(d, &w); err != nil {
					t.Fatal(err)
				}
				t.Run(w.Name, func(t *testing.T) { broken(t, &r, docs[0], good, w) })
			}
		})
	}
}

// throughStore encodes and decodes an object as the store has it: nothing that
// defaults and preparation set may be lost there.
func throughStore(t *testing.T, r *Resource, o api.Object) api.Object {
	t.Helper()
	b, err := r.kind.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	back, err := r.kind.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	want := copyOf(o)
	want.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if !equality.Semantic.DeepEqual(back, want) {
		t.Errorf("the stored object differs: %s", cmp.Diff(want, back))
	}
	return back
}

func broken(t *testing.T, r *Resource, doc []byte, good api.Object, w twin) {
	var errs field.ErrorList
	if w.Update || w.Sub != "" {
		o := r.New()
		decode(t, edit(t, []byte(asJSON(t, good)), w.Set), o)
		errs = r.replace(o, good, w.Sub)
	} else {
		_, errs = admit(t, r, edit(t, doc, w.Set))
	}
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	ok := len(got) == len(w.Errors)
	for i := range w.Errors {
		ok = ok && i < len(got) && strings.HasPrefix(got[i], w.Errors[i])
	}
	if !ok {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(w.Errors, "\n\t"))
	}
}

// admit takes a document the way of a create, short of the store.
func admit(t *testing.T, r *Resource, doc []byte) (api.Object, field.ErrorList) {
	t.Helper()
	o := r.New()
	decode(t, doc, o)
	if !r.Cluster && o.GetNamespace() == "" {
		o.SetNamespace("default")
	}
	o.SetUID("11111111-2222-3333-4444-555555555555")
	o.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	if r.hooks.setDefaults != nil {
		r.hooks.setDefaults(o)
	}
	if r.hooks.prepareCreate != nil {
		r.hooks.prepareCreate(o)
	}
	rule := r.hooks.nameRule
	if rule == nil {
		rule = apimachinery.NameIsDNSSubdomain
	}
	errs := validate.ObjectMeta(o, !r.Cluster, rule, field.NewPath("metadata"))
	if r.hooks.validate != nil {
		errs = append(errs, r.hooks.validate(o)...)
	}
	o.SetResourceVersion("1")
	return o, errs
}

// replace takes an object the way of an update, of the status where sub says so.
func (r *Resource) replace(o, old api.Object, sub string) field.ErrorList {
	prepare, check := r.hooks.prepareUpdate, r.hooks.validateUpdate
	if sub == "status" {
		prepare, check = r.hooks.prepareStatus, r.hooks.validateStatus
	}
	if r.hooks.setDefaults != nil {
		r.hooks.setDefaults(o)
	}
	if prepare != nil {
		prepare(o, old)
	}
	errs := validate.ObjectMetaUpdate(o, old, field.NewPath("metadata"))
	if check != nil {
		errs = append(errs, check(o, old)...)
	}
	return errs
}

func copyOf(o api.Object) api.Object { return o.DeepCopyObject().(api.Object) }

func decode(t *testing.T, doc []byte, o api.Object) {
	t.Helper()
	if err := yaml.UnmarshalStrict(doc, o); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
}

func asJSON(t *testing.T, o api.Object) string {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edit sets the values at the given places, "/spec/containers/0/name".
func edit(t *testing.T, doc []byte, set map[string]any) []byte {
	t.Helper()
	var o any
	if err := yaml.Unmarshal(doc, &o); err != nil {
		t.Fatal(err)
	}
	for at, v := range set {
		o = put(t, o, strings.Split(at, "/")[1:], v)
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put sets v at the place; "~1" stands for a slash in a name, as in JSON pointers.
func put(t *testing.T, in any, at []string, v any) any {
	if len(at) == 0 {
		return v
	}
	name := strings.ReplaceAll(at[0], "~1", "/")
	switch x := in.(type) {
	case []any:
		i, err := strconv.Atoi(name)
		if err != nil || i > len(x) {
			t.Fatalf("no place %s in a list of %d", name, len(x))
		}
		if i == len(x) {
			x = append(x, nil)
		}
		x[i] = put(t, x[i], at[1:], v)
		return x
	case map[string]any:
		if len(at) == 1 && v == nil {
			delete(x, name)
			return x
		}
		x[name] = put(t, x[name], at[1:], v)
		return x
	case nil:
		return put(t, map[string]any{}, at, v)
	}
	t.Fatalf("no place %s in %T", name, in)
	return nil
}
