package webhooks

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	admissionv1 "k8s.io/api/admission/v1"

	"orch/server/admission/match"
	"orch/server/registry"
)

// Validate asks the validating webhooks, all at once. The first no in their order is
// the answer.
func (w *Webhooks) Validate(ctx context.Context, a *registry.Attributes) error {
	list := w.candidates(a, false)
	if len(list) == 0 {
		return nil
	}
	v := w.matcher.Request(a)
	var wanted []*candidate
	for i := range list {
		ok, err := w.wanted(ctx, &list[i], v, "validate")
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		shown, err := v.As(list[i].as)
		if err == nil {
			_, _, err = shown.JSON() // made here: the calls only read
		}
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		wanted = append(wanted, &list[i])
	}
	if len(wanted) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	answers, errs := make([]*admissionv1.AdmissionResponse, len(wanted)), make([]error, len(wanted))
	var wg sync.WaitGroup
	for i, c := range wanted {
		wg.Go(func() { answers[i], errs[i] = w.validateOne(ctx, c, v, i) })
	}
	wg.Wait()
	for i, r := range answers { // in order, so that clients see the same each time
		if r != nil {
			tell(a, wanted[i], r)
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Webhooks) validateOne(ctx context.Context, c *candidate, v *match.Request, index int) (*admissionv1.AdmissionResponse, error) {
	begin := time.Now()
	shown, failed := v.As(c.as)
	var answer *admissionv1.AdmissionResponse
	if failed == nil {
		answer, failed = w.call(ctx, c, shown, false)
	}
	if failed == nil && !answer.Allowed {
		failed = &rejection{denied(c.name, answer.Result)}
	}
	err := w.outcome(ctx, c, asking{"validating", string(v.A.Operation), begin}, failed)
	if failed != nil && err == nil {
		v.A.Annotate(fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", index), c.name)
	}
	return answer, err
}
