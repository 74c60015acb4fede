package crd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	gvks "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/webhook"
)

// Limits of calls for conversion. A list is converted in batches, one after the other.
const (
	conversionTime  = 30 * time.Second
	batchObjects    = 500
	batchBytes      = 4 << 20
	conversionLimit = 32 << 20 // of one answer
)

// converter asks the webhook of one definition.
type converter struct {
	name     string // the definition's
	to       webhook.Endpoint
	versions []string
	client   *webhook.Client
	numbers  *webhook.Numbers
}

var (
	conversionSeconds = webhook.Metric{Name: "apiserver_crd_conversion_webhook_duration_seconds", Help: "CRD webhook conversion duration in seconds",
		Buckets: []float64{0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384}}
	conversions = webhook.Metric{Name: "apiserver_conversion_webhook_request_total", Help: "Counter for conversion webhook requests with success/failure and failure error type"}
	callSeconds = webhook.Metric{Name: "apiserver_conversion_webhook_duration_seconds", Help: "Conversion webhook request latency",
		Buckets: []float64{0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 45, 60}}
)

// Collector shows the numbers about conversions.
func (c *Controller) Collector() prometheus.Collector { return &c.numbers }

func (c *Controller) converter(d *apiext.CustomResourceDefinition) *converter {
	if !byWebhook(d) || d.Spec.Conversion.Webhook == nil || d.Spec.Conversion.Webhook.ClientConfig == nil {
		return nil
	}
	w := d.Spec.Conversion.Webhook
	out := &converter{name: d.Name, versions: w.ConversionReviewVersions, client: c.Webhooks, numbers: &c.numbers,
		to: webhook.Endpoint{CABundle: string(w.ClientConfig.CABundle)}}
	if u := w.ClientConfig.URL; u != nil {
		out.to.URL = *u
	}
	if s := w.ClientConfig.Service; s != nil {
		out.to.Service = webhook.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Port != nil {
			out.to.Service.Port = *s.Port
		}
		if s.Path != nil {
			out.to.Service.Path = *s.Path
		}
	}
	return out
}

// fromAll gives objects of any of the definition's versions as this one. in is not
// changed; what is of this version already is given as it is. Upstream's texts say what
// went wrong.
func (v *version) fromAll(in []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	out := make([]*unstructured.Unstructured, len(in))
	want := v.gvk().GroupVersion()
	var todo []int
	for n, u := range in {
		switch from := u.GroupVersionKind().GroupVersion(); {
		case from == want:
			out[n] = u
		case v.definition.versions[from.Version] == nil || from.Group != want.Group:
			return nil, conversionError(fmt.Errorf("request to convert CR from an invalid group/version: %s", from))
		case v.definition.converter == nil || len(u.Object) == 2: // nothing but kind and apiVersion
			out[n] = v.from(u)
		default:
			todo = append(todo, n)
		}
	}
	for len(todo) > 0 {
		docs, bytes := make([]runtime.RawExtension, 0, min(len(todo), batchObjects)), 0
		for _, n := range todo {
			b, err := json.Marshal(in[n].Object)
			if err != nil {
				return nil, conversionError(err)
			}
			if len(docs) == batchObjects || len(docs) > 0 && bytes+len(b) > batchBytes {
				break
			}
			docs, bytes = append(docs, runtime.RawExtension{Raw: b}), bytes+len(b)
		}
		batch := todo[:len(docs)]
		todo = todo[len(docs):]
		made, err := v.definition.converter.convert(docs, in[batch[0]].GroupVersionKind(), want)
		if err != nil {
			return nil, conversionError(err)
		}
		for i, n := range batch {
			if err := v.accept(in[n], made[i]); err != nil {
				v.definition.converter.failed("conversion_webhook_invalid_converted_object_failure", 0)
				return nil, conversionError(fmt.Errorf("conversion webhook for %v returned invalid converted object at index %v: %w", in[n].GroupVersionKind(), i, err))
			}
			v.complete(made[i])
			out[n] = made[i]
		}
	}
	return out, nil
}

// conversionError is the answer to who needs the object, as upstream words it.
func conversionError(err error) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) && status == err { //nolint // not a wrapped one
		return err
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}}
}

// review is a ConversionReview of either version, which look alike.
type review struct {
	metav1.TypeMeta `json:",inline"`
	Request         *apiext.ConversionRequest  `json:"request,omitempty"`
	Response        *apiext.ConversionResponse `json:"response,omitempty"`
}

