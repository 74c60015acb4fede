package webhooks

import (
	"encoding/json"
	"fmt"
	"reflect"

	admissionv1 "k8s.io/api/admission/v1"
	authn "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/server/expression"
	"orch/server/registry"
)

// views shows one request's objects in the versions that hooks ask for, each made once.
type views struct {
	w    *Webhooks
	a    *registry.Attributes
	made map[*api.Facts]*view
}

func (w *Webhooks) views(a *registry.Attributes) *views {
	return &views{w: w, a: a, made: map[*api.Facts]*view{}}
}

// view is the request's objects in one version. Objects bear no kind where they are typed.
type view struct {
	kind        schema.GroupVersionKind
	object, old runtime.Object
	asJSON      []byte // the object's, once it was needed
	oldJSON     []byte
	ready       bool
	asked       *expression.Request
}

// as gives the view of a kind that is the request's or equivalent to it.
func (v *views) as(f *api.Facts) (*view, error) {
	if made := v.made[f]; made != nil {
		return made, nil
	}
	own := v.a.Kind()
	made := &view{kind: own, object: present(v.a.Object), old: present(v.a.Old)}
	if f != v.a.Resource.Facts && own == v.a.Resource.GVK() { // a subresource's own body has one version
		made.kind = f.GVK()
		for _, o := range []*runtime.Object{&made.object, &made.old} {
			if *o == nil {
				continue
			}
			c, err := v.w.cfg.Registry.Convert((*o).(api.Object), v.a.Resource.Facts, f)
			if err != nil {
				return nil, err
			}
			*o = c
		}
	}
	v.made[f] = made
	return made, nil
}

// present turns an interface around a nil pointer into nil.
func present(o runtime.Object) runtime.Object {
	if o == nil || reflect.ValueOf(o).IsNil() {
		return nil
	}
	return o
}

// changed forgets the views of an object that is another now.
func (v *views) changed() { clear(v.made) }

// request is the view for match conditions.
func (w *view) request(a *registry.Attributes, as *api.Facts) *expression.Request {
	if w.asked == nil {
		w.asked = &expression.Request{
			Object: expression.WithKind(w.object, w.kind), Old: expression.WithKind(w.old, w.kind), Admission: requestOf(a, w, as),
		}
	}
	return w.asked
}

// encode makes the JSON of the objects, once; a view that is shared was encoded before.
func (w *view) encode() (err error) {
	if w.ready {
		return nil
	}
	if w.asJSON, err = encoded(w.object, w.kind); err == nil {
		w.oldJSON, err = encoded(w.old, w.kind)
	}
	w.ready = err == nil
	return err
}

// encoded is an object in JSON with its kind; nil for none.
func encoded(o runtime.Object, kind schema.GroupVersionKind) ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	b, err := json.Marshal(expression.WithKind(o, kind))
	if err != nil {
		return nil, fmt.Errorf("encoding %s for a webhook: %w", kind.Kind, err)
	}
	return b, nil
}

// requestOf is a review's request but for the objects and the UID.
func requestOf(a *registry.Attributes, w *view, as *api.Facts) *admissionv1.AdmissionRequest {
	own, resource, shown := a.Kind(), a.Resource.GVR(), as.GVR()
	r := &admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind(w.kind), Resource: metav1.GroupVersionResource(shown), SubResource: a.Subresource,
		RequestKind: new(metav1.GroupVersionKind(own)), RequestResource: new(metav1.GroupVersionResource(resource)), RequestSubResource: a.Subresource,
		Name: a.Name, Namespace: namespaceOf(a), Operation: admissionv1.Operation(a.Operation), DryRun: &a.DryRun,
		UserInfo: authn.UserInfo{Username: a.User.Name, UID: a.User.UID, Groups: a.User.Groups},
	}
	if len(a.User.Extra) > 0 {
		r.UserInfo.Extra = make(map[string]authn.ExtraValue, len(a.User.Extra))
		for k, v := range a.User.Extra {
			r.UserInfo.Extra[k] = v
		}
	}
	if a.Options != nil {
		kind := metav1.SchemeGroupVersion.WithKind(reflect.TypeOf(a.Options).Elem().Name())
		r.Options.Object = expression.WithKind(a.Options, kind)
	}
	return r
}
