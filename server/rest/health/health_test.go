package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"
)

func TestPages(t *testing.T) {
	bad := Check{Name: "bad", Ready: true, Check: func(context.Context) error { return errors.New("no") }}
	seen := map[string]int{}
	pages := Pages([]Check{bad}, t.Context(), func(page, check string, err error) { seen[fmt.Sprint(page, check, err == nil)]++ }, slog.New(slog.DiscardHandler))
	for _, x := range []struct {
		path, target string
		code         int
		want         string
	}{
		{"/livez", "/livez", 200, "ok"},
		{"/livez", "/livez?verbose", 200, "[+]ping ok\nlivez check passed\n"},
		{"/readyz", "/readyz", 500, "[+]ping ok\n[-]bad failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n"},
		{"/readyz", "/readyz?exclude=bad", 200, "ok"},
		{"/readyz", "/readyz?verbose&exclude=bad&exclude=none", 200, "[+]ping ok\n[+]bad excluded: ok\n[+]shutdown ok\nwarn: some health checks cannot be excluded: no matches for \"none\"\nreadyz check passed\n"},
		{"/readyz/", "/readyz/ping", 200, "ok"},
		{"/readyz/", "/readyz/none", 404, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		pages[x.path].ServeHTTP(w, httptest.NewRequest("GET", x.target, nil))
		if w.Code != x.code || w.Body.String() != x.want {
			t.Errorf("%s: %d %q, want %d %q", x.target, w.Code, w.Body, x.code, x.want)
		}
	}
	if seen["livezpingtrue"] != 2 || seen["readyzbadfalse"] != 1 {
		t.Errorf("seen: %v", seen)
	}
}
