package expression

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
	admissionv1 "k8s.io/api/admission/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/lazy"
	"k8s.io/apiserver/pkg/cel/library"
)

// Authorizer answers what expressions ask of a user's rights.
type Authorizer = authorizer.UnconditionalAuthorizer

// Request is one admission request as expressions see it, in one version of its kind.
// It may serve several policies, one after the other, not at once: values are
// made at first use and kept.
type Request struct {
	// Object and Old bear their kind and version (see WithKind); nil as in the request.
	Object, Old runtime.Object
	// Admission is everything but the objects; the fields Object and OldObject stay empty.
	Admission *admissionv1.AdmissionRequest

	object, old, request ref.Val
}

// Bindings are what a policy adds to a request.
type Bindings struct {
	// Params is nil where there is none.
	Params runtime.Object
	// Authorizer must be there for expressions of a scope that has one.
	Authorizer Authorizer
	// Namespace of the request, nil for cluster scoped objects.
	Namespace *core.Namespace
}

// Result of one expression: a value, or why there is none.
type Result struct {
	Value ref.Val
	Err   error
	Took  time.Duration
}

// Run evaluates expressions of a set against one request, within one budget. Variables
// are evaluated once at most. It is for one goroutine.
type Run struct {
	set  *Set
	in   *Request
	with Bindings
	left int64

	params, namespace, authorizer, resource ref.Val
	variables                               *lazy.MapValue
	spent                                   int64 // by variables, since the last expression
}

var _ interpreter.Activation = (*Run)(nil)

// Begin starts a run.
func (s *Set) Begin(q *Request, b Bindings, budget int64) *Run {
	return &Run{set: s, in: q, with: b, left: budget}
}

// Left is the budget that remains.
func (r *Run) Left() int64 { return r.left }

// Eval evaluates one expression. The error says that the run is over: the budget is spent.
func (r *Run) Eval(ctx context.Context, x *Expression) (Result, error) {
	if x.Err != nil {
		return Result{Err: &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf("compilation error: %v", x.Err), Cause: x.Err}}, nil
	}
	begin := time.Now()
	v, details, err := x.program.ContextEval(ctx, r)
	out := Result{Took: time.Since(begin)}
	cost := uint64(r.spent)
	r.spent = 0
	if details == nil || details.ActualCost() == nil {
		return out, &apiservercel.Error{
			Type: apiservercel.ErrorTypeInternal, Cause: apiservercel.ErrOutOfBudget,
			Detail: fmt.Sprintf("runtime cost could not be calculated for expression: %v, no further expression will be run", x.Text),
		}
	}
	if own := *details.ActualCost(); own > math.MaxInt64 || cost+own > uint64(r.left) {
		r.left = -1
		return out, &apiservercel.Error{
			Type: apiservercel.ErrorTypeInvalid, Cause: apiservercel.ErrOutOfBudget,
			Detail: "validation failed due to running out of cost budget, no further validation rules will be run",
		}
	} else {
		r.left -= int64(cost + own)
	}
	if err != nil {
		out.Err = &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf("expression '%v' resulted in error: %v", x.Text, err)}
		return out, nil
	}
	out.Value = v
	return out, nil
}

// Parent is part of interpreter.Activation.
func (r *Run) Parent() interpreter.Activation { return nil }

// ResolveName is part of interpreter.Activation.
func (r *Run) ResolveName(name string) (any, bool) {
	q := r.in
	switch name {
	case objectName:
		return made(&q.object, func() ref.Val { return value(q.Object) }), true
	case oldObjectName:
		return made(&q.old, func() ref.Val { return value(q.Old) }), true
	case requestName:
		return made(&q.request, func() ref.Val { return common.SchemalessTypedToVal(q.Admission) }), true
	case paramsName:
		return made(&r.params, func() ref.Val { return value(r.with.Params) }), true
	case namespaceName:
		return made(&r.namespace, func() ref.Val { return common.SchemalessTypedToVal(visible(r.with.Namespace)) }), true
	case authorizerName:
		if r.with.Authorizer == nil {
			return nil, false
		}
		return made(&r.authorizer, func() ref.Val { return library.NewAuthorizerVal(asker(q.Admission), r.with.Authorizer) }), true
	case resourceName:
		if r.with.Authorizer == nil {
			return nil, false
		}
		return made(&r.resource, func() ref.Val {
			return library.NewResourceAuthorizerVal(asker(q.Admission), r.with.Authorizer, target{q.Admission})
		}), true
	case variablesName:
		return r.lazyVariables(), true
	}
	return nil, false
}

