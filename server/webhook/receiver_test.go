package webhook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestReceiverIsAskedAgainWhereThatMayHelp: each case is a webhook's answers in turn; the last one repeats.
func TestReceiverIsAskedAgainWhereThatMayHelp(t *testing.T) {
	const cut = -1 // the connection is closed instead of an answer
	for _, tc := range []struct {
		name    string
		answers []int
		limit   int64
		want    string // the answer, or what the error says
		asked   int32
	}{
		{"at once", []int{200}, 100, "{}", 1},
		{"an answer that nobody wants", []int{202}, 0, "", 1},
		{"an answer beyond the limit is cut", []int{200}, 1, "{", 1},
		{"overload passes", []int{429, 503, 201}, 100, "{}", 3},
		{"a connection breaks", []int{cut, 200}, 100, "{}", 2},
		{"an error that stays", []int{500}, 100, "the webhook answered 500", 5},
		{"a refusal", []int{403}, 100, "the webhook answered 403", 1},
		{"a redirect is not followed", []int{307}, 100, "the webhook answered 307", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				code := tc.answers[min(int(asked.Add(1)), len(tc.answers))-1]
				if code == cut {
					c, _, _ := w.(http.Hijacker).Hijack()
					_ = c.Close()
					return
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(code)
				_, _ = w.Write(body)
			}))
			defer s.Close()
			got, err := receiver(t, s.URL, tc.limit).Post(t.Context(), []byte("{}"))
			if said := string(got); err != nil && !strings.Contains(err.Error(), tc.want) || err == nil && said != tc.want || asked.Load() != tc.asked {
				t.Errorf("%q, %v after %d times, want %q after %d", said, err, asked.Load(), tc.want, tc.asked)
			}
		})
	}
}

// TestReceiverWaitsNoLongerThanItsCaller, and says who is not reached.
func TestReceiverWaitsNoLongerThanItsCaller(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close() // nobody is there
	r := receiver(t, s.URL, 100)
	r.cfg.Wait = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var nobody *url.Error
	if _, err := r.Post(ctx, nil); !errors.As(err, &nobody) {
		t.Errorf("%v, want that nobody answered", err)
	}
}

func receiver(t *testing.T, url string, limit int64) *Receiver {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := `{"clusters":[{"name":"c","cluster":{"server":"` + url + `"}}],"contexts":[{"name":"c","context":{"cluster":"c"}}],"current-context":"c"}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := NewReceiver(ReceiverConfig{Kubeconfig: file, Timeout: 20 * time.Second, Wait: time.Millisecond, Answer: limit})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
