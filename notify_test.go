package main

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestNotify: systemd hears of a state by a path or by an abstract name, and nothing
// happens without it.
func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	notify("READY=1")
	path := filepath.Join(t.TempDir(), "notify")
	for _, c := range []struct{ name, socket, address string }{
		{"a path", path, path},
		{"an abstract name", "@orch-notify-test-" + filepath.Base(t.TempDir()), ""},
		{"nobody listens", filepath.Join(t.TempDir(), "absent"), "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", c.socket)
			if c.address == "-" {
				notify("READY=1")
				return
			}
			s, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: c.socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			notify("READY=1")
			if err := s.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 64)
			n, err := s.Read(b)
			if err != nil || string(b[:n]) != "READY=1" {
				t.Errorf("heard %q, %v", b[:n], err)
			}
		})
	}
}
