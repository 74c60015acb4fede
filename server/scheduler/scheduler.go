// Package scheduler is the loop around placement: it keeps the cluster value in
// step with the API, takes pending pods in order of priority, asks placement, and
// binds. One goroutine owns cluster and queue; binding and status writes
// run beside it in a bounded number of goroutines. A pod counts on its node from the
// decision on (assumed), and stops counting if the binding fails. Start at Run.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"time"

	core "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"orch/api"
	"orch/api/client"
	"orch/server/placement"
	"orch/server/placement/devices"
)

// maxWrites bounds the bindings and status writes under way.
const maxWrites = 64

// Events records what happened to an object; *events.Recorder does.
type Events interface {
	Event(obj runtime.Object, eventType, reason, format string, args ...any)
}

// Config of a Scheduler.
type Config struct {
	// Client acts as the scheduler; its cache holds pods, nodes, namespaces, disruption
	// budgets, and the kinds of resource.k8s.io.
	Client *client.Client
	Events Events
	// Name of the scheduler that pods ask for; empty: default-scheduler.
	Name string
	Log  *slog.Logger
}

// Scheduler binds pods to nodes.
type Scheduler struct {
	cfg     Config
	inbox   *inbox
	cluster *placement.Cluster
	queue   *queue
	// known maps pods by name to the UID that is counted or queued for it.
	known map[types.NamespacedName]types.UID
	// assumed pods are counted although the cache does not show their node yet.
	assumed map[types.UID]bool
	// nominated pods wait for victims on a node; less important pods leave room for them.
	nominated map[types.UID]nomination
	// waiting pods are bound once their devices are ready; due is when to look at them at
	// the latest (zero: never), review asks for it now.
	waiting map[types.UID]attempt
	due     time.Time
	review  bool
	writes  chan struct{} // a token per write under way
	numbers *numbers
}

type nomination struct {
	pod  *placement.Pod
	node string
}

// New checks the configuration.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Client == nil || cfg.Events == nil {
		return nil, fmt.Errorf("making the scheduler: client or events missing")
	}
	if cfg.Name == "" {
		cfg.Name = api.DefaultSchedulerName
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Scheduler{cfg: cfg, inbox: newInbox(), cluster: placement.NewCluster(), queue: newQueue(),
		known: map[types.NamespacedName]types.UID{}, assumed: map[types.UID]bool{}, nominated: map[types.UID]nomination{}, waiting: map[types.UID]attempt{},
		writes: make(chan struct{}, maxWrites), numbers: newNumbers()}, nil
}

// watched are the kinds that decisions depend on.
var watched = []*api.Facts{api.Nodes.Facts, api.Namespaces.Facts, api.ResourceSlices.Facts, api.DeviceClasses.Facts,
	api.DeviceTaintRules.Facts, api.ResourceClaims.Facts, api.Pods.Facts}

// Run schedules until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	for _, kind := range watched {
		if err := s.cfg.Client.Subscribe(ctx, kind, s.inbox.changed(kind)); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("watching %s: %w", kind.Plural, err)
		}
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		s.update(time.Now())
		s.bindReady(ctx, time.Now())
		if p := s.queue.pop(time.Now()); p != nil {
			s.schedule(ctx, p)
			continue
		}
		timer.Stop()
		at, ok := s.queue.next()
		if !s.due.IsZero() && (!ok || s.due.Before(at)) {
			at, ok = s.due, true
		}
		if ok {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
		case <-s.inbox.signal:
		case <-timer.C:
		}
	}
	for range maxWrites { // wait for the writes under way
		s.writes <- struct{}{}
	}
	return nil
}

// update brings cluster and queue up to the cache.
func (s *Scheduler) update(now time.Time) {
	names, outcomes := s.inbox.take()
	wake := nobody
	for _, n := range names {
		key := types.NamespacedName{Namespace: n.namespace, Name: n.name}
		switch n.kind {
		case api.Nodes.Facts:
			wake |= s.updateNode(n.name)
		case api.Namespaces.Facts:
			s.updateNamespace(n.name)
		case api.Pods.Facts:
			wake |= s.updatePod(key, now)
		case api.ResourceClaims.Facts:
			wake |= s.updateClaim(key, now)
		default:
			wake |= s.updateDevices(n)
		}
	}
	for _, o := range outcomes {
		wake |= s.ended(o, now)
	}
	if wake != nobody {
		s.queue.wake(now, wake)
	}
}

// updateNode reports who may fit now.
func (s *Scheduler) updateNode(name string) concern {
	n := client.Cached(s.cfg.Client, api.Nodes, "", name)
	old := s.cluster.Node(name)
	if n == nil {
		s.cluster.RemoveNode(name)
		return nobody
	}
	changed := old == nil || !apiequality.Semantic.DeepEqual(old.Status.Allocatable, n.Status.Allocatable) ||
		!apiequality.Semantic.DeepEqual(old.Labels, n.Labels) || !apiequality.Semantic.DeepEqual(old.Spec, n.Spec)
	s.cluster.SetNode(n)
	if changed {
		return everybody
	}
	return nobody
}

func (s *Scheduler) updateNamespace(name string) {
	if ns := client.Cached(s.cfg.Client, api.Namespaces, "", name); ns != nil {
		s.cluster.SetNamespace(name, labels.Set(ns.Labels))
	} else {
		s.cluster.SetNamespace(name, nil)
	}
}

