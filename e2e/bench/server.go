package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startLimit is how long a server may take to be ready, stopLimit to end.
const (
	startLimit = 60 * time.Second
	stopLimit  = 30 * time.Second
)

// server is an orch that runs, or has run, on a data directory of its own.
type server struct {
	orch, dir string
	port      int
	args      []string
	cmd       *exec.Cmd
	ended     chan struct{}
	log       *os.File
}

// newServer makes the data directory; start runs orch on it, remove takes it away.
func (b *bench) newServer(args ...string) (*server, error) {
	dir, err := os.MkdirTemp(b.dir, "orch-bench-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{orch: b.orch, dir: dir, port: port}
	s.args = append([]string{"server", "--data-dir", filepath.Join(dir, "data"), "--write-kubeconfig", s.kubeconfig(),
		"--https-listen-port", strconv.Itoa(port)}, append(b.flags, args...)...)
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	return s, b.placeImages(filepath.Join(dir, "data", "agent", "images"))
}

// placeImages links the archives to where the node imports from.
func (b *bench) placeImages(to string) error {
	if b.images == "" {
		return nil
	}
	archives, err := filepath.Glob(filepath.Join(b.images, "*.tar"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, a := range archives {
		content, err := os.ReadFile(a)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(a)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withServer runs f against a fresh server that is ready.
func (b *bench) withServer(ctx context.Context, f func(*server) error, args ...string) error {
	s, err := b.newServer(args...)
	if err != nil {
		return err
	}
	defer s.remove()
	if _, err := s.start(ctx); err != nil {
		return err
	}
	if err := f(s); err != nil {
		return fmt.Errorf("%w\n%s", err, s.tail())
	}
	return s.stop()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *server) kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

// start runs orch and returns how long it took until /readyz said yes.
func (s *server) start(ctx context.Context) (time.Duration, error) {
	s.cmd = exec.Command(s.orch, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(os.Environ(), "ORCH_CONFIG="+os.DevNull)
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	s.ended = ended
	go func() { _ = s.cmd.Wait(); close(ended) }()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for !s.ready(ctx) {
		select {
		case <-ended:
			return 0, fmt.Errorf("orch has ended:\n%s", s.tail())
		case <-ctx.Done():
			return 0, fmt.Errorf("orch is not ready after %v:\n%s", time.Since(began), s.tail())
		case <-time.After(2 * time.Millisecond):
		}
	}
	return time.Since(began), nil
}

// ready asks /readyz once, on a new connection.
func (s *server) ready(ctx context.Context) bool {
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}} // our own child, nothing secret is sent
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/readyz", s.port), nil)
	if err != nil {
		return false
	}
	a, err := c.Do(r)
	if err != nil {
		return false
	}
	a.Body.Close()
	return a.StatusCode == http.StatusOK
}

// stop ends orch in good order.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("orch does not end:\n%s", s.tail()), s.cmd.Process.Kill())
	}
}

// remove kills what still runs and deletes the data directory.
func (s *server) remove() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // ended already, mostly
		<-s.ended
	}
	s.log.Close()
	os.RemoveAll(s.dir)
}

// tail is the end of what orch printed.
func (s *server) tail() string {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// usage is what the process has taken so far, and holds now.
type usage struct {
	cpu      time.Duration
	resident int64 // bytes
	written  int64 // bytes sent to the disk
}

func (s *server) usage() (u usage, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	const ticks = 100 // USER_HZ, the same on every Linux that Go runs on
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	u.cpu = time.Duration(user+system) * time.Second / ticks
	resident, err3 := field(filepath.Join(proc, "status"), "VmRSS:")
	written, err4 := field(filepath.Join(proc, "io"), "write_bytes:")
	u.resident, u.written = resident<<10, written
	return u, errors.Join(err1, err2, err3, err4)
}

// field reads the number behind a name in a file of /proc.
func field(path, name string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
