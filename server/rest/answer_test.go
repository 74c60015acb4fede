package rest

import (
	"compress/gzip"
	"encoding/json"
	"net/http/httptest"
	"testing"
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
