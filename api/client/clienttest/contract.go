// Package clienttest is the contract of client.Transport and client.Cache as a
// test suite: every implementation passes it. Start reading at Run.
package clienttest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
	"orch/api/client"
)

// Namespace is where the suite works; the server under test must have it.
const Namespace = "default"

// Run checks a client of an empty server. Its cache holds ConfigMaps and Pods.
func Run(t *testing.T, c *client.Client) {
	checks := []struct {
		name  string
		check func(*testing.T, *suite)
	}{
		{"create, get, update, delete", checkLife},
		{"errors are status errors", checkErrors},
		{"patches", checkPatches},
		{"lists and pages", checkLists},
		{"watch", checkWatch},
		{"watch from a revision", checkWatchFrom},
		{"watch that streams the content", checkWatchList},
		{"delete a collection", checkDeleteCollection},
		{"cache follows", checkCache},
		{"subscription has no gaps", checkSubscription},
		{"writes are noted and waited for", checkWrites},
		{"what goes in is not changed", checkInputUntouched},
	}
	for i, check := range checks {
		t.Run(check.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			check.check(t, &suite{Client: c, ctx: ctx, prefix: fmt.Sprintf("c%d-", i)})
		})
	}
}

// suite is one check's view: names are made unique by prefix and label.
type suite struct {
	*client.Client
	ctx    context.Context
	prefix string
}

func (s *suite) configMap(name, value string) *core.ConfigMap {
	return &core.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: s.prefix + name, Labels: map[string]string{"check": s.prefix + "x"}},
		Data:       map[string]string{"key": value},
	}
}

func (s *suite) selector() string { return "check=" + s.prefix + "x" }

func (s *suite) target(name string) client.Target {
	t := client.Target{Kind: api.ConfigMaps.Facts, Namespace: Namespace}
	if name != "" {
		t.Name = s.prefix + name
	}
	return t
}

func (s *suite) create(t *testing.T, name, value string) *core.ConfigMap {
	t.Helper()
	cm, err := client.Create(s.ctx, s, api.ConfigMaps, s.configMap(name, value))
	if err != nil {
		t.Fatal(err)
	}
	return cm
}

func checkLife(t *testing.T, s *suite) {
	made := s.create(t, "a", "1")
	if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() {
		t.Errorf("created without server's metadata: %+v", made.ObjectMeta)
	}
	got, err := client.Get(s.ctx, s, api.ConfigMaps, Namespace, s.prefix+"a")
	if err != nil || got.Data["key"] != "1" || got.UID != made.UID {
		t.Fatalf("got %+v, %v", got, err)
	}
	changed := got.DeepCopy()
	changed.Data["key"] = "2"
	updated, err := client.Update(s.ctx, s, api.ConfigMaps, changed)
	if err != nil || updated.Data["key"] != "2" || updated.ResourceVersion == made.ResourceVersion {
		t.Fatalf("updated to %+v, %v", updated, err)
	}
	if err := client.Delete(s.ctx, s, api.ConfigMaps, Namespace, s.prefix+"a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(s.ctx, s, api.ConfigMaps, Namespace, s.prefix+"a"); !apierrors.IsNotFound(err) {
		t.Errorf("after delete: %v, want not found", err)
	}
}

