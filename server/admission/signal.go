package admission

import (
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/server/registry"
)

// signal wakes everybody who waits for a change. Take the channel before looking.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() *signal { return &signal{ch: make(chan struct{})} }

func (s *signal) raise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

// forbid is a refusal in upstream's form: <resource> "<name>" is forbidden: <why>.
func forbid(a *registry.Attributes, format string, args ...any) error {
	return forbidden(a, fmt.Errorf(format, args...))
}

func forbidden(a *registry.Attributes, err error) *apierrors.StatusError {
	return apierrors.NewForbidden(a.Resource.GroupResource(), nameOf(a), err)
}

func nameOf(a *registry.Attributes) string {
	if a.Name != "" {
		return a.Name
	}
	if o, ok := a.Object.(api.Object); ok && o != nil {
		if o.GetName() != "" {
			return o.GetName()
		}
		if o.GetGenerateName() != "" {
			return o.GetGenerateName()
		}
	}
	return "Unknown"
}

// object returns the request's object as T, false if it is not one or the request
// is for a subresource.
func object[T any](a *registry.Attributes) (*T, bool) {
	if a.Subresource != "" {
		return nil, false
	}
	o, ok := any(a.Object).(*T)
	return o, ok && o != nil
}

// old returns what is stored as T, nil for a create.
func old[T any](a *registry.Attributes) *T {
	o, _ := any(a.Old).(*T)
	return o
}

var errNoPod = errors.New("the request is not for a pod")
