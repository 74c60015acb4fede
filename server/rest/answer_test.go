package rest

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Big answers are compressed for clients elsewhere, not for those on this host.
func TestCompression(t *testing.T) {
	w := newWorld(t, nil)
	w.fill(t, 200)
	ask := func(remote, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", configMaps, nil)
		r.RemoteAddr = remote
		r.Header.Set("Accept-Encoding", "gzip")
		r.Header.Set("Accept", accept)
		rec := httptest.NewRecorder()
		w.server.ServeHTTP(rec, r)
		return rec
	}
	const table = "application/json;as=Table;g=meta.k8s.io;v=v1"
	for _, accept := range []string{"application/json", protobufType, "application/yaml", table} {
		want := "gzip"
		if accept == table {
			want = "" // not so big
		}
		if got := ask("192.0.2.1:99", accept).Header().Get("Content-Encoding"); got != want {
			t.Errorf("%s from elsewhere: %q", accept, got)
		}
		if got := ask("127.0.0.1:99", accept).Header().Get("Content-Encoding"); got != "" {
			t.Errorf("%s from here: %q", accept, got)
		}
	}
	rd, err := gzip.NewReader(ask("192.0.2.1:99", "application/json").Body)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []any }
	if err := json.NewDecoder(rd).Decode(&list); err != nil || len(list.Items) != 200 {
		t.Errorf("%d items, %v", len(list.Items), err)
	}
}

// TestCompressionOverHTTP: a client that asks for no encoding of its own gets gzip and sees
// none of it; a watch is never compressed, as its events must not wait for more.
func TestCompressionOverHTTP(t *testing.T) {
	w := newWorld(t, nil)
	w.fill(t, 200)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = "192.0.2.1:99"
		w.server.ServeHTTP(rw, r)
	}))
	t.Cleanup(elsewhere.Close)
	ask := func(query, encoding string) (*http.Response, []byte) {
		r, err := http.NewRequest("GET", elsewhere.URL+configMaps+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if encoding != "" {
			r.Header.Set("Accept-Encoding", encoding)
		}
		resp, err := elsewhere.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, data
	}
	seen, data := ask("", "")
	if !seen.Uncompressed || seen.StatusCode != 200 || len(data) < 200<<10 {
		t.Errorf("by itself: %v %s, %d bytes", seen.Uncompressed, seen.Status, len(data))
	}
	packed, small := ask("", "gzip")
	if packed.Header.Get("Content-Encoding") != "gzip" || packed.Header.Get("Vary") != "Accept-Encoding" || len(small) > len(data)/4 {
		t.Errorf("gzip: %v, %d of %d bytes", packed.Header, len(small), len(data))
	}
	for query, encoding := range map[string]string{"": "identity", "?limit=2": "gzip", "?watch=1&timeoutSeconds=1": "gzip"} {
		if plain, _ := ask(query, encoding); plain.StatusCode != 200 || plain.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s %s: %v", query, encoding, plain.Header)
		}
	}
}

// TestFlowSchemasAreShownAsTried: tables have them in the order in which requests meet them,
// as upstream; lists have them by name.
func TestFlowSchemasAreShownAsTried(t *testing.T) {
	w := newWorld(t, nil)
	const path = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas"
	for name, precedence := range map[string]int{"a": 900, "b": 500, "c": 900} {
		resp, data := w.do(t, "POST", path, fmt.Sprintf(`{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"FlowSchema","metadata":{"name":%q},"spec":{"matchingPrecedence":%d,"priorityLevelConfiguration":{"name":"x"}}}`, name, precedence))
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s", resp.Status, data)
		}
	}
	for accept, want := range map[string]string{"application/json;as=Table;g=meta.k8s.io;v=v1": "bac", "application/json": "abc"} {
		_, data := w.do(t, "GET", path, "", "Accept", accept)
		var got struct {
			Items []metav1.PartialObjectMetadata
			Rows  []struct{ Cells []any }
		}
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		names := ""
		for _, o := range got.Items {
			names += o.Name
		}
		for _, r := range got.Rows {
			names += fmt.Sprint(r.Cells[0])
		}
		if names != want {
			t.Errorf("%s: %s", accept, names)
		}
	}
}
