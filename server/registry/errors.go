package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/datastore"
	"orch/server/registry/cache"
)

// Texts that clients match on.
const (
	conflictMessage        = "the object has been modified; please apply your changes to the latest version and try again"
	versionOnCreateMessage = "resourceVersion should not be set on objects to be created"
	expiredMessage         = "The resourceVersion for the provided list is too old."
	continueExpiredMessage = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter."
	// inconsistentContinueMessage goes with a token for the rest of the list as it is now.
	inconsistentContinueMessage = "The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
		"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk " +
		"was returned and now may show up in the list."
)

// errChanging is the answer to a request whose kind went on changing: see anew.
var errChanging = apierrors.NewTooManyRequests("the definition of this kind has just changed", 1)

// Reasons that apimachinery has no name for.
const reasonInsufficientStorage metav1.StatusReason = "InsufficientStorage"

func notServed(f *api.Facts) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "", f.GroupResource(), "", "404 page not found", 0, true)
}

func contextError(ctx context.Context) error {
	return apierrors.NewTimeoutError(fmt.Sprintf("request did not complete within the allotted timeout: %v", context.Cause(ctx)), 0)
}

func (w *op) notFound() error { return w.r.notFound(w.res, w.q) }

// notFound is the answer for an object that the cache does not have: a value in the
// store that cannot be read is not "not found".
func (r *Registry) notFound(res *Resource, q *Request) error {
	if err := r.cache.Unreadable(res.kind, q.Namespace, q.Name); err != nil {
		return apierrors.NewInternalError(err)
	}
	return apierrors.NewNotFound(res.GroupResource(), q.Name)
}

func (w *op) conflict(name, text string) error {
	return apierrors.NewConflict(w.res.GroupResource(), name, errors.New(text))
}

func (w *op) invalid(name string, errs field.ErrorList) error {
	return apierrors.NewInvalid(w.res.GroupKind(), name, errs)
}

func plainError(code int32, reason metav1.StatusReason, text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: text}}
}

// storeError gives a datastore's error its status. Conflicts are the caller's.
func storeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, datastore.ErrNoSpace):
		return plainError(http.StatusInsufficientStorage, reasonInsufficientStorage,
			"the disk of the datastore is full: the write was refused, reads go on; free some space and try again")
	case errors.Is(err, datastore.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError("the object is larger than the datastore takes")
	case errors.Is(err, datastore.ErrCompacted):
		return apierrors.NewResourceExpired(expiredMessage)
	case errors.Is(err, datastore.ErrFuture):
		return tooLarge(0, 0)
	case errors.Is(err, cache.ErrGone):
		return errChanging
	case errors.Is(err, datastore.ErrClosed), errors.Is(err, cache.ErrStopped):
		return plainError(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "the server is shutting down")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError("request did not complete within the allotted timeout: "+err.Error(), 0)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// tooLarge answers for a revision that this server has not reached, as
// storage.NewTooLargeResourceVersionError does upstream.
func tooLarge(asked, current int64) error {
	e := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	e.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return e
}

// closedError answers creates of a kind whose definition is being deleted.
func closedError(res *Resource) error {
	err := apierrors.NewMethodNotSupported(res.GroupResource(), "create")
	err.ErrStatus.Message = "create not allowed while custom resource definition is terminating"
	return err
}
