package stream

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHostLogs: /logs/ of a node was not found, as kubectl get --raw asks for it.
func TestHostLogs(t *testing.T) {
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	for path, text := range map[string]string{filepath.Join(dir, "syslog"): "it rained", secret: "hidden"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	h := &Handler{Config: Config{HostLogs: dir}}
	for path, want := range map[string]string{"/logs/": `href="syslog"`, "/logs/syslog": "it rained", "/logs/out": "!hidden", "/logs/../secret": "!hidden"} {
		w := httptest.NewRecorder()
		if err := h.hostLogs(w, httptest.NewRequest("GET", path, nil)); err != nil {
			t.Error(err)
		}
		if text, not := strings.CutPrefix(want, "!"); strings.Contains(w.Body.String(), text) == not {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
}
