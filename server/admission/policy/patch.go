package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admission "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apimachinery "k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	celmutation "k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"

	"orch/server/admission/match"
	"orch/server/apply"
	"orch/server/expression"
)

// mutate gives the view's object as one mutation leaves it, in the view's version and with its
// defaults. A status error ends the request.
func (p *Policies) mutate(ctx context.Context, v *mutator, m *patcher, e evaluation) (runtime.Object, error) {
	if m.expression.Err != nil {
		return nil, m.expression.Err
	}
	// Values go into the object, so they have to be plain ones, not views of Go's.
	live, err := plain(e.view.Object, e.view.Kind)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	old, err := plain(e.view.Old, e.view.Kind)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	q := &expression.Request{Object: live, Admission: e.view.Expression().Admission}
	if old != nil {
		q.Old = old
	}
	b := e.bindings(true)
	if e.params != nil {
		params, err := plain(e.params, e.params.GetObjectKind().GroupVersionKind())
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		b.Params = params
	}
	r, err := v.set.Begin(q, b, expression.Budget).Eval(ctx, m.expression)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		return nil, err
	}
	if m.kind == admission.PatchTypeJSONPatch {
		return p.patched(e.view, live, r.Value)
	}
	return p.configured(e.view, live, r.Value)
}

// plain is an object as JSON has it, with its kind; nil for none.
func plain(o runtime.Object, kind schema.GroupVersionKind) (*unstructured.Unstructured, error) {
	switch o := o.(type) {
	case nil:
		return nil, nil
	case *unstructured.Unstructured:
		return o, nil
	}
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: m}
	u.SetGroupVersionKind(kind)
	return u, nil
}

// configured merges an apply configuration into the object.
func (p *Policies) configured(v *match.View, live *unstructured.Unstructured, made ref.Val) (runtime.Object, error) {
	o, ok := made.(*dynamic.ObjectVal)
	if !ok { // the compiler has checked the type
		return nil, fmt.Errorf("unsupported return type from ApplyConfiguration expression: %v", made.Type())
	}
	if err := o.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return nil, fmt.Errorf("type mismatch: %w", err)
	}
	fields, ok := o.Value().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("invalid return type: %T", made)
	}
	configuration := &unstructured.Unstructured{Object: fields}
	configuration.SetGroupVersionKind(v.Kind)
	kind := p.cfg.Registry.BodyFor(v.As, v.Subresource())
	if kind.GVK() != v.Kind { // options of a connection: nobody has a schema of them
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("Resource kind %s not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.", v.Kind))
	}
	merged, err := p.cfg.Registry.Merge(kind, live, configuration)
	if err != nil {
		return nil, fmt.Errorf("error applying patch: %w", err)
	}
	doc, err := merged.MarshalJSON()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return p.decoded(v, doc, false)
}

// patched does a JSON patch. One whose test fails changes nothing.
func (p *Policies) patched(v *match.View, live *unstructured.Unstructured, made ref.Val) (runtime.Object, error) {
	patch, err := operations(made)
	if err != nil {
		return nil, err
	}
	doc, err := live.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("failed to create JSON patch: %w", err)
	}
	doc, err = (&apply.Applier{}).Patch(apimachinery.JSONPatchType, doc, patch, nil)
	if errors.Is(err, jsonpatch.ErrTestFailed) {
		return v.Object, nil
	}
	if err != nil {
		if both, ok := err.(interface{ Unwrap() []error }); ok && errors.Is(err, apply.ErrCannotApply) {
			err = both.Unwrap()[1] // the library's words, as upstream shows them
		}
		return nil, fmt.Errorf("JSON Patch: %w", err)
	}
	return p.decoded(v, doc, true)
}

// operation is one operation of a JSON patch.
type operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  string          `json:"from,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// operations is the JSON patch that an expression evaluates to.
func operations(made ref.Val) ([]byte, error) {
	list, ok := made.(traits.Lister)
	if !ok { // the compiler has checked the type
		return nil, errors.New("type mismatch: JSONPatchType.expression should evaluate to array")
	}
	out := []operation{}
	for it := list.Iterator(); it.HasNext() == types.True; {
		native, err := it.Next().ConvertToNative(reflect.TypeFor[*celmutation.JSONPatchVal]())
		if err != nil {
			return nil, fmt.Errorf("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch: %w", err)
		}
		op := native.(*celmutation.JSONPatchVal)
		one := operation{Op: op.Op, Path: op.Path, From: op.From}
		if op.Val != nil {
			if one.Value, err = literal(op.Val); err != nil {
				return nil, err
			}
		}
		out = append(out, one)
	}
	return json.Marshal(out)
}

// literal is a CEL value in JSON.
func literal(v ref.Val) ([]byte, error) {
	if o, ok := v.(*dynamic.ObjectVal); ok {
		if err := o.CheckTypeNamesMatchFieldPathNames(); err != nil {
			return nil, fmt.Errorf("type mismatch: %w", err)
		}
	}
	const fails = "JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w"
	pb, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, fmt.Errorf(fails, err)
	}
	b, err := json.Marshal(pb)
	if err != nil {
		return nil, fmt.Errorf(fails, err)
	}
	return b, nil
}

// decoded is a document as an object of the view's kind, with its defaults.
func (p *Policies) decoded(v *match.View, doc []byte, strict bool) (runtime.Object, error) {
	now := reflect.New(reflect.TypeOf(v.Object).Elem()).Interface().(runtime.Object)
	unknown, err := apply.Decode(doc, now, strict)
	if err == nil && len(unknown) > 0 {
		err = runtime.NewStrictDecodingError(unknown)
	}
	if err != nil {
		return nil, apierrors.NewInternalError(utilerrors.NewAggregate([]error{err}))
	}
	if !v.As.Dynamic || !v.Whole() {
		now.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // in memory the type says it
	}
	if v.Whole() {
		if res := p.cfg.Registry.For(v.As); res != nil {
			res.Complete(now)
		}
	}
	return now, nil
}
