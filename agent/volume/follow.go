package volume

import (
	"context"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
	"orch/api/client"
)

// Pauses between attempts to watch an object again, and to renew after an error.
const (
	firstPause = 500 * time.Millisecond
	longPause  = 30 * time.Second
)

// follower knows which objects the mounted volumes are made of. It watches each
// object once, by name, however many pods use it, and remakes the volumes of
// pods whose objects changed or whose tokens are due.
type follower struct {
	volumes *Volumes
	// signal has room for one token: there is something to renew.
	signal chan struct{}

	mu      sync.Mutex
	ctx     context.Context // Run's; nil before
	objects map[reference]*followed
	pods    map[types.UID]*following
	dirty   map[types.UID]bool // pods to renew because an object changed
}

type followed struct {
	users map[types.UID]bool
	// version that a volume was made from last.
	version string
	cancel  context.CancelFunc // nil until watched
}

type following struct {
	uses    []use
	refresh time.Time
	pod     bool // depends on the pod itself
}

func newFollower(v *Volumes) *follower {
	return &follower{volumes: v, signal: make(chan struct{}, 1), objects: map[reference]*followed{}, pods: map[types.UID]*following{}, dirty: map[types.UID]bool{}}
}

// use replaces what a pod's volumes are made of.
func (f *follower) use(uid types.UID, m *mountedPod) {
	next := &following{}
	for _, c := range m.volumes {
		next.uses = append(next.uses, c.uses...)
		next.pod = next.pod || c.pod
		if !c.refresh.IsZero() && (next.refresh.IsZero() || c.refresh.Before(next.refresh)) {
			next.refresh = c.refresh
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.pods[uid]
	f.pods[uid] = next
	for _, u := range next.uses {
		o := f.objects[u.reference]
		if o == nil {
			o = &followed{users: map[types.UID]bool{}}
			f.objects[u.reference] = o
			f.watchLocked(u.reference, o)
		}
		o.users[uid] = true
		o.version = u.version
	}
	if old != nil {
		f.releaseLocked(uid, old.uses, next.uses)
	}
	f.ring()
}

func (f *follower) drop(uid types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.pods[uid]; old != nil {
		delete(f.pods, uid)
		delete(f.dirty, uid)
		f.releaseLocked(uid, old.uses, nil)
	}
}

func (f *follower) releaseLocked(uid types.UID, old, keep []use) {
	kept := map[reference]bool{}
	for _, u := range keep {
		kept[u.reference] = true
	}
	for _, u := range old {
		r := u.reference
		o := f.objects[r]
		if kept[r] || o == nil {
			continue
		}
		delete(o.users, uid)
		if len(o.users) == 0 {
			delete(f.objects, r)
			if o.cancel != nil {
				o.cancel()
			}
		}
	}
}

func (f *follower) ring() {
	select {
	case f.signal <- struct{}{}:
	default:
	}
}

// watchLocked starts the object's watch once Run runs.
func (f *follower) watchLocked(r reference, o *followed) {
	if f.ctx == nil || o.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(f.ctx)
	o.cancel = cancel
	go f.watch(ctx, r)
}

// watch marks the users of an object whenever it changes. Each watch begins with
// the object's present state, so nothing is missed between two of them; a version
// that the volumes were made from already counts for nothing.
func (f *follower) watch(ctx context.Context, r reference) {
	pause := firstPause
	for ctx.Err() == nil {
		o := metav1.ListOptions{FieldSelector: r.selector, AllowWatchBookmarks: true}
		if o.FieldSelector == "" {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", r.name).String()
		}
		w, err := f.volumes.client.Watch(ctx, client.Target{Kind: r.kind, Namespace: r.namespace}, o)
		if err == nil {
			pause = firstPause
			f.read(ctx, r, w)
			w.Stop()
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		pause = min(2*pause, longPause)
	}
}

func (f *follower) read(ctx context.Context, r reference, w watch.Interface) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return
			}
			if o, isObject := e.Object.(api.Object); isObject && e.Type != watch.Bookmark {
				f.changed(r, o.GetResourceVersion())
			}
		}
	}
}

func (f *follower) changed(r reference, version string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[r]
	if o == nil || o.version == version {
		return
	}
	o.version = version
	for uid := range o.users {
		f.dirty[uid] = true
	}
	f.ring()
}

// podChanged marks pods whose labels or annotations show in a volume.
func (f *follower) podChanged(c client.Change) {
	if c.Old == nil || c.New == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pods[c.New.GetUID()]; p != nil && p.pod {
		f.dirty[c.New.GetUID()] = true
		f.ring()
	}
}

// current is the newest version of the pod that the cache has.
func (v *Volumes) current(pod *core.Pod) *core.Pod {
	if p := client.Cached(v.client, api.Pods, pod.Namespace, pod.Name); p != nil && p.UID == pod.UID {
		return p
	}
	return pod
}

// Run keeps content up to date until ctx ends.
func (v *Volumes) Run(ctx context.Context) error {
	if err := v.client.Subscribe(ctx, api.Pods.Facts, v.follower.podChanged); err != nil {
		return err
	}
	f := v.follower
	f.mu.Lock()
	f.ctx = ctx
	for r, o := range f.objects {
		f.watchLocked(r, o)
	}
	f.mu.Unlock()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Stop()
		if at := f.next(); !at.IsZero() {
			timer.Reset(max(0, at.Sub(v.now())))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.signal:
		case <-timer.C:
		}
		f.renewDue(ctx)
	}
}

// next is the earliest time at which a token is due; zero if none is.
func (f *follower) next() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	var at time.Time
	for _, p := range f.pods {
		if !p.refresh.IsZero() && (at.IsZero() || p.refresh.Before(at)) {
			at = p.refresh
		}
	}
	return at
}

func (f *follower) renewDue(ctx context.Context) {
	now := f.volumes.now()
	f.mu.Lock()
	var due []types.UID
	for uid, p := range f.pods {
		if f.dirty[uid] || (!p.refresh.IsZero() && !p.refresh.After(now)) {
			due = append(due, uid)
			delete(f.dirty, uid) // before it is renewed: what changes meanwhile counts again
		}
	}
	f.mu.Unlock()
	for _, uid := range due {
		err := f.volumes.renew(ctx, uid)
		f.mu.Lock()
		if p := f.pods[uid]; err != nil && p != nil {
			p.refresh = now.Add(longPause) // try again then
		}
		f.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			f.volumes.log.Warn("keeping volumes up to date failed", "pod", uid, "err", err)
		}
	}
}
