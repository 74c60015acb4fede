package registry

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/server/apply"
)

// Patch changes an object, or the part of it that a subresource names, by a patch.
// It starts again when somebody else was faster, unless the patch names a
// resourceVersion.
func (r *Registry) Patch(ctx context.Context, q Request, pt types.PatchType, patch []byte, o metav1.PatchOptions) (Result, error) {
	return anew(ctx, r, q, func(q Request, res *Resource) (Result, error) {
		return r.patchOnce(ctx, q, res, patchBody{pt, patch}, o)
	})
}

// patchBody is a patch and its language.
type patchBody struct {
	kind types.PatchType
	data []byte
}

func (r *Registry) patchOnce(ctx context.Context, q Request, res *Resource, p patchBody, o metav1.PatchOptions) (Result, error) {
	pt, patch := p.kind, p.data
	if errs := metavalidation.ValidatePatchOptions(&o, pt); len(errs) > 0 {
		return Result{}, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "PatchOptions"}, "", errs)
	}
	w := r.newOp(&q, res, Update, asUpdateOptions(&o), o.FieldManager)
	w.DryRun = len(o.DryRun) > 0
	if pt == types.ApplyPatchType || pt == types.ApplyYAMLPatchType {
		return w.applyPatch(ctx, patch, &o)
	}
	if q.Subresource == "scale" && res.Scale {
		return w.patchScale(ctx, pt, patch, &o)
	}
	m, err := w.modeFor()
	if err != nil {
		return Result{}, err
	}
	return w.retry(ctx, false, func(old *Item) (api.Object, error) {
		return w.patched(old, pt, patch, o.FieldValidation)
	}, m)
}

// asUpdateOptions are a patch's options as admission sees them: a patch is an update.
func asUpdateOptions(o *metav1.PatchOptions) *metav1.UpdateOptions {
	return &metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
}

// asCreateOptions are the options of an update that turns out to create.
func asCreateOptions(options runtime.Object) runtime.Object {
	o, ok := options.(*metav1.UpdateOptions)
	if !ok {
		return options
	}
	return &metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
}

// patched is the object that the patch makes of old.
func (w *op) patched(old *Item, pt types.PatchType, patch []byte, strictness string) (api.Object, error) {
	doc, err := old.AppendJSON(nil)
	if err != nil {
		return nil, err
	}
	if doc, err = w.r.apply.Patch(pt, doc, patch, w.res.Facts); err != nil {
		return nil, patchError(err)
	}
	obj := w.res.New()
	if err := w.decodePatched(patchedDoc{pt, doc, patch}, obj, strictness); err != nil {
		return nil, err
	}
	if gvk := obj.GetObjectKind().GroupVersionKind(); gvk != w.res.GVK() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the patch changes apiVersion or kind to %s", gvk))
	}
	return obj, w.checkTarget(obj)
}

// patchedDoc is what a patch made, and the patch.
type patchedDoc struct {
	kind       types.PatchType
	doc, patch []byte
}

// decodePatched reads what a patch made, as strictly as the client asked for.
func (w *op) decodePatched(p patchedDoc, into runtime.Object, strictness string) error {
	careful := strictness == metav1.FieldValidationStrict || strictness != metav1.FieldValidationIgnore && w.q.Warn != nil
	strict, err := apply.Decode(p.doc, into, careful)
	if err != nil {
		return p.invalid(p.reason(into, err))
	}
	if careful {
		strict = append(apply.Repeated(p.patch), strict...)
	}
	unknown, err := w.r.Coerce(w.res.Facts, into, careful)
	if err != nil {
		return err
	}
	strict = append(strict, unknownFields(unknown)...)
	switch {
	case len(strict) == 0:
	case strictness == metav1.FieldValidationStrict:
		return p.invalid(runtime.NewStrictDecodingError(strict))
	default:
		for _, e := range strict {
			w.Warn(e.Error())
		}
	}
	return nil
}