// updatePod reports who may fit now.
func (s *Scheduler) updatePod(key types.NamespacedName, now time.Time) (wake concern) {
	p := client.Cached(s.cfg.Client, api.Pods, key.Namespace, key.Name)
	if old, ok := s.known[key]; ok && (p == nil || p.UID != old) {
		s.forget(old)
		delete(s.known, key)
		wake = everybody
	}
	switch {
	case p == nil:
	case p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed:
		if _, ok := s.known[key]; !ok {
			return wake // ended before, only its status goes on changing
		}
		s.forget(p.UID)
		delete(s.known, key)
		return everybody
	case p.Spec.NodeName != "":
		return wake | s.count(key, p)
	case s.wants(p):
		s.known[key] = p.UID
		if e := s.queue.pods[p.UID]; e == nil || needsAnotherTry(e.Pod.Pod, p) {
			s.queue.put(placement.NewPod(p), now)
		}
	case s.gated(p):
		s.known[key] = p.UID
		s.queue.gate(p.UID)
	case !s.assumed[p.UID]: // being deleted
		s.queue.remove(p.UID)
	}
	return wake
}

// count puts a bound pod on its node, unless it stands there as it is.
func (s *Scheduler) count(key types.NamespacedName, p *core.Pod) concern {
	s.known[key] = p.UID
	s.queue.remove(p.UID)
	delete(s.nominated, p.UID)
	old := s.cluster.Pod(p.UID)
	if old != nil && !s.assumed[p.UID] && !old.Unnamed() && old.Generation == p.Generation && maps.Equal(old.Labels, p.Labels) {
		return nobody // a change of status
	}
	delete(s.assumed, p.UID)
	s.cluster.AddPod(placement.NewPod(p), p.Spec.NodeName)
	if old != nil && old.Unnamed() {
		return social | deviceful
	}
	return social
}

// wants: the pod is ours to place and may be placed now.
func (s *Scheduler) wants(p *core.Pod) bool {
	return p.Spec.SchedulerName == s.cfg.Name && p.DeletionTimestamp == nil && len(p.Spec.SchedulingGates) == 0 && !s.assumed[p.UID]
}

// gated: the pod is ours, but not to be placed before somebody takes its gates away.
func (s *Scheduler) gated(p *core.Pod) bool {
	return p.Spec.SchedulerName == s.cfg.Name && p.DeletionTimestamp == nil && len(p.Spec.SchedulingGates) > 0
}

// needsAnotherTry: something that placement looks at differs; of the status only which
// claims the pod has.
func needsAnotherTry(old, new *core.Pod) bool {
	return !apiequality.Semantic.DeepEqual(old.Labels, new.Labels) || !apiequality.Semantic.DeepEqual(old.Spec, new.Spec) ||
		!resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, new.Status.ResourceClaimStatuses)
}

func (s *Scheduler) forget(uid types.UID) {
	s.queue.remove(uid)
	s.cluster.RemovePod(uid)
	delete(s.assumed, uid)
	delete(s.nominated, uid)
	delete(s.waiting, uid)
}

// schedule decides about one pod and starts the write that follows.
func (s *Scheduler) schedule(ctx context.Context, p *pending) {
	began := time.Now()
	d := s.place(p)
	if d.Node != "" {
		s.assumed[p.UID] = true
		s.cluster.Devices.Assume(p.UID, d.Grant)
		pod := p.Pod
		if d.Units != nil {
			pod = pod.With(d.Units)
		}
		s.cluster.AddPod(pod, d.Node)
		attempt := attempt{pending: p, number: p.attempts, began: began, decision: d}
		s.write(func() { s.inbox.ended(s.bind(ctx, attempt)) })
		return
	}
	if errors.Is(d.Early, resourceclaim.ErrClaimNotFound) || errors.Is(d.Early, devices.ErrUnderWay) { // it will not be long
		s.queue.wait(p, time.Now())
		return
	}
	result, aside := noNode, s.queue.failed
	if d.Err != nil {
		result, aside = failed, s.queue.retry
	}
	now := s.unplaced(ctx, p, d)
	s.numbers.attempt(result, now.Sub(began))
	// Who keeps the loop busy for long waits much longer: others are to be placed too.
	aside(p, now.Add(max(backoff(p.attempts), min(penalty*now.Sub(began), mostPenalty))))
}

// attempt is one try to place a pod, as the loop saw it: pending's own fields go on
// changing.
type attempt struct {
	*pending
	number   int
	began    time.Time
	decision placement.Decision
	// reserved is what was written for the pod, which waits for its devices now; nil before.
	reserved *reservation
	// hopeless is why it waits in vain; nil if it does not.
	hopeless error
}

// place asks placement with the room of more important nominated pods taken.
func (s *Scheduler) place(p *pending) placement.Decision {
	for uid, n := range s.nominated {
		// One that is being bound counts already, with the devices that it gets.
		if uid != p.UID && !s.assumed[uid] && n.pod.Priority() >= p.Priority() {
			defer s.cluster.Reserve(n.pod, n.node, p.Pod)()
		}
	}
	return s.cluster.Place(p.Pod, rand.IntN)
}

// write runs f beside the loop, waiting while too many are under way.
func (s *Scheduler) write(f func()) {
	s.writes <- struct{}{}
	go func() {
		defer func() { <-s.writes }()
		f()
	}()
}