func checkErrors(t *testing.T, s *suite) {
	made := s.create(t, "a", "1")
	stale := made.DeepCopy()
	stale.ResourceVersion = "1"
	bad := s.configMap("a", "1")
	bad.Name = "Not_A_Name"
	other := types.UID("other")
	cases := []struct {
		name string
		act  func() error
		want func(error) bool
	}{
		{"exists", func() error { _, err := client.Create(s.ctx, s, api.ConfigMaps, s.configMap("a", "1")); return err }, apierrors.IsAlreadyExists},
		{"conflict", func() error { _, err := client.Update(s.ctx, s, api.ConfigMaps, stale); return err }, apierrors.IsConflict},
		{"not found", func() error { _, err := client.Get(s.ctx, s, api.ConfigMaps, Namespace, "none"); return err }, apierrors.IsNotFound},
		{"invalid", func() error { _, err := client.Create(s.ctx, s, api.ConfigMaps, bad); return err }, apierrors.IsInvalid},
		{"precondition", func() error {
			return client.Delete(s.ctx, s, api.ConfigMaps, Namespace, made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
		}, apierrors.IsConflict},
	}
	for _, c := range cases {
		err := c.act()
		if !c.want(err) {
			t.Errorf("%s: got %v", c.name, err)
		}
		if _, ok := err.(*apierrors.StatusError); !ok {
			t.Errorf("%s: got %T, want *StatusError", c.name, err)
		}
	}
}

func checkPatches(t *testing.T, s *suite) {
	s.create(t, "a", "1")
	cases := []struct {
		kind types.PatchType
		body string
	}{
		{types.MergePatchType, `{"data":{"key":"merge"}}`},
		{types.StrategicMergePatchType, `{"data":{"key":"strategic"}}`},
		{types.JSONPatchType, `[{"op":"replace","path":"/data/key","value":"json"}]`},
	}
	for _, c := range cases {
		got, err := client.Patch(s.ctx, s, api.ConfigMaps, s.target("a"), c.kind, []byte(c.body))
		if err != nil {
			t.Errorf("%s: %v", c.kind, err)
			continue
		}
		if !strings.Contains(c.body, `"`+got.Data["key"]+`"`) {
			t.Errorf("%s: data = %v", c.kind, got.Data)
		}
	}
}

func checkLists(t *testing.T, s *suite) {
	for i := range 5 {
		s.create(t, strconv.Itoa(i), "v")
	}
	o := metav1.ListOptions{LabelSelector: s.selector(), Limit: 2}
	var names []string
	for {
		l, err := s.List(s.ctx, s.target(""), o)
		if err != nil {
			t.Fatal(err)
		}
		if l.ResourceVersion == "" || len(l.Items) > 2 {
			t.Errorf("page of %d at %q", len(l.Items), l.ResourceVersion)
		}
		for _, item := range l.Items {
			names = append(names, item.GetName())
		}
		if o.Continue = l.Continue; o.Continue == "" {
			break
		}
	}
	if len(names) != 5 || names[0] != s.prefix+"0" || names[4] != s.prefix+"4" {
		t.Errorf("names = %v", names)
	}
	one, err := s.List(s.ctx, s.target(""), metav1.ListOptions{FieldSelector: "metadata.name=" + s.prefix + "3"})
	if err != nil || len(one.Items) != 1 {
		t.Errorf("by field: %d items, %v", len(one.Items), err)
	}
}

// next waits for an event that is no bookmark.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("the watch ended")
			}
			if e.Type != watch.Bookmark {
				return e
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no event came")
		}
	}
}

func (s *suite) expect(t *testing.T, w watch.Interface, want ...string) {
	t.Helper()
	for _, word := range want {
		e := next(t, w)
		cm, ok := e.Object.(*core.ConfigMap)
		if !ok {
			t.Fatalf("event %s holds %T %v", e.Type, e.Object, e.Object)
		}
		if got := string(e.Type) + " " + cm.Name[len(s.prefix):] + "=" + cm.Data["key"]; got != word {
			t.Errorf("event %q, want %q", got, word)
		}
	}
}

