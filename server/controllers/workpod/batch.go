package workpod

import (
	"context"
	"sync"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/events"
)

// SlowStart calls do n times, in batches of 1, 2, 4, ... side by side, and stops
// after a batch with a failure: what fails for one pod (quota, admission)
// mostly fails for all. It returns how often do succeeded and the first error.
func SlowStart(n int, do func(i int) error) (int, error) {
	done := 0
	for size := 1; done < n; size *= 2 {
		size = min(size, n-done)
		if err := sideBySide(size, func(i int) error { return do(done + i) }); err.first != nil {
			return done + size - err.count, err.first
		}
		done += size
	}
	return done, nil
}

type failures struct {
	first error
	count int
}

func sideBySide(n int, do func(i int) error) (f failures) {
	if n == 1 {
		if f.first = do(0); f.first != nil {
			f.count = 1
		}
		return f
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := do(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if f.count++; f.first == nil {
					f.first = err
				}
			}
		})
	}
	wg.Wait()
	return f
}

// deleteWidth bounds how many deletions run at a time.
const deleteWidth = 16

// Actor creates and deletes the pods of one object and says so in its events.
type Actor struct {
	Client client.Transport
	Events *events.Recorder
	Owner  api.Object
}

// Create makes n pods, each as pod says, by SlowStart. Where the namespace is being emptied nothing has
// failed: the owner will go as well.
func (a Actor) Create(ctx context.Context, n int, pod func(i int) *core.Pod) (made int, err error) {
	made, err = SlowStart(n, func(i int) error { return a.create(ctx, pod(i)) })
	if apierrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
		err = nil
	}
	return made, err
}

func (a Actor) create(ctx context.Context, p *core.Pod) error {
	made, err := client.Create(ctx, a.Client, api.Pods, p)
	if err != nil {
		if !apierrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
			a.Events.Event(a.Owner, core.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	a.Events.Event(a.Owner, core.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", made.Name)
	return nil
}

// Delete removes the pods; one that is gone already is fine.
func (a Actor) Delete(ctx context.Context, pods []*core.Pod) error {
	for len(pods) > 0 {
		batch := pods[:min(deleteWidth, len(pods))]
		if f := sideBySide(len(batch), func(i int) error { return a.delete(ctx, batch[i]) }); f.first != nil {
			return f.first
		}
		pods = pods[len(batch):]
	}
	return nil
}

func (a Actor) delete(ctx context.Context, p *core.Pod) error {
	uid := p.UID
	err := client.Delete(ctx, a.Client, api.Pods, p.Namespace, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another pod of that name
	}
	if err != nil {
		a.Events.Event(a.Owner, core.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return err
	}
	a.Events.Event(a.Owner, core.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", p.Name)
	return nil
}
