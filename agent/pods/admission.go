package pods

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/pods/status"
)

// admissionPatience is how long a pod waits for others to leave that were deleted by
// force: the scheduler counts what they hold as free from that moment on, the node once
// their containers have ended.
const admissionPatience = 2 * time.Minute

// places are the pods that hold resources of the node.
type places struct {
	mu       sync.Mutex
	admitted map[types.UID]*core.Pod
	// leaving are those of them whose object is gone.
	leaving map[types.UID]bool
	// waiting are asked again when one has left.
	waiting map[types.UID]*worker
}

func newPlaces() places {
	return places{admitted: map[types.UID]*core.Pod{}, leaving: map[types.UID]bool{}, waiting: map[types.UID]*worker{}}
}

// admit decides whether a pod can run. Others are admitted while whoever offers its
// devices thinks about it. later says that it could, were those gone who are leaving.
func (p *Pods) admit(ctx context.Context, w *worker) (v *status.Verdict, later bool) {
	pod := w.pod
	if v, later = p.reserve(w); v != nil || p.Devices == nil {
		return v, later
	}
	err := p.Devices.Prepare(ctx, pod)
	if err == nil || ctx.Err() != nil { // an orch that stops decides nothing: the next one asks again
		return nil, false
	}
	p.release(pod.UID)
	if again := p.Devices.Release(pod.UID); again != nil {
		p.Log.Warn("giving the devices of a rejected pod back failed", "pod", pod.Namespace+"/"+pod.Name, "err", again)
	}
	return unexpected(err), false
}

func unexpected(err error) *status.Verdict {
	return &status.Verdict{Reason: "UnexpectedAdmissionError", Message: "Pod was rejected: " + err.Error()}
}

// reserve gives a pod its place beside those that were admitted before it.
func (p *Pods) reserve(w *worker) (v *status.Verdict, later bool) {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	pod := w.pod
	if v = p.fit(pod, nil); v != nil {
		later = len(p.places.leaving) > 0 && p.fit(pod, p.places.leaving) == nil
	} else if p.Devices != nil {
		if err := p.Devices.Admit(pod); err != nil {
			v, later = unexpected(err), p.leavingHoldLocked()
		}
	}
	switch {
	case later:
		p.places.waiting[pod.UID] = w
	case v == nil:
		p.places.admitted[pod.UID] = pod
	}
	return v, later
}

// fit asks whether the node has room beside those admitted, without some of them.
func (p *Pods) fit(pod *core.Pod, without map[types.UID]bool) *status.Verdict {
	if p.Admit == nil {
		return nil
	}
	var beside []*core.Pod
	for uid, o := range p.places.admitted {
		if !without[uid] {
			beside = append(beside, o)
		}
	}
	return p.Admit(pod, beside)
}

// leavingHoldLocked tells whether devices are about to come back.
func (p *Pods) leavingHoldLocked() bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(p.places.leaving)), func(uid types.UID) bool {
		pod := p.places.admitted[uid]
		return len(p.Devices.Allocated(uid)) > 0 || pod != nil && claims(pod)
	})
}

// enlist counts a pod that runs already; release stops counting one.
func (p *Pods) enlist(pod *core.Pod) {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	p.places.admitted[pod.UID] = pod
}

// leaves notes that a pod's object is gone.
func (p *Pods) leaves(uid types.UID) {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	delete(p.places.waiting, uid)
	if _, ok := p.places.admitted[uid]; ok {
		p.places.leaving[uid] = true
	}
}

// A pod whose containers have all ended gives its devices back before its status says so:
// the scheduler gives them to another one at once.
func (p *Pods) release(uid types.UID) {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	delete(p.places.admitted, uid)
	delete(p.places.leaving, uid)
	if p.Devices != nil {
		if err := p.Devices.Release(uid); err != nil { // taking it off the host tries again
			p.Log.Warn("releasing devices of a pod that has ended failed", "pod", uid, "err", err)
		}
	}
	for _, w := range p.places.waiting {
		w.box.post(func() {})
	}
	clear(p.places.waiting)
}

// unclaim takes a pod off its claims; false if orch stops before.
func (p *Pods) unclaim(ctx context.Context, uid types.UID) bool {
	for retry := partFirstRetry; ; retry = min(2*retry, partMaxRetry) {
		err := p.Devices.ReleaseClaims(ctx, uid)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			p.Log.Warn("giving the claims of a pod that has ended back failed", "pod", uid, "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retry):
		}
	}
}
