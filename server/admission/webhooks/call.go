package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admission "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/uuid"

	"orch/server/admission/match"
	"orch/server/webhook"
)

// reviewGroup of the versions of AdmissionReview, which look alike.
const reviewGroup = "admission.k8s.io/"

// maxAnswer bounds a review that comes back: a patch of a large object, and then some.
const maxAnswer = 10 << 20

// callError is a failure to get a good answer, which failurePolicy is about. Status is
// what metrics call it.
type callError struct {
	webhook string
	reason  error
	code    int
}

func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.webhook, e.reason)
}
func (e *callError) Unwrap() error { return e.reason }

// rejection is a webhook's no.
type rejection struct{ *apierrors.StatusError }

// call asks a hook about the request as v shows it. The response is one that may be acted
// on, allowed or not.
func (w *Webhooks) call(ctx context.Context, c *candidate, v *match.View, mutating bool) (*admissionv1.AdmissionResponse, error) {
	ask := v.Review()
	if *ask.DryRun {
		switch s := c.sideEffects; {
		case s == nil:
			return nil, &callError{c.name, errors.New("Webhook SideEffects is nil"), 400} //nolint // upstream's words
		case *s != admission.SideEffectClassNone && *s != admission.SideEffectClassNoneOnDryRun:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", c.name))
		}
	}
	version := ""
	for _, v := range c.versions {
		if v == "v1" || v == "v1beta1" {
			version = v
			break
		}
	}
	if version == "" {
		return nil, &callError{c.name, errors.New("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"), 400}
	}
	uid := uuid.NewUUID()
	object, old, err := v.JSON()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ask.UID, ask.Object, ask.OldObject = uid, runtime.RawExtension{Raw: object}, runtime.RawExtension{Raw: old}
	body, err := json.Marshal(&admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: reviewGroup + version}, Request: ask})
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	to := c.to
	who := w.cfg.Validating
	if mutating {
		who = w.cfg.Mutating
	}
	var answer []byte
	if to.Identity, err = who.For(to.Target()); err == nil {
		answer, err = w.cfg.Client.Call(ctx, webhook.Call{To: to, Body: body, Limit: maxAnswer})
	}
	var out admissionv1.AdmissionReview
	if err == nil {
		err = utiljson.Unmarshal(answer, &out)
	}
	if err != nil {
		code := http.StatusServiceUnavailable
		var status *apierrors.StatusError
		if errors.As(err, &status) {
			code = int(status.ErrStatus.Code)
		}
		return nil, &callError{c.name, fmt.Errorf("failed to call webhook: %w", err), code}
	}
	if err := verify(&out, version, uid, mutating); err != nil {
		return nil, &callError{c.name, fmt.Errorf("received invalid webhook response: %w", err), 503}
	}
	return out.Response, nil
}

// verify checks that an answer is one, as upstream's VerifyAdmissionResponse. The old
// version was never checked for more than being there.
func verify(r *admissionv1.AdmissionReview, version string, uid types.UID, mutating bool) error {
	if r.Response == nil {
		return errors.New("webhook response was absent")
	}
	a := r.Response
	if version == "v1beta1" {
		if !mutating {
			a.Patch, a.PatchType = nil, nil
		}
		if len(a.Patch) > 0 {
			a.PatchType = new(admissionv1.PatchTypeJSONPatch)
		}
		return nil
	}
	want := admissionv1.SchemeGroupVersion.WithKind("AdmissionReview")
	switch got := r.GroupVersionKind(); {
	case a.UID != uid:
		return fmt.Errorf("expected response.uid=%q, got %q", uid, a.UID)
	case got != want:
		return fmt.Errorf("expected webhook response of %v, got %v", want, got)
	case !mutating && len(a.Patch) > 0:
		return errors.New("validating webhook may not return response.patch")
	case !mutating && a.PatchType != nil:
		return errors.New("validating webhook may not return response.patchType")
	case len(a.Patch) > 0 && a.PatchType == nil:
		return errors.New("webhook returned response.patch but not response.patchType")
	case len(a.Patch) == 0 && a.PatchType != nil:
		return errors.New("webhook returned response.patchType but not response.patch")
	case a.PatchType != nil && *a.PatchType == "":
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *a.PatchType)
	}
	return nil
}

// denied words a webhook's no.
func denied(name string, s *metav1.Status) *apierrors.StatusError {
	if s == nil {
		s = &metav1.Status{}
	}
	s.Code = max(s.Code, http.StatusBadRequest)
	if s.Status == "" || s.Status == metav1.StatusSuccess {
		s.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case s.Message != "":
		s.Message = by + ": " + s.Message
	case s.Reason != "":
		s.Message = by + ": " + string(s.Reason)
	default:
		s.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: *s}
}

var (
	callSeconds = webhook.Metric{Name: "apiserver_admission_webhook_admission_duration_seconds",
		Help:    "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
		Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25}}
	calls      = webhook.Metric{Name: "apiserver_admission_webhook_request_total", Help: "Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation."}
	rejections = webhook.Metric{Name: "apiserver_admission_webhook_rejection_count", Help: "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation."}
	failedOpen = webhook.Metric{Name: "apiserver_admission_webhook_fail_open_count", Help: "Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit)."}
)

// asking is one call as metrics see it.
type asking struct {
	kind, operation string
	begin           time.Time
}

// outcome counts a call and says what follows from its error: nil where failing open.
func (w *Webhooks) outcome(ctx context.Context, c *candidate, q asking, err error) error {
	kind, operation, took := q.kind, q.operation, time.Since(q.begin)
	code, rejected, why := 200, err != nil, ""
	var failed *callError
	var no *rejection
	switch {
	case err == nil:
	case errors.As(err, &failed):
		code, rejected, why = failed.code, !c.ignore, "calling_webhook_error"
	case errors.As(err, &no):
		code, why = int(no.ErrStatus.Code), "no_error"
	default:
		code, why = 0, "apiserver_internal_error"
	}
	code = min(code, 600)
	w.numbers.Count(&calls, "name", c.name, "type", kind, "operation", operation, "code", strconv.Itoa(code), "rejected", strconv.FormatBool(rejected))
	w.numbers.Observe(&callSeconds, took, "name", c.name, "type", kind, "operation", operation, "rejected", strconv.FormatBool(rejected))
	if rejected && !errors.Is(err, context.Canceled) {
		w.numbers.Count(&rejections, "name", c.name, "type", kind, "operation", operation, "error_type", why, "rejection_code", strconv.Itoa(code))
	}
	switch {
	case failed == nil && no == nil:
		return err
	case no != nil:
		return no.StatusError
	case !c.ignore:
		return apierrors.NewInternalError(failed)
	case ctx.Err() != nil: // the request's own time is over, not the webhook's
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	w.numbers.Count(&failedOpen, "name", c.name, "type", kind)
	return nil
}