func checkWatch(t *testing.T, s *suite) {
	s.create(t, "a", "1")
	w, err := s.Watch(s.ctx, s.target(""), metav1.ListOptions{LabelSelector: s.selector()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.expect(t, w, "ADDED a=1")
	s.create(t, "b", "1")
	if _, err := client.Patch(s.ctx, s, api.ConfigMaps, s.target("b"), types.MergePatchType, []byte(`{"data":{"key":"2"}}`)); err != nil {
		t.Fatal(err)
	}
	// An object that leaves the selector is deleted for this watcher.
	if _, err := client.Patch(s.ctx, s, api.ConfigMaps, s.target("b"), types.MergePatchType, []byte(`{"metadata":{"labels":{"check":"no"}}}`)); err != nil {
		t.Fatal(err)
	}
	if err := client.Delete(s.ctx, s, api.ConfigMaps, Namespace, s.prefix+"a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.expect(t, w, "ADDED b=1", "MODIFIED b=2", "DELETED b=2", "DELETED a=1")
	w.Stop()
	for range w.ResultChan() { // closes after Stop
	}
}

func checkWatchFrom(t *testing.T, s *suite) {
	a := s.create(t, "a", "1")
	s.create(t, "b", "1")
	w, err := s.Watch(s.ctx, s.target(""), metav1.ListOptions{LabelSelector: s.selector(), ResourceVersion: a.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.expect(t, w, "ADDED b=1")
}

func checkWatchList(t *testing.T, s *suite) {
	s.create(t, "a", "1")
	w, err := s.Watch(s.ctx, s.target(""), metav1.ListOptions{
		LabelSelector: s.selector(), AllowWatchBookmarks: true,
		SendInitialEvents: new(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.expect(t, w, "ADDED a=1")
	for e := range w.ResultChan() {
		if e.Type == watch.Bookmark && e.Object.(api.Object).GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			return
		}
	}
	t.Error("the end of the initial content was not marked")
}

func checkDeleteCollection(t *testing.T, s *suite) {
	s.create(t, "a", "1")
	s.create(t, "b", "1")
	o := metav1.ListOptions{LabelSelector: s.selector()}
	if err := s.DeleteCollection(s.ctx, s.target(""), metav1.DeleteOptions{}, o); err != nil {
		t.Fatal(err)
	}
	l, err := s.List(s.ctx, s.target(""), o)
	if err != nil || len(l.Items) != 0 {
		t.Errorf("left: %d, %v", len(l.Items), err)
	}
}

func (s *suite) wait(t *testing.T, version string) {
	t.Helper()
	rev, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitRevision(s.ctx, api.ConfigMaps.Facts, rev); err != nil {
		t.Fatal(err)
	}
}

func checkCache(t *testing.T, s *suite) {
	a := s.create(t, "a", "1")
	b := s.create(t, "b", "1")
	s.wait(t, b.ResourceVersion)
	if got := client.Cached(s, api.ConfigMaps, Namespace, a.Name); got == nil || got.UID != a.UID {
		t.Errorf("cached = %v", got)
	}
	var names []string
	s.Each(api.ConfigMaps.Facts, Namespace, func(o api.Object) bool {
		if o.GetLabels()["check"] == s.prefix+"x" {
			names = append(names, o.GetName())
		}
		return true
	})
	if len(names) != 2 || names[0] != a.Name {
		t.Errorf("cached names = %v", names)
	}
	s.Each(api.ConfigMaps.Facts, "elsewhere", func(o api.Object) bool {
		t.Errorf("%s is not in the namespace", o.GetName())
		return true
	})
	if client.Cached(s, api.ConfigMaps, Namespace, "none") != nil {
		t.Error("a missing object was found")
	}
	if err := client.Delete(s.ctx, s, api.ConfigMaps, Namespace, a.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.wait(t, s.create(t, "c", "1").ResourceVersion)
	if client.Cached(s, api.ConfigMaps, Namespace, a.Name) != nil {
		t.Error("a deleted object is still cached")
	}
}

func checkSubscription(t *testing.T, s *suite) {
	first := s.create(t, "a", "0")
	s.wait(t, first.ResourceVersion)
	var mu sync.Mutex
	var seen []string
	last := map[string]string{}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	err := s.Subscribe(ctx, api.ConfigMaps.Facts, func(c client.Change) {
		cm, ok := c.New.(*core.ConfigMap)
		if !ok || cm.Labels["check"] != s.prefix+"x" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if old, ok := c.Old.(*core.ConfigMap); ok && last[cm.Name] != old.Data["key"] {
			t.Errorf("change from %q, but %q was seen last", old.Data["key"], last[cm.Name])
		}
		last[cm.Name] = cm.Data["key"]
		seen = append(seen, cm.Data["key"])
	})
	if err != nil {
		t.Fatal(err)
	}
	var newest *core.ConfigMap
	for i := 1; i <= 20; i++ {
		newest, err = client.Patch(s.ctx, s, api.ConfigMaps, s.target("a"), types.MergePatchType, fmt.Appendf(nil, `{"data":{"key":"%d"}}`, i))
		if err != nil {
			t.Fatal(err)
		}
	}
	s.wait(t, newest.ResourceVersion)
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 21 || seen[0] != "0" || seen[20] != "20" {
		t.Errorf("seen = %v, want 0 to 20", seen)
	}
}

func checkWrites(t *testing.T, s *suite) {
	ctx, writes := client.WithWrites(s.ctx)
	cm, err := client.Create(ctx, s.Client, api.ConfigMaps, s.configMap("a", "1"))
	if err != nil {
		t.Fatal(err)
	}
	rev := writes.Newest()[api.ConfigMaps.Facts]
	if strconv.FormatInt(rev, 10) != cm.ResourceVersion {
		t.Errorf("noted %d, wrote %s", rev, cm.ResourceVersion)
	}
	if err := s.WaitRevision(ctx, api.ConfigMaps.Facts, rev); err != nil {
		t.Fatal(err)
	}
	if client.Cached(s, api.ConfigMaps, Namespace, cm.Name) == nil || s.Revision(api.ConfigMaps.Facts) < rev {
		t.Error("the cache does not have what it was waited for")
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := s.WaitRevision(short, api.ConfigMaps.Facts, rev+1_000_000); err == nil {
		t.Error("waiting for the far future did not end with the context")
	}
}

func checkInputUntouched(t *testing.T, s *suite) {
	in := s.configMap("a", "1")
	before := in.DeepCopy()
	if _, err := client.Create(s.ctx, s, api.ConfigMaps, in); err != nil {
		t.Fatal(err)
	}
	if in.UID != before.UID || in.ResourceVersion != "" || in.Kind != "" {
		t.Errorf("create changed what it was given: %+v", in)
	}
}