// invalid says what is wrong with the outcome. Upstream shows the patch where it was
// a strategic one, as a Go map, and the patched object else.
func (p patchedDoc) invalid(err error) error {
	shown := string(p.doc)
	if p.kind == types.StrategicMergePatchType {
		var m map[string]any
		if json.Unmarshal(p.patch, &m) == nil {
			shown = fmt.Sprintf("%+v", m)
		}
	}
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), shown, err.Error())})
}

// reason words a failure to decode: upstream does not go through JSON with what a
// strategic patch made, and has other words then.
func (p patchedDoc) reason(into runtime.Object, err error) error {
	var m map[string]any
	if p.kind != types.StrategicMergePatchType || json.Unmarshal(p.doc, &m) != nil {
		return err
	}
	fresh := reflect.New(reflect.TypeOf(into).Elem()).Interface()
	if other := runtime.DefaultUnstructuredConverter.FromUnstructured(m, fresh); other != nil {
		return other
	}
	return err
}

// unknownFields words the fields that a schema does not know.
func unknownFields(paths []string) []error {
	var errs []error
	for _, p := range paths {
		errs = append(errs, fmt.Errorf("unknown field %q", p))
	}
	return errs
}

// patchError gives the errors of package apply their status.
func patchError(err error) error {
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status):
		return err
	case errors.Is(err, apply.ErrTooManyOperations), errors.Is(err, apply.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, apply.ErrCannotApply):
		return apierrors.NewGenericServerResponse(422, "", schema.GroupResource{}, "", err.Error(), 0, false)
	case errors.Is(err, apply.ErrUnsupported):
		return plainError(415, metav1.StatusReasonUnsupportedMediaType, err.Error())
	}
	return apierrors.NewBadRequest(err.Error())
}

// applyPatch is server-side apply: it creates what is missing.
func (w *op) applyPatch(ctx context.Context, patch []byte, o *metav1.PatchOptions) (Result, error) {
	intent, strict, err := w.r.apply.ParseIntent(patch)
	if err != nil {
		return Result{}, patchError(err)
	}
	if len(strict) > 0 && o.FieldValidation == metav1.FieldValidationStrict {
		return Result{}, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", errors.Join(strict...)))
	}
	if w.q.Subresource == "scale" && w.res.Scale {
		return w.applyScale(ctx, intent, o)
	}
	m, err := w.modeFor()
	if err != nil {
		return Result{}, err
	}
	if err := w.checkIntent(intent.GetName(), intent.GetNamespace()); err != nil {
		return Result{}, err
	}
	force := o.Force != nil && *o.Force
	named := intent.GetResourceVersion() != ""
	w.applied = true
	if !w.r.exists(w.res, w.q.Namespace, w.q.Name) && m.whole {
		out, err := w.applyNew(ctx, intent, named)
		if !apierrors.IsAlreadyExists(err) {
			return out, err
		}
	}
	return w.retry(ctx, named, func(old *Item) (api.Object, error) {
		return w.merged(old.Object(), intent, force)
	}, m)
}

// applyNew creates the object that an intent describes.
func (w *op) applyNew(ctx context.Context, intent *unstructured.Unstructured, named bool) (Result, error) {
	if named {
		return Result{}, w.notFound()
	}
	obj, err := w.merged(w.res.New(), intent, true)
	if err != nil {
		return Result{}, err
	}
	obj.SetName(w.q.Name)
	return w.createInstead(ctx, obj)
}

// merged is live with the intent worked in.
func (w *op) merged(live api.Object, intent *unstructured.Unstructured, force bool) (api.Object, error) {
	obj, err := w.r.apply.Apply(live, intent, w.by(), force)
	var status apierrors.APIStatus
	if err != nil && !errors.As(err, &status) {
		return nil, plainError(500, metav1.StatusReasonUnknown, err.Error())
	}
	return obj, err
}

func (w *op) checkIntent(name, namespace string) error {
	if name != "" && name != w.q.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, w.q.Name))
	}
	if namespace != "" && namespace != w.q.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace on the URL (%s)", namespace, w.q.Namespace))
	}
	return nil
}
