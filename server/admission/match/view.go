package match

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	authn "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
	"orch/server/expression"
	"orch/server/registry"
)

// Matcher makes Requests. It is safe for parallel use.
type Matcher struct {
	Cache    client.Cache
	Registry *registry.Registry

	mu    sync.Mutex
	since <-chan struct{} // the table of kinds that known is about
	known map[place][]*registry.Resource
}

type place struct {
	kind *api.Facts
	sub  string
}

// equivalent remembers which kinds show the same objects, as long as the table of kinds stays.
func (m *Matcher) equivalent(f *api.Facts, sub string) []*registry.Resource {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.Registry.Changed(); now != m.since {
		m.since, m.known = now, map[place][]*registry.Resource{}
	}
	list, ok := m.known[place{f, sub}]
	if !ok {
		list = m.Registry.Equivalent(f, sub)
		m.known[place{f, sub}] = list
	}
	return list
}

// Request is one request on its way through policies. It is for one goroutine.
type Request struct {
	A    *registry.Attributes
	m    *Matcher
	made map[*api.Facts]*View
}

// Request begins with the attributes as they are; see Changed.
func (m *Matcher) Request(a *registry.Attributes) *Request {
	return &Request{A: a, m: m, made: map[*api.Facts]*View{}}
}

// Name is the object's as the request has it: whoever deletes a collection names none, and
// each object of it is shown without, as upstream does.
func (r *Request) Name() string {
	if r.A.Verb == "deletecollection" {
		return ""
	}
	return r.A.Name
}

// Changed forgets the views: the object is another now.
func (r *Request) Changed() { clear(r.made) }

// View is the request's objects in one version. Typed objects bear no kind.
type View struct {
	As          *api.Facts
	Kind        schema.GroupVersionKind
	Object, Old runtime.Object
	request     *Request
	asked       *expression.Request
	json        *encoded
}

// encoded are the objects in JSON, with their kind; nil for none.
type encoded struct{ object, old []byte }

// As gives the view of a kind that is the request's or equivalent to it.
func (r *Request) As(f *api.Facts) (*View, error) {
	if v := r.made[f]; v != nil {
		return v, nil
	}
	own := r.A.Kind()
	v := &View{As: f, Kind: own, Object: present(r.A.Object), Old: present(r.A.Old), request: r}
	if f != r.A.Resource.Facts && own == r.A.Resource.GVK() { // a subresource's own body has one version
		v.Kind = f.GVK()
		for _, o := range []*runtime.Object{&v.Object, &v.Old} {
			if *o == nil {
				continue
			}
			c, err := r.m.Registry.Convert((*o).(api.Object), r.A.Resource.Facts, f)
			if err != nil {
				return nil, err
			}
			*o = c
		}
	}
	r.made[f] = v
	return v, nil
}

// Whole tells whether the view is of the kind itself, not of a subresource's own body.
func (v *View) Whole() bool { return v.Kind == v.As.GVK() }

// Subresource is the request's.
func (v *View) Subresource() string { return v.request.A.Subresource }

// present turns an interface around a nil pointer into nil.
func present(o runtime.Object) runtime.Object {
	if o == nil || reflect.ValueOf(o).IsNil() {
		return nil
	}
	return o
}

// Expression is the view for expressions.
func (v *View) Expression() *expression.Request {
	if v.asked == nil {
		v.asked = &expression.Request{
			Object: expression.WithKind(v.Object, v.Kind), Old: expression.WithKind(v.Old, v.Kind), Admission: v.Review(),
		}
	}
	return v.asked
}

// Taken makes another object the view's; the request stays as it is.
func (v *View) Taken(o runtime.Object) { v.Object, v.asked, v.json = o, nil, nil }

// JSON is the objects with their kind, encoded once. A view that was encoded may be read by
// many at once.
func (v *View) JSON() (object, old []byte, err error) {
	if v.json == nil {
		e := &encoded{}
		if e.object, err = encode(v.Object, v.Kind); err == nil {
			e.old, err = encode(v.Old, v.Kind)
		}
		if err != nil {
			return nil, nil, err
		}
		v.json = e
	}
	return v.json.object, v.json.old, nil
}

func encode(o runtime.Object, kind schema.GroupVersionKind) ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	b, err := json.Marshal(expression.WithKind(o, kind))
	if err != nil {
		return nil, fmt.Errorf("encoding %s for admission: %w", kind.Kind, err)
	}
	return b, nil
}

// Review is an admission review's request but for the objects and the UID.
func (v *View) Review() *admissionv1.AdmissionRequest {
	a := v.request.A
	out := &admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(v.Kind), Resource: metav1.GroupVersionResource(v.As.GVR()), SubResource: a.Subresource,
		RequestKind: new(metav1.GroupVersionKind(a.Kind())), RequestResource: new(metav1.GroupVersionResource(a.Resource.GVR())), RequestSubResource: a.Subresource,
		Name: v.request.Name(), Namespace: v.request.Namespace(), Operation: admissionv1.Operation(a.Operation), DryRun: &a.DryRun,
		UserInfo: authn.UserInfo{Username: a.User.Name, UID: a.User.UID, Groups: a.User.Groups},
	}
	if len(a.User.Extra) > 0 {
		out.UserInfo.Extra = make(map[string]authn.ExtraValue, len(a.User.Extra))
		for k, s := range a.User.Extra {
			out.UserInfo.Extra[k] = s
		}
	}
	if a.Options != nil {
		out.Options.Object = expression.WithKind(a.Options, metav1.SchemeGroupVersion.WithKind(reflect.TypeOf(a.Options).Elem().Name()))
	}
	return out
}
