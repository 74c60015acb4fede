package client

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
)

// script is a server that answers each list and watch with what the test laid out.
type script struct {
	Transport
	mu      sync.Mutex
	lists   []List
	watches []any // watch.Interface or error
	asked   []string
}

func (s *script) List(_ context.Context, _ Target, o metav1.ListOptions) (List, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, "list "+o.Continue)
	if len(s.lists) == 0 {
		return List{}, fmt.Errorf("no more lists")
	}
	l := s.lists[0]
	s.lists = s.lists[1:]
	return l, nil
}

func (s *script) Watch(ctx context.Context, _ Target, o metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	word := "watch " + o.ResourceVersion
	if o.SendInitialEvents != nil {
		word = "stream"
	}
	s.asked = append(s.asked, word)
	if len(s.watches) == 0 {
		w := watch.NewFake()
		context.AfterFunc(ctx, w.Stop)
		return w, nil
	}
	next := s.watches[0]
	s.watches = s.watches[1:]
	if err, bad := next.(error); bad {
		return nil, err
	}
	return next.(watch.Interface), nil
}

func configMap(name string, revision int) *core.ConfigMap {
	return &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: strconv.Itoa(revision)}}
}

// events is a watch that ends after these; an int is a bookmark, a negative one
// the end of the initial content.
func events(all ...any) watch.Interface {
	w := watch.NewFakeWithChanSize(len(all), false)
	for _, e := range all {
		switch e := e.(type) {
		case *core.ConfigMap:
			w.Modify(e)
		case int:
			b := configMap("", max(e, -e))
			if e < 0 {
				b.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
			}
			w.Action(watch.Bookmark, b)
		case *apierrors.StatusError:
			w.Error(&e.ErrStatus)
		}
	}
	w.Stop()
	return w
}

func TestFollowing(t *testing.T) {
	expired := apierrors.NewResourceExpired("too old")
	refused := apierrors.NewInvalid(api.ConfigMaps.GroupKind(), "", nil)
	cases := []struct {
		name    string
		lists   []List
		watches []any
		want    []string // what it asks for
		content []string
	}{
		{"streams the content, then goes on from the last revision", nil,
			[]any{events(configMap("a", 3), -5, configMap("b", 7)), events(9)},
			[]string{"stream", "watch 7", "watch 9"}, []string{"a", "b"}},
		{"lists page by page where the server cannot stream",
			[]List{{Items: []api.Object{configMap("a", 1)}, Continue: "more"}, {Items: []api.Object{configMap("b", 2)}, ResourceVersion: "4"}},
			[]any{refused}, []string{"stream", "list ", "list more", "watch 4"}, []string{"a", "b"}},
		{"begins anew when its revision is too old", nil,
			[]any{events(configMap("a", 3), -5), expired, events(configMap("b", 8), -9)},
			[]string{"stream", "watch 5", "stream", "watch 9"}, []string{"b"}},
		{"begins anew when the stream says so", nil,
			[]any{events(configMap("a", 3), -5), events(expired), events(configMap("a", 3), -9)},
			[]string{"stream", "watch 5", "stream", "watch 9"}, []string{"a"}},
		{"a stream that broke before its end was marked counts for nothing", nil,
			[]any{events(configMap("a", 3)), events(configMap("b", 4), -5)},
			[]string{"stream", "stream", "watch 5"}, []string{"b"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := &script{lists: c.lists, watches: c.watches}
			cache := NewCache(s, map[*api.Facts]Scope{api.ConfigMaps.Facts: {}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- cache.Run(ctx) }()
			for {
				s.mu.Lock()
				n := len(s.asked)
				s.mu.Unlock()
				if n >= len(c.want) {
					break
				}
				select {
				case <-time.After(time.Millisecond):
				case <-ctx.Done():
					t.Fatalf("asked %v, want %v", s.asked, c.want)
				}
			}
			s.mu.Lock()
			asked := fmt.Sprint(s.asked)
			s.mu.Unlock()
			if asked != fmt.Sprint(c.want) {
				t.Errorf("asked %v, want %v", asked, c.want)
			}
			var content []string
			cache.Each(api.ConfigMaps.Facts, "", func(o api.Object) bool {
				content = append(content, o.GetName())
				return true
			})
			if fmt.Sprint(content) != fmt.Sprint(c.content) {
				t.Errorf("content %v, want %v", content, c.content)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnknownKindIsAWiringError(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	NewCache(nil, nil).Lookup(api.Pods.Facts, "ns", "p")
}