func made(at *ref.Val, make func() ref.Val) ref.Val {
	if *at == nil {
		*at = make()
	}
	return *at
}

// value is an object in CEL: a view of the Go value, without a copy of it.
func value(o runtime.Object) ref.Val {
	switch o := o.(type) {
	case nil:
		return types.NullValue
	case *unstructured.Unstructured:
		if o == nil {
			return types.NullValue
		}
		return types.DefaultTypeAdapter.NativeToValue(o.Object)
	}
	return common.SchemalessTypedToVal(o)
}

// visible is the part of a namespace that expressions see, as upstream's CreateNamespaceObject.
func visible(n *core.Namespace) *core.Namespace {
	if n == nil {
		return nil
	}
	c := *n
	c.TypeMeta = metav1.TypeMeta{}
	c.OwnerReferences, c.ManagedFields, c.SelfLink = nil, nil, ""
	return &c
}

func (r *Run) lazyVariables() *lazy.MapValue {
	if r.variables != nil {
		return r.variables
	}
	r.variables = lazy.NewMapValue(r.set.declared)
	for _, name := range r.set.names {
		x := r.set.variables[name]
		r.variables.Append(name, func(*lazy.MapValue) ref.Val { return r.variable(name, x) })
	}
	return r.variables
}

func (r *Run) variable(name string, x *Expression) ref.Val {
	if x.Err != nil {
		return types.NewErr("composited variable %q fails to compile: %v", name, x.Err)
	}
	// The expression that asks bears the context; a variable is bounded by its cost.
	v, details, err := x.program.ContextEval(context.Background(), r)
	if details == nil {
		return types.NewErr("unable to get evaluation details of variable %q", name)
	}
	cost := details.ActualCost()
	if cost == nil {
		return types.NewErr("unable to calculate cost of variable %q", name)
	}
	r.spent += int64(min(*cost, math.MaxInt32))
	if err != nil {
		return types.NewErr("composited variable %q fails to evaluate: %v", name, err)
	}
	return v
}

func asker(q *admissionv1.AdmissionRequest) user.Info {
	extra := make(map[string][]string, len(q.UserInfo.Extra))
	for k, v := range q.UserInfo.Extra {
		extra[k] = v
	}
	return &user.DefaultInfo{Name: q.UserInfo.Username, UID: q.UserInfo.UID, Groups: q.UserInfo.Groups, Extra: extra}
}

// target is what authorizer.requestResource asks about: the request as it came.
type target struct{ q *admissionv1.AdmissionRequest }

var _ library.Resource = target{}

func (t target) GetName() string        { return t.q.Name }
func (t target) GetNamespace() string   { return t.q.Namespace }
func (t target) GetSubresource() string { return t.q.RequestSubResource }
func (t target) GetResource() schema.GroupVersionResource {
	if r := t.q.RequestResource; r != nil {
		return schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Resource}
	}
	return schema.GroupVersionResource{}
}

// WithKind gives a typed object that bears no kind its kind, in a shallow copy: what is
// behind its pointers is shared. Dynamic objects have theirs.
func WithKind(o runtime.Object, kind schema.GroupVersionKind) runtime.Object {
	if o == nil {
		return nil
	}
	if _, dynamic := o.(*unstructured.Unstructured); dynamic || o.GetObjectKind().GroupVersionKind() == kind {
		return o
	}
	from := reflect.ValueOf(o)
	if from.IsNil() {
		return nil
	}
	to := reflect.New(from.Type().Elem())
	to.Elem().Set(from.Elem())
	c := to.Interface().(runtime.Object)
	c.GetObjectKind().SetGroupVersionKind(kind)
	return c
}
