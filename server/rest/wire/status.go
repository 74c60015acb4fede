package wire

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// StatusOf is the one mapping from errors to what clients see.
func StatusOf(err error) metav1.Status {
	var known apierrors.APIStatus
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &known):
		s := known.Status()
		if s.Code == 0 {
			s.Code = http.StatusInternalServerError
		}
		if s.Status == "" {
			s.Status = metav1.StatusFailure
		}
		return s
	case errors.As(err, &tooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", tooLarge.Limit)).ErrStatus
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return apierrors.NewTimeoutError("request did not complete within requested timeout - "+err.Error(), 0).ErrStatus
	case errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("request did not complete: "+err.Error(), 0).ErrStatus
	}
	return metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
}

// WriteError answers with the error's Status in the format that the client reads.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	status := StatusOf(err)
	media, noFormat := Negotiate(r.Header.Get("Accept"), Offer{Protobuf: true})
	if noFormat != nil {
		media = Media{}
	}
	media = media.PrettyFor(r)
	data, encodeErr := AppendObject(nil, media, &status, StatusGVK())
	if encodeErr != nil {
		http.Error(w, err.Error(), int(status.Code))
		return
	}
	h := w.Header()
	h.Set("Content-Type", media.Format.ContentType())
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Del("Content-Encoding")
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		h.Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	w.WriteHeader(int(status.Code))
	_, _ = w.Write(data) // the client is gone if this fails
}

// NotFound is the 404 of paths and resources that are not served.
func NotFound() error { return generic(http.StatusNotFound) }

// MethodNotAllowed is the 405 of paths that are served by other methods.
func MethodNotAllowed() error { return generic(http.StatusMethodNotAllowed) }

func generic(code int) error {
	e := apierrors.NewGenericServerResponse(code, "", schema.GroupResource{}, "", "", 0, false)
	e.ErrStatus.Details = &metav1.StatusDetails{}
	e.ErrStatus.Message = map[int]string{
		http.StatusNotFound:         "the server could not find the requested resource",
		http.StatusMethodNotAllowed: "the server does not allow this method on the requested resource",
	}[code]
	return e
}
