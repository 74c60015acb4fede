// Package report is the one writer of Pod.status on a node. It writes only what
// differs from what the server has, keeps the order of a pod's statuses, skips
// those that were replaced before they could be written, and tries again when
// the server cannot be reached. Start reading at Writer.Set.
package report

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/pods/status"
	"orch/api"
	"orch/api/client"
)

const (
	firstRetry = 50 * time.Millisecond
	maxRetry   = 10 * time.Second
	// parallel bounds the writes under way: enough to share the store's fsyncs.
	parallel = 32
)

// Writer writes statuses of pods. Its goroutines end with the context of New.
type Writer struct {
	ctx    context.Context
	client *client.Client
	log    *slog.Logger
	slots  chan struct{}
	// closed stands for an entry without work.
	closed chan struct{}

	mu   sync.Mutex
	pods map[types.UID]*entry
}

// entry is one pod. It exists from the first Set to Forget.
type entry struct {
	namespace, name string
	// pending is the newest status that was not written yet.
	pending *core.PodStatus
	// written is the object as the server answered the last write.
	written *core.Pod
	// idle is open while a goroutine writes; closed when all is written.
	idle chan struct{}
}

// New returns a Writer that works until ctx ends.
func New(ctx context.Context, c *client.Client, log *slog.Logger) *Writer {
	w := &Writer{ctx: ctx, client: c, log: log, slots: make(chan struct{}, parallel), closed: make(chan struct{}), pods: map[types.UID]*entry{}}
	close(w.closed)
	return w
}

// Set makes s the status of the pod, soon. It does not block.
func (w *Writer) Set(pod *core.Pod, s core.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[pod.UID]
	if e == nil {
		e = &entry{namespace: pod.Namespace, name: pod.Name, idle: w.closed}
		w.pods[pod.UID] = e
	}
	e.pending = &s
	if e.idle == w.closed {
		e.idle = make(chan struct{})
		go w.work(pod.UID, e, e.idle)
	}
}

// Wait returns once everything set for the pod is written, or ctx ends.
func (w *Writer) Wait(ctx context.Context, uid types.UID) {
	w.mu.Lock()
	e := w.pods[uid]
	w.mu.Unlock()
	if e == nil {
		return
	}
	w.mu.Lock()
	idle := e.idle
	w.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// Forget drops a pod that is gone.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

// work writes until nothing is pending.
func (w *Writer) work(uid types.UID, e *entry, idle chan struct{}) {
	retry := firstRetry
	for {
		w.mu.Lock()
		s := e.pending
		if s == nil || w.pods[uid] != e || w.ctx.Err() != nil {
			e.idle = w.closed
			w.mu.Unlock()
			close(idle)
			return
		}
		e.pending = nil
		w.mu.Unlock()

		err := w.write(uid, e, s)
		if err == nil {
			retry = firstRetry
			continue
		}
		if w.ctx.Err() != nil {
			continue // ends above
		}
		w.log.Warn("writing a pod's status failed", "namespace", e.namespace, "pod", e.name, "err", err)
		w.mu.Lock()
		if e.pending == nil {
			e.pending = s
		}
		w.mu.Unlock()
		select {
		case <-w.ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, maxRetry)
	}
}

// write brings one status to the server. A conflict is settled here: others
// write conditions of their own, which are kept.
func (w *Writer) write(uid types.UID, e *entry, s *core.PodStatus) error {
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-w.ctx.Done():
		return nil
	}
	base := newer(client.Cached(w.client, api.Pods, e.namespace, e.name), e.written)
	for attempt := 0; ; attempt++ {
		if base == nil || base.UID != uid {
			return nil
		}
		merged := Merge(base.Status, *s)
		if equality.Semantic.DeepEqual(merged, base.Status) {
			return nil
		}
		pod := base.DeepCopy()
		pod.Status = merged
		answer, err := client.UpdateStatus(w.ctx, w.client, api.Pods, pod)
		switch {
		case err == nil:
			e.written = answer
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err) || attempt > 5:
			return err
		}
		base, err = client.Get(w.ctx, w.client, api.Pods, e.namespace, e.name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// newer picks the later of two states of one pod.
func newer(cached, written *core.Pod) *core.Pod {
	if cached == nil || written == nil || cached.UID != written.UID {
		return cached
	}
	a, errA := strconv.ParseInt(cached.ResourceVersion, 10, 64)
	b, errB := strconv.ParseInt(written.ResourceVersion, 10, 64)
	if errA == nil && errB == nil && b > a {
		return written
	}
	return cached
}

// Merge puts the agent's part of a status into the server's.
func Merge(server, agent core.PodStatus) core.PodStatus {
	s := *server.DeepCopy()
	s.Phase, s.Reason, s.Message = agent.Phase, agent.Reason, agent.Message
	s.HostIP, s.HostIPs, s.PodIP, s.PodIPs = agent.HostIP, agent.HostIPs, agent.PodIP, agent.PodIPs
	s.StartTime, s.ObservedGeneration = agent.StartTime, agent.ObservedGeneration
	s.InitContainerStatuses, s.ContainerStatuses = agent.InitContainerStatuses, agent.ContainerStatuses
	s.EphemeralContainerStatuses = agent.EphemeralContainerStatuses
	if agent.QOSClass != "" {
		s.QOSClass = agent.QOSClass
	}
	s.Conditions = slices.DeleteFunc(s.Conditions, func(have core.PodCondition) bool { return status.Passing(have.Type) })
	for _, c := range agent.Conditions {
		i := slices.IndexFunc(s.Conditions, func(have core.PodCondition) bool { return have.Type == c.Type })
		switch {
		case !status.Owned(c.Type):
		case i < 0:
			s.Conditions = append(s.Conditions, c)
		case c.Type == core.PodScheduled && s.Conditions[i].Status == c.Status:
			s.Conditions[i].ObservedGeneration = c.ObservedGeneration // the rest is as it was when the pod was bound
		default:
			s.Conditions[i] = c
		}
	}
	return s
}
