package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"orch/api"
	"orch/api/client"
	"orch/server/registry/cache"
)

var (
	_ client.Transport = (*local)(nil)
	_ client.Cache     = (*local)(nil)
)

// Client reaches this registry from the same process, as a user. There is no
// authorization on this way, everything else is as over HTTP. The cache is the
// registry's own.
func (r *Registry) Client(u User) *client.Client {
	l := &local{r: r, user: u, agent: agentOf(u)}
	return &client.Client{Transport: l, Cache: l}
}

// ClientAs is Client of a part that is known by another name than its user's.
func (r *Registry) ClientAs(u User, manager string) *client.Client {
	l := &local{r: r, user: u, agent: manager}
	return &client.Client{Transport: l, Cache: l}
}

// OwnClient is Client for what the server needs to start: see Request.Own.
func (r *Registry) OwnClient(u User) *client.Client {
	l := &local{r: r, user: u, agent: agentOf(u), own: true}
	return &client.Client{Transport: l, Cache: l}
}

// agentOf names the field manager of a component, as upstream's is known: its user without
// the prefix, mostly.
func agentOf(u User) string {
	switch {
	case strings.HasPrefix(u.Name, api.UserNodePrefix):
		return "kubelet"
	case u.Name == api.ServerUser:
		return "kube-apiserver"
	}
	return strings.TrimPrefix(u.Name, "system:")
}

// local is the in-process transport and cache of one user.
type local struct {
	r     *Registry
	user  User
	agent string
	own   bool
}

func (l *local) request(t client.Target) Request {
	return Request{User: l.user, Target: t, UserAgent: l.agent, Own: l.own}
}

func (l *local) Get(ctx context.Context, t client.Target, o metav1.GetOptions) (runtime.Object, error) {
	out, err := l.r.Get(ctx, l.request(t), o)
	return out.Object, err
}

func (l *local) List(ctx context.Context, t client.Target, o metav1.ListOptions) (client.List, error) {
	p, err := l.r.List(ctx, l.request(t), o)
	if err != nil {
		return client.List{}, err
	}
	out := client.List{ResourceVersion: p.ResourceVersion, Continue: p.Continue, Items: make([]api.Object, len(p.Items))}
	for i := range p.Items {
		out.Items[i] = p.Items[i].Object()
	}
	return out, nil
}

func (l *local) Create(ctx context.Context, t client.Target, obj runtime.Object, o metav1.CreateOptions) (runtime.Object, error) {
	out, err := l.r.Create(ctx, l.request(t), obj.DeepCopyObject(), o)
	return out.Object, err
}

func (l *local) Update(ctx context.Context, t client.Target, obj runtime.Object, o metav1.UpdateOptions) (runtime.Object, error) {
	out, err := l.r.Update(ctx, l.request(t), obj.DeepCopyObject(), o)
	return out.Object, err
}

func (l *local) Patch(ctx context.Context, t client.Target, pt types.PatchType, patch []byte, o metav1.PatchOptions) (runtime.Object, error) {
	out, err := l.r.Patch(ctx, l.request(t), pt, patch, o)
	return out.Object, err
}

func (l *local) Delete(ctx context.Context, t client.Target, o metav1.DeleteOptions) (runtime.Object, error) {
	out, err := l.r.Delete(ctx, l.request(t), o)
	if out.Deleted != nil {
		return out.Deleted.Object(), err
	}
	return out.Object, err
}

func (l *local) DeleteCollection(ctx context.Context, t client.Target, d metav1.DeleteOptions, o metav1.ListOptions) error {
	_, err := l.r.DeleteCollection(ctx, l.request(t), d, o)
	return err
}

func (l *local) Watch(ctx context.Context, t client.Target, o metav1.ListOptions) (apiwatch.Interface, error) {
	w, err := l.r.Watch(ctx, l.request(t), o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{out: make(chan apiwatch.Event), cancel: cancel}
	go s.run(ctx, w)
	return s, nil
}

// stream makes an apimachinery watch of ours.
type stream struct {
	out    chan apiwatch.Event
	cancel context.CancelFunc
	once   sync.Once
}

func (s *stream) Stop()                             { s.once.Do(s.cancel) }
func (s *stream) ResultChan() <-chan apiwatch.Event { return s.out }

func (s *stream) run(ctx context.Context, w *Watch) {
	defer close(s.out)
	defer w.Close()
	for {
		events, err := w.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				var status apierrors.APIStatus
				if errors.As(WatchError(err), &status) {
					st := status.Status()
					s.send(ctx, apiwatch.Event{Type: apiwatch.Error, Object: &st})
				}
			}
			return
		}
		for _, e := range events {
			if !s.send(ctx, apiwatch.Event{Type: e.Type, Object: e.Item.Object()}) {
				return
			}
		}
	}
}

func (s *stream) send(ctx context.Context, e apiwatch.Event) bool {
	select {
	case s.out <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// kind panics for a built-in kind that is not in the table: a wiring error. One made at
// run time may have gone a moment ago: that is nil.
func (l *local) kind(f *api.Facts) *cache.Kind {
	switch res := l.r.For(f); {
	case res != nil:
		return res.kind
	case f.Dynamic:
		return nil
	}
	panic(fmt.Sprintf("registry does not serve %s", f.GVR()))
}

// Lookup, Each, Subscribe, Revision and WaitRevision are client.Cache.
func (l *local) Lookup(f *api.Facts, namespace, name string) api.Object {
	k := l.kind(f)
	if k == nil {
		return nil
	}
	i := l.r.cache.Near(k, namespace, name)
	if i == nil {
		return nil
	}
	return i.Object()
}

func (l *local) Each(f *api.Facts, namespace string, each func(api.Object) bool) {
	if k := l.kind(f); k != nil {
		l.r.cache.Each(k, namespace, func(i *Item) bool { return each(i.Object()) })
	}
}

func (l *local) Subscribe(ctx context.Context, f *api.Facts, h func(client.Change)) error {
	if k := l.kind(f); k != nil {
		return l.r.cache.Subscribe(ctx, k, h)
	}
	return client.ErrGone
}

func (l *local) Revision(*api.Facts) int64 { return l.r.cache.Revision() }

func (l *local) WaitRevision(ctx context.Context, _ *api.Facts, revision int64) error {
	return l.r.cache.Wait(ctx, revision)
}
