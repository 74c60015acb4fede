package registry

import (
	"context"
	"fmt"

	autoscaling "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/server/columns"
)

// scaleOf shows an object through its scale subresource.
func (res *Resource) scaleOf(i *Item) *autoscaling.Scale {
	o, h := i.Object(), res.hooks.scale
	return &autoscaling.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
			ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
		},
		Spec:   autoscaling.ScaleSpec{Replicas: h.spec(o)},
		Status: autoscaling.ScaleStatus{Replicas: h.status(o), Selector: h.selector(o)},
	}
}

// scaleMode takes the object as scale made it: the present one with other replicas.
var scaleMode = mode{
	prepare: func(*op, api.Object, api.Object) {},
	validate: func(w *op, o, old api.Object) field.ErrorList {
		if h := w.res.hooks.validateUpdate; h != nil {
			return h(o, old)
		}
		return nil
	},
}

func (w *op) updateScale(ctx context.Context, body runtime.Object) (Result, error) {
	s, ok := body.(*autoscaling.Scale)
	if !ok {
		return Result{}, apierrors.NewBadRequest(fmt.Sprintf("wrong object passed to Scale update: %T", body))
	}
	if err := w.checkTarget(s); err != nil {
		return Result{}, err
	}
	named := s.ResourceVersion != "" && s.ResourceVersion != "0"
	return w.rescale(ctx, named, func(*Item) (*autoscaling.Scale, error) { return s, nil })
}

// ScaleColumns is the Table output of scales.
func ScaleColumns() []Column[autoscaling.Scale] { return columns.Scale() }

func (w *op) patchScale(ctx context.Context, pt types.PatchType, patch []byte, o *metav1.PatchOptions) (Result, error) {
	return w.rescale(ctx, false, func(old *Item) (*autoscaling.Scale, error) {
		now := w.res.scaleOf(old)
		now.SetGroupVersionKind(api.Scales.GVK())
		doc, err := runtime.Encode(unstructured.UnstructuredJSONScheme, &unstructured.Unstructured{Object: mustMap(now)})
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if doc, err = w.r.apply.Patch(pt, doc, patch, api.Scales.Facts); err != nil {
			return nil, patchError(err)
		}
		s := &autoscaling.Scale{}
		return s, w.decodePatched(patchedDoc{pt, doc, patch}, s, o.FieldValidation)
	})
}

// applyScale merges the replicas of an intent. Ownership is recorded on the object.
func (w *op) applyScale(ctx context.Context, intent *unstructured.Unstructured, o *metav1.PatchOptions) (Result, error) {
	n, found, err := unstructured.NestedInt64(intent.Object, "spec", "replicas")
	if err != nil {
		return Result{}, apierrors.NewBadRequest(err.Error())
	}
	owner := w.quiet() // admission sees the Scale
	force := o.Force != nil && *o.Force
	parent := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": w.res.GroupVersion().String(), "kind": w.res.Facts.Kind,
		"metadata": map[string]any{"name": w.q.Name, "namespace": w.q.Namespace},
	}}
	if found {
		parent.Object["spec"] = map[string]any{"replicas": n}
	}
	out, err := owner.retry(ctx, false, func(old *Item) (api.Object, error) {
		obj, err := owner.merged(old.Object(), parent, force)
		if err != nil {
			return nil, err
		}
		s := w.res.scaleOf(old)
		s.Spec.Replicas = w.res.hooks.scale.spec(obj)
		if s, err = w.admitScale(ctx, s, w.res.scaleOf(old)); err != nil {
			return nil, err
		}
		w.res.hooks.scale.setSpec(obj, s.Spec.Replicas)
		return obj, nil
	}, &scaleMode)
	if err != nil {
		return Result{}, err
	}
	return Result{Object: w.res.scaleOf(out.Item)}, nil
}

// admitScale shows admission a Scale and gives it as it comes back.
func (w *op) admitScale(ctx context.Context, s, old *autoscaling.Scale) (*autoscaling.Scale, error) {
	a := w.Attributes
	a.Object, a.Old = s, old
	if err := w.r.Admit(ctx, &a); err != nil {
		return nil, err
	}
	return a.Object.(*autoscaling.Scale), nil
}

func mustMap(s *autoscaling.Scale) map[string]any {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(s)
	if err != nil {
		panic(err) // a Scale is plain data
	}
	return m
}

// rescale is the pipeline of a changed Scale: admission sees the Scale, the store
// the object.
func (w *op) rescale(ctx context.Context, named bool, change func(old *Item) (*autoscaling.Scale, error)) (Result, error) {
	if w.res.hooks.scale == nil {
		return Result{}, apierrors.NewMethodNotSupported(w.res.GroupResource(), "update")
	}
	inner := w.quiet()
	inner.applied = false // who scales owns the replicas
	out, err := inner.retry(ctx, named, func(old *Item) (api.Object, error) {
		now := w.res.scaleOf(old)
		s, err := change(old)
		if err != nil {
			return nil, err
		}
		if s.Name != "" && s.Name != w.q.Name {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", s.Name, w.q.Name))
		}
		if s.Spec.Replicas < 0 {
			return nil, apierrors.NewInvalid(api.Scales.GroupKind(), w.q.Name, field.ErrorList{
				field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0")})
		}
		if s, err = w.admitScale(ctx, s, now); err != nil {
			return nil, err
		}
		obj := old.Object().DeepCopyObject().(api.Object)
		obj.SetResourceVersion(s.ResourceVersion)
		if s.UID != "" {
			obj.SetUID(s.UID)
		}
		w.res.hooks.scale.setSpec(obj, s.Spec.Replicas)
		return obj, nil
	}, &scaleMode)
	if err != nil {
		return Result{}, err
	}
	return Result{Object: w.res.scaleOf(out.Item)}, nil
}