// convert is one call.
func (c *converter) convert(docs []runtime.RawExtension, from gvks.GroupVersionKind, to gvks.GroupVersion) (out []*unstructured.Unstructured, err error) {
	begin := time.Now()
	defer func() {
		c.numbers.Observe(&conversionSeconds, time.Since(begin), "crd_name", c.name, "from_version", from.Version, "to_version", to.Version, "succeeded", strconv.FormatBool(err == nil))
	}()
	version := ""
	for _, v := range c.versions {
		if v == "v1" || v == "v1beta1" {
			version = v
			break
		}
	}
	if version == "" {
		return nil, errors.New("no supported conversion review versions")
	}
	if c.client == nil {
		return nil, errors.New("this server calls no webhooks")
	}
	uid := uuid.NewUUID()
	body, err := json.Marshal(&review{TypeMeta: metav1.TypeMeta{Kind: "ConversionReview", APIVersion: "apiextensions.k8s.io/" + version},
		Request: &apiext.ConversionRequest{UID: uid, DesiredAPIVersion: to.String(), Objects: docs}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), conversionTime)
	defer cancel()
	answer, err := c.client.Call(ctx, webhook.Call{To: c.to, Body: body, Limit: conversionLimit})
	var in review
	if err == nil {
		err = utiljson.Unmarshal(answer, &in)
	}
	if err != nil {
		c.failed("conversion_webhook_call_failure", time.Since(begin))
		return nil, fmt.Errorf("conversion webhook for %v failed: %w", from, err)
	}
	if err := answered(&in, version, uid); err != nil {
		c.failed("conversion_webhook_malformed_response_failure", time.Since(begin))
		return nil, fmt.Errorf("conversion webhook for %v failed: %w", from, err)
	}
	made := in.Response.ConvertedObjects
	if len(made) != len(docs) {
		c.failed("conversion_webhook_partial_response_failure", time.Since(begin))
		return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected %d", from, len(made), len(docs))
	}
	out = make([]*unstructured.Unstructured, len(made))
	for i := range made {
		out[i] = &unstructured.Unstructured{}
		if err := utiljson.Unmarshal(made[i].Raw, &out[i].Object); err != nil {
			c.failed("conversion_webhook_invalid_converted_object_failure", time.Since(begin))
			return nil, fmt.Errorf("conversion webhook for %v returned invalid converted object at index %v: %w", from, i, err)
		}
	}
	c.numbers.Count(&conversions, "result", "success", "failure_type", "")
	c.numbers.Observe(&callSeconds, time.Since(begin), "result", "success", "failure_type", "")
	return out, nil
}

func (c *converter) failed(how string, took time.Duration) {
	c.numbers.Count(&conversions, "result", "failure", "failure_type", how)
	c.numbers.Observe(&callSeconds, took, "result", "failure", "failure_type", how)
}

// answered checks that an answer is one. The old version was never checked for kind and UID.
func answered(r *review, version string, uid types.UID) error {
	want := apiext.SchemeGroupVersion.WithKind("ConversionReview")
	if got := r.GroupVersionKind(); version == "v1" && got != want {
		return fmt.Errorf("expected webhook response of %v, got %v", want, got)
	}
	a := r.Response
	switch {
	case a == nil:
		return errors.New("no response provided")
	case version == "v1" && a.UID != uid:
		return fmt.Errorf("expected response.uid=%q, got %q", uid, a.UID)
	case a.Result.Status == metav1.StatusSuccess:
		return nil
	case a.Result.Message != "":
		return errors.New(a.Result.Message)
	}
	return fmt.Errorf("response.result.status was '%s', not 'Success'", a.Result.Status)
}

// accept checks what came back for an object, and puts back all metadata but labels and
// annotations.
func (v *version) accept(was, is *unstructured.Unstructured) error {
	for _, c := range []struct {
		what      string
		want, got any
	}{
		{"invalid groupVersion (expected %v, received %v)", v.gvk().GroupVersion(), is.GroupVersionKind().GroupVersion()},
		{"invalid kind (expected %v, received %v)", was.GetKind(), is.GetKind()},
		{"must have the same name: %v != %v", was.GetName(), is.GetName()},
		{"must have the same namespace: %v != %v", was.GetNamespace(), is.GetNamespace()},
		{"must have the same UID: %v != %v", was.GetUID(), is.GetUID()},
	} {
		if c.want != c.got {
			return fmt.Errorf(c.what, c.want, c.got)
		}
	}
	given, ok := is.Object["metadata"].(map[string]any)
	if !ok {
		if _, there := is.Object["metadata"]; !there {
			return errors.New("missing metadata in converted object")
		}
		return fmt.Errorf("invalid metadata of type %T in converted object", is.Object["metadata"])
	}
	old, _ := was.Object["metadata"].(map[string]any)
	kept := runtime.DeepCopyJSON(old)
	if kept == nil {
		kept = map[string]any{}
	}
	for _, name := range []string{"labels", "annotations"} {
		if err := takeOver(name, given, kept); err != nil {
			return err
		}
	}
	is.Object["metadata"] = kept
	return nil
}

// takeOver moves labels or annotations of a converted object into the metadata that stays.
func takeOver(name string, given, kept map[string]any) error {
	raw, found := given[name]
	if !found || raw == nil {
		delete(kept, name)
		return nil
	}
	m, ok := raw.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata.%s of type %T in converted object", name, raw)
	}
	texts := make(map[string]string, len(m))
	for k, v := range m {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
		}
		texts[k] = s
	}
	var errs field.ErrorList
	if name == "labels" {
		errs = metavalidation.ValidateLabels(texts, field.NewPath("metadata", "labels"))
	} else {
		errs = apivalidation.ValidateAnnotations(texts, field.NewPath("metadata", "annotation"))
	}
	if len(errs) > 0 {
		return errs.ToAggregate()
	}
	kept[name] = m
	return nil
}

// convert is how server-side apply sees an object in the version that a manager wrote, without
// the fields that this version does not have; nil where there is one version.
func (d *definition) convert() apply {
	if !d.several() {
		return nil
	}
	return func(o *unstructured.Unstructured, to gvks.GroupVersion) (*unstructured.Unstructured, error) {
		v := d.versions[to.Version]
		if v == nil || to.Group != d.group {
			return nil, runtime.NewNotRegisteredErrForKind("orch", to.WithKind(o.GetKind()))
		}
		return v.fromOne(o)
	}
}

// apply is the function that server-side apply takes.
type apply = func(o *unstructured.Unstructured, to gvks.GroupVersion) (*unstructured.Unstructured, error)
