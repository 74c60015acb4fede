package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// page is what the tests look at of a list, or of the Status that came instead.
type page struct {
	Metadata struct {
		ResourceVersion, Continue string
		RemainingItemCount        *int64
	}
	Items []struct {
		Metadata struct{ Name string }
	}
	Message string
	Reason  metav1.StatusReason
}

func (w *world) page(t *testing.T, query string) (*http.Response, page) {
	t.Helper()
	resp, data := w.do(t, "GET", "/api/v1/namespaces/default/configmaps?"+query, "")
	var p page
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return resp, p
}

// TestPagesAreOneState pages through a list while it changes under the reader: the pages
// together are the state of the first.
func TestPagesAreOneState(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 60 {
		w.make(t, fmt.Sprintf("a%02d", i))
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for k := range 3 {
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				w.make(t, fmt.Sprintf("a%02d-%d-%d", n%60, k, n))
				w.do(t, "DELETE", fmt.Sprintf("/api/v1/namespaces/default/configmaps/a%02d", (n*3+k)%60), "")
			}
		})
	}
	var got []string
	_, p := w.page(t, "limit=7&resourceVersion=0&resourceVersionMatch=NotOlderThan")
	first := p
	_, exact := w.page(t, "resourceVersionMatch=Exact&resourceVersion="+p.Metadata.ResourceVersion)
	for {
		for _, i := range p.Items {
			got = append(got, i.Metadata.Name)
		}
		if p.Metadata.Continue == "" {
			break
		}
		if left := p.Metadata.RemainingItemCount; left == nil || int(*left) != len(exact.Items)-len(got) {
			t.Fatalf("%d of %d read, said to remain: %v", len(got), len(exact.Items), left)
		}
		resp, next := w.page(t, "limit=7&continue="+p.Metadata.Continue)
		if resp.StatusCode != 200 || next.Metadata.ResourceVersion != first.Metadata.ResourceVersion {
			t.Fatalf("%s at %s: %s", resp.Status, next.Metadata.ResourceVersion, next.Message)
		}
		p = next
	}
	close(stop)
	writers.Wait()
	var state []string
	for _, i := range exact.Items {
		state = append(state, i.Metadata.Name)
	}
	if !slices.Equal(got, state) {
		t.Errorf("the pages have %v, the state was %v", got, state)
	}
}

// TestPagesAfterCompaction: a token whose state is gone gives 410 with one for the rest as it
// is now; versions that are gone give 410 too, to a watch as an event.
func TestPagesAfterCompaction(t *testing.T) {
	w := newWorld(t, nil)
	rv := w.make(t, "a")
	for _, name := range []string{"b", "c", "d"} {
		w.make(t, name)
	}
	_, p := w.page(t, "limit=2")
	w.do(t, "DELETE", "/api/v1/namespaces/default/configmaps/c", "")
	w.make(t, "e")
	if err := w.store.Compact(t.Context(), w.store.Revision()); err != nil {
		t.Fatal(err)
	}
	resp, gone := w.page(t, "limit=2&continue="+p.Metadata.Continue)
	if resp.StatusCode != 410 || gone.Reason != metav1.StatusReasonExpired || gone.Metadata.Continue == "" ||
		!strings.HasPrefix(gone.Message, "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response") {
		t.Fatalf("%s %+v", resp.Status, gone)
	}
	resp, rest := w.page(t, "limit=2&continue="+gone.Metadata.Continue)
	if resp.StatusCode != 200 || len(rest.Items) != 2 || rest.Items[0].Metadata.Name != "d" || rest.Items[1].Metadata.Name != "e" {
		t.Errorf("%s %+v", resp.Status, rest)
	}
	for _, query := range []string{"resourceVersionMatch=Exact&resourceVersion=" + rv, "limit=5&resourceVersion=" + rv} {
		if resp, old := w.page(t, query); resp.StatusCode != 410 || old.Message != "The resourceVersion for the provided list is too old." {
			t.Errorf("%s: %s %s", query, resp.Status, old.Message)
		}
	}
}
