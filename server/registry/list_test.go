package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/datastore"
	"orch/datastore/memory"
)

func names(l *List) (out []string) {
	for _, i := range l.Items {
		out = append(out, i.Object().GetName())
	}
	return out
}

func (b *bench) list(o metav1.ListOptions) *List {
	b.Helper()
	l, err := b.List(b.ctx, req(api.ConfigMaps, ""), o)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// TestContinue pages through a list while its content changes: the pages show the
// state of the first.
func TestContinue(t *testing.T) {
	b := start(t)
	for i := range 10 {
		b.createMap(configMap(fmt.Sprintf("c%d", i)))
	}
	l := b.list(metav1.ListOptions{Limit: 4})
	if len(l.Items) != 4 || l.Continue == "" || l.Remaining == nil || *l.Remaining != 6 {
		t.Fatalf("first page: %v %v", names(l), l.Remaining)
	}
	rv := l.ResourceVersion
	if _, err := b.Delete(b.ctx, req(api.ConfigMaps, "c5"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.createMap(configMap("c55"))
	l = b.list(metav1.ListOptions{Limit: 4, Continue: l.Continue})
	if fmt.Sprint(names(l)) != "[c4 c5 c6 c7]" || l.ResourceVersion != rv || *l.Remaining != 2 {
		t.Fatalf("second page: %v at %s, first was at %s", names(l), l.ResourceVersion, rv)
	}
	token := l.Continue
	if l = b.list(metav1.ListOptions{Continue: token}); fmt.Sprint(names(l)) != "[c8 c9]" || l.Continue != "" || l.Remaining != nil {
		t.Fatalf("last page: %v", names(l))
	}
	if err := b.store.Compact(b.ctx, b.store.Revision()); err != nil {
		t.Fatal(err)
	}
	_, err := b.List(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{Continue: token})
	wantStatus(t, err, 410, metav1.StatusReasonExpired, "The provided continue parameter is too old")
	again := err.(apierrors.APIStatus).Status().ListMeta.Continue
	if l = b.list(metav1.ListOptions{Continue: again}); fmt.Sprint(names(l)) != "[c8 c9]" {
		t.Fatalf("inconsistent rest: %v", names(l))
	}
	_, err = b.List(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{Continue: "x!"})
	wantStatus(t, err, 400, metav1.StatusReasonBadRequest, "continue key is not valid")
}

func TestListSelectsAndVersions(t *testing.T) {
	b := start(t)
	var rvs []string
	for i := range 4 {
		o := configMap(fmt.Sprintf("c%d", i))
		o.Labels = map[string]string{"n": strconv.Itoa(i)}
		rvs = append(rvs, b.createMap(o).ResourceVersion)
	}
	tests := []struct {
		name string
		o    metav1.ListOptions
		want string
	}{
		{"all", metav1.ListOptions{}, "[c0 c1 c2 c3]"},
		{"any", metav1.ListOptions{ResourceVersion: "0"}, "[c0 c1 c2 c3]"},
		{"labels", metav1.ListOptions{LabelSelector: "n in (1,2)"}, "[c1 c2]"},
		{"name", metav1.ListOptions{FieldSelector: "metadata.name=c2"}, "[c2]"},
		{"not name", metav1.ListOptions{FieldSelector: "metadata.name!=c2,metadata.namespace=default"}, "[c0 c1 c3]"},
		{"other namespace", metav1.ListOptions{FieldSelector: "metadata.namespace=x"}, "[]"},
		{"exact", metav1.ListOptions{ResourceVersion: rvs[1], ResourceVersionMatch: metav1.ResourceVersionMatchExact}, "[c0 c1]"},
		{"exact by limit", metav1.ListOptions{ResourceVersion: rvs[2], Limit: 100}, "[c0 c1 c2]"},
		{"not older", metav1.ListOptions{ResourceVersion: rvs[1], ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, "[c0 c1 c2 c3]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if l := b.list(tt.o); fmt.Sprint(names(l)) != tt.want {
				t.Errorf("got %v", names(l))
			}
		})
	}
	_, err := b.List(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{FieldSelector: "spec.x=1"})
	wantStatus(t, err, 400, metav1.StatusReasonBadRequest, `"spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"`)
	_, err = b.List(b.ctx, req(api.Pods, ""), metav1.ListOptions{FieldSelector: "spec.x=1"})
	wantStatus(t, err, 400, metav1.StatusReasonBadRequest, `field label not supported: spec.x`)
	ctx, stop := context.WithTimeout(b.ctx, time.Minute)
	defer stop()
	_, err = b.Get(ctx, req(api.ConfigMaps, "c0"), metav1.GetOptions{ResourceVersion: "100000"})
	wantStatus(t, err, 504, metav1.StatusReasonTimeout, "Too large resource version: 100000, current: ")
}

// seen reads n events as "TYPE name".
func seen(t *testing.T, w *Watch, n int) []string {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	var out []string
	for len(out) < n {
		l, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", out, err)
		}
		for _, e := range l {
			s := string(e.Type) + " " + e.Item.Object().GetName()
			if e.Item.Object().GetAnnotations()[`k8s.io/initial-events-end`] == "true" {
				s += "end"
			}
			out = append(out, s)
		}
	}
	return out
}

func TestWatch(t *testing.T) {
	b := start(t)
	first := b.createMap(configMap("a"))
	b.createMap(configMap("b"))
	watch := func(o metav1.ListOptions) *Watch {
		t.Helper()
		w, err := b.Watch(b.ctx, req(api.ConfigMaps, ""), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	state, since := watch(metav1.ListOptions{}), watch(metav1.ListOptions{ResourceVersion: first.ResourceVersion})
	initial := watch(metav1.ListOptions{SendInitialEvents: new(true), ResourceVersionMatch: "NotOlderThan", AllowWatchBookmarks: true})
	selected := watch(metav1.ListOptions{LabelSelector: "in=yes", ResourceVersion: first.ResourceVersion})
	patch := func(p string) {
		t.Helper()
		if _, err := b.Patch(b.ctx, req(api.ConfigMaps, "a"), types.MergePatchType, []byte(p), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch(`{"metadata":{"labels":{"in":"yes"}}}`)
	patch(`{"data":{"x":"y"}}`)
	patch(`{"metadata":{"labels":{"in":"no"}}}`)
	if _, err := b.Delete(b.ctx, req(api.ConfigMaps, "b"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		w    *Watch
		want []string
	}{
		{"state", state, []string{"ADDED a", "ADDED b", "MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED b"}},
		{"since", since, []string{"ADDED b", "MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED b"}},
		{"initial", initial, []string{"ADDED a", "ADDED b", "BOOKMARK end", "MODIFIED a", "MODIFIED a", "MODIFIED a", "DELETED b"}},
		{"selected", selected, []string{"ADDED a", "MODIFIED a", "DELETED a"}},
	} {
		if got := seen(t, tt.w, len(tt.want)); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestWatchOutlivesRestart resumes from before the cache was loaded: out of the
// store's history, going over into live events.
func TestWatchOutlivesRestart(t *testing.T) {
	s := memory.New()
	var from string
	t.Run("before", func(t *testing.T) {
		b := startOn(t, s)
		from = b.createMap(configMap("a")).ResourceVersion
		b.createMap(configMap("b", "k", "v"))
		if _, err := b.Delete(b.ctx, req(api.ConfigMaps, "a"), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	b := startOn(t, s)
	w, err := b.Watch(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{ResourceVersion: from})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b.createMap(configMap("c"))
	want := "[ADDED b DELETED a ADDED c]"
	if got := seen(t, w, 3); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	b = startOn(t, forgetful{s})
	_, err = b.Watch(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{ResourceVersion: from})
	wantStatus(t, err, 410, metav1.StatusReasonExpired, "too old resource version: "+from)
}

func TestWatchEnds(t *testing.T) {
	b := start(t)
	w, err := b.Watch(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{TimeoutSeconds: new(int64(1))})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Next(b.ctx); !errors.Is(err, io.EOF) {
		t.Errorf("at the timeout: %v", err)
	}
}

// TestCacheAgreesWithStore writes from many goroutines and compares a subscriber's
// copy, a watcher's copy and the lists at the end.
func TestCacheAgreesWithStore(t *testing.T) {
	b := start(t)
	c := b.Client(User{Name: api.ControllerUser})
	mirror := map[string]string{} // only the feed's goroutine touches it until the end
	last := int64(0)
	err := c.Subscribe(b.ctx, api.ConfigMaps.Facts, func(ch client.Change) {
		if ch.Revision < last {
			t.Errorf("revision %d after %d", ch.Revision, last)
		}
		last = ch.Revision
		if ch.New == nil {
			delete(mirror, ch.Old.GetName())
			return
		}
		if was := mirror[ch.New.GetName()]; ch.Old != nil && was != ch.Old.GetResourceVersion() {
			t.Errorf("%s changes from %s, seen was %s", ch.New.GetName(), ch.Old.GetResourceVersion(), was)
		}
		mirror[ch.New.GetName()] = ch.New.GetResourceVersion()
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(n), 1))
			for range 300 {
				name := fmt.Sprintf("c%d", rnd.IntN(20))
				switch rnd.IntN(4) {
				case 0:
					_ = client.Delete(b.ctx, c, api.ConfigMaps, "default", name, metav1.DeleteOptions{})
				case 1:
					_, _ = client.Patch(b.ctx, c, api.ConfigMaps, client.Target{Namespace: "default", Name: name}, types.MergePatchType,
						fmt.Appendf(nil, `{"data":{"k":"%d"}}`, rnd.Int()))
				case 2:
					if o := client.Cached(c, api.ConfigMaps, "default", name); o != nil {
						n := o.DeepCopy()
						n.Data = map[string]string{"u": strconv.Itoa(rnd.Int())}
						_, _ = client.Update(b.ctx, c, api.ConfigMaps, n)
					}
				default:
					if o, err := client.Create(b.ctx, c, api.ConfigMaps, configMap(name)); err == nil {
						got := client.Cached(c, api.ConfigMaps, "default", name)
						if got != nil && rev(got) < rev(o) {
							t.Errorf("created %s at %s, read %s", name, o.ResourceVersion, got.ResourceVersion)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	if err := c.WaitRevision(b.ctx, nil, b.store.Revision()); err != nil {
		t.Fatal(err)
	}
	l := b.list(metav1.ListOptions{})
	if len(l.Items) != len(mirror) {
		t.Errorf("list has %d objects, the subscriber %d", len(l.Items), len(mirror))
	}
	for _, i := range l.Items {
		if o := i.Object(); mirror[o.GetName()] != o.GetResourceVersion() {
			t.Errorf("%s: list %s, subscriber %s", o.GetName(), o.GetResourceVersion(), mirror[o.GetName()])
		}
	}
	old := b.list(metav1.ListOptions{ResourceVersion: l.ResourceVersion, ResourceVersionMatch: "Exact"})
	if fmt.Sprint(names(old)) != fmt.Sprint(names(l)) {
		t.Errorf("exact list differs: %v %v", names(old), names(l))
	}
}

func rev(o *core.ConfigMap) int64 {
	n, _ := strconv.ParseInt(o.ResourceVersion, 10, 64)
	return n
}

// TestContinueExpires: a token of a kind that nobody changes expired never, as the page
// comes from memory.
func TestContinueExpires(t *testing.T) {
	b := start(t)
	for i := range 3 {
		b.createMap(configMap(fmt.Sprintf("c%d", i)))
	}
	token := b.list(metav1.ListOptions{Limit: 2}).Continue
	s := must[core.Secret](t)(b.Create(b.ctx, req(api.Secrets, ""), &core.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}}, metav1.CreateOptions{}))
	now, err := strconv.ParseInt(s.ResourceVersion, 10, 64)
	if err == nil {
		err = b.store.Compact(b.ctx, now)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.List(b.ctx, req(api.ConfigMaps, ""), metav1.ListOptions{Limit: 2, Continue: token})
	var status apierrors.APIStatus
	if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.Status().Continue == "" {
		t.Fatalf("a page of a compacted state: %v", err)
	}
	if l := b.list(metav1.ListOptions{Limit: 2, Continue: status.Status().Continue}); fmt.Sprint(names(l)) != "[c2]" {
		t.Errorf("going on: %v", names(l))
	}
}

// forgetful is a store that has compacted everything before it was opened.
type forgetful struct{ *memory.Store }

func (f forgetful) Watch(ctx context.Context, prefix string, after int64) (datastore.Watcher, error) {
	if after < f.Revision() {
		return nil, datastore.ErrCompacted
	}
	return f.Store.Watch(ctx, prefix, after)
}
