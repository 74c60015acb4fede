package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"orch/e2e/lab"
)

// TestFullDisk: the disk fills up under a running server. Writes are refused with a sentence
// that says so, reads go on, and writes work again once there is room, without a restart.
func TestFullDisk(t *testing.T) {
	h := lab.New(t).Host("one")
	if o := h.Run("", "mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", h.Dir); o.Code != 0 {
		t.Fatal(o.Both())
	}
	t.Cleanup(func() { h.Run("", "umount", "-l", h.Dir) })
	ballast := filepath.Join(h.Dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p := h.StartServer("--disable-agent")
	c := h.Clientset()
	err := fill(t, c)
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage || !strings.Contains(err.Error(), "disk of the datastore is full") {
		t.Fatalf("writing to a full disk: %v", err)
	}
	list, err := c.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) < 10 {
		t.Errorf("reading with a full disk: %d objects, %v", len(list.Items), err)
	}
	big := filepath.Join(t.TempDir(), "big")
	writeFile(t, big, strings.Repeat("0123456789abcdef", 500<<10/16))
	if o := h.KubectlIn("", "create", "configmap", "one-more", "--from-file", big); o.Code == 0 || !strings.Contains(o.Stderr, "disk of the datastore is full") {
		t.Errorf("kubectl says:\n%s", o.Both())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	h.Eventually(patience, "writes with room again", func() error { return write(t, c, "again") })
	h.Kubectl("get", "--raw", "/readyz")
	if log := p.Log(); strings.Contains(log, "panic") || strings.Count(log, "\n") > 200 {
		t.Errorf("the server says:\n%s", log)
	}
}

// fill writes until it is refused.
func fill(t *testing.T, c *kubernetes.Clientset) error {
	for i := range 1000 {
		if err := write(t, c, fmt.Sprint("filler-", i)); err != nil {
			return err
		}
	}
	return errors.New("1,000 writes of 200 KiB fit into 48 MiB")
}

func write(t *testing.T, c *kubernetes.Clientset, name string) error {
	_, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name},
		Data: map[string]string{"d": strings.Repeat("0123456789abcdef", 200<<10/16)}}, metav1.CreateOptions{})
	return err
}

// TestDatabaseOfANewerOrch: it is refused with one line and left as it is.
func TestDatabaseOfANewerOrch(t *testing.T) {
	h := lab.New(t).Host("one")
	p := h.StartServer("--disable-agent")
	p.Stop()
	db := filepath.Join(h.Dir, "server", "db", "state.db")
	content, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	version := func(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte("version"), n) }
	newer := bytes.ReplaceAll(content, version(1), version(2))
	if bytes.Equal(newer, content) {
		t.Fatal("the database has no layout version")
	}
	if err := os.WriteFile(db, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	before := digest(t, db)
	refused(t, h.Orch(nil, serverArgs(h, h.Dir, "--disable-agent")...), 1, "newer orch")
	if digest(t, db) != before {
		t.Error("the database was changed")
	}
}
