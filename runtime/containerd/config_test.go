package containerd

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestChatterIsNotLogged: a pod that ended while it was asked after left an ERROR in the log,
// of which nobody could mend anything.
func TestChatterIsNotLogged(t *testing.T) {
	var out bytes.Buffer
	h := slogHook{t.Context(), slog.New(slog.NewTextHandler(&out, nil))}
	for _, text := range append([]string{"a shim is gone"}, chatter...) {
		if err := h.Fire(&logrus.Entry{Message: text, Level: logrus.ErrorLevel, Data: logrus.Fields{"id": "x"}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "a shim is gone") || !strings.Contains(got, "level=ERROR") {
		t.Errorf("logged:\n%s", got)
	}
}
