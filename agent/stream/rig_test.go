package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"orch/runtime/engine"
	"orch/runtime/fakeengine"
)

// patience is how long a test waits for what must happen, on a machine that is busy.
const patience = time.Minute

// quick is less than any time-out that the handler has by itself: what took no longer
// waited for none of them.
const quick = 15 * time.Second

// rig is a handler over the fake engine, reached over real HTTP.
type rig struct {
	*testing.T
	engine  *fakeengine.Engine
	real    engine.Engine // instead of engine
	state   string        // the real one's folder, of a name that no other has
	handler *Handler
	server  *httptest.Server
	stop    func() // ends the handler's Run
	log     *safeBuffer

	mu   sync.Mutex
	pods map[string]Pod
}

// newRig runs pod default/web with a container app of the given script. Everything
// must have ended when the test has.
func newRig(t *testing.T, script fakeengine.Script, change func(*Config)) *rig {
	t.Helper()
	r := &rig{T: t, pods: map[string]Pod{}, log: &safeBuffer{}}
	r.engine = fakeengine.New(fakeengine.Options{Script: func(engine.Spec) fakeengine.Script { return script }})
	r.addPod("web", Container{Name: "app", Stdin: true}, script.Output != "")
	cfg := Config{Pods: r, Engine: r.engine, Dialer: loopback{}, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	if change != nil {
		change(&cfg)
	}
	var err error
	if r.handler, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.handler.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	r.server = httptest.NewServer(r.handler)
	t.Cleanup(func() {
		r.checkNothingIsOpen()
		r.stop()
		r.server.Close()
		noGoroutines(t)
	})
	return r
}

// addPod starts a container and shows it.
func (r *rig) addPod(name string, c Container, logged bool) {
	r.Helper()
	c.ID = "id-" + name + "-" + c.Name
	spec := engine.Spec{ID: c.ID, Pod: name, Image: "app"}
	if logged {
		c.LogPath = filepath.Join(r.TempDir(), "0.log")
		spec.LogPath = c.LogPath
	}
	if err := r.engine.Create(r.Context(), spec); err != nil {
		r.Fatal(err)
	}
	if _, err := r.engine.Start(r.Context(), c.ID); err != nil {
		r.Fatal(err)
	}
	c.Running = true
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods["default/"+name] = Pod{UID: "uid-1", Containers: []Container{c}}
}

// change edits what is shown of a pod.
func (r *rig) change(name string, edit func(*Pod)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pods["default/"+name]
	edit(&p)
	r.pods["default/"+name] = p
}

func (r *rig) Lookup(namespace, name string) (Pod, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.pods[namespace+"/"+name]
	return p, ok
}

// checkNothingIsOpen: each stream has given its slot back though the handler goes on.
func (r *rig) checkNothingIsOpen() {
	r.Helper()
	if r.handler.life.Err() != nil {
		return // Run has taken the slots
	}
	if !await(func() bool { return len(r.handler.slots) == 0 }) {
		r.Errorf("%d streams are still open\n%s", len(r.handler.slots), stacks())
	}
}

// loopback dials ports of the test's own machine.
type loopback struct{}

func (loopback) DialPod(ctx context.Context, _ string, port uint16) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

func await(cond func() bool) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return cond()
}

func stacks() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// noGoroutines fails if goroutines of streams, of either side, are left.
func noGoroutines(t *testing.T) {
	t.Helper()
	var left []string
	if await(func() bool {
		left = nil
		for g := range strings.SplitSeq(stacks(), "\n\n") {
			if strings.Contains(g, "testing.tRunner") || strings.Contains(g, "(*heartbeat)") || strings.Contains(g, "WaitTimeout") { // clients' that look up late
				continue
			}
			for _, mark := range []string{"orch/agent/stream.", "orch/runtime/fakeengine", "moby/spdystream", "tools/remotecommand", "tools/portforward"} {
				if strings.Contains(g, mark) {
					left = append(left, g)
					break
				}
			}
		}
		return len(left) == 0
	}) {
		return
	}
	t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
}

// url of a path of the handler.
func (r *rig) url(path string, query url.Values) *url.URL {
	u, err := url.Parse(r.server.URL + path)
	if err != nil {
		r.Fatal(err)
	}
	u.RawQuery = query.Encode()
	return u
}

func (r *rig) config() *rest.Config { return &rest.Config{Host: r.server.URL} }

// cable is what a client is connected by: it can be cut.
type cable struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (r *rig) cable() *cable {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	c := &cable{Listener: l}
	r.Cleanup(c.cut)
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", r.server.Listener.Addr().String())
			if err != nil {
				near.Close()
				return
			}
			c.mu.Lock()
			c.conns = append(c.conns, near, far)
			c.mu.Unlock()
			go func() { _, _ = io.Copy(near, far) }()
			go func() { _, _ = io.Copy(far, near) }()
		}
	}()
	return c
}

func (c *cable) cut() {
	c.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
}

// transports are the ways in which clients of today and of yesterday come.
var transports = []struct {
	name string
	open func(*rest.Config, *url.URL) (remotecommand.Executor, error)
}{
	{"WebSocket", func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(c, "GET", u.String())
	}},
	{"SPDY", func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(c, "POST", u)
	}},
}

// remoteQuery asks for the streams that o has.
func remoteQuery(o remotecommand.StreamOptions, command ...string) url.Values {
	q := url.Values{"command": command}
	for name, yes := range map[string]bool{"input": o.Stdin != nil, "output": o.Stdout != nil, "error": o.Stderr != nil, "tty": o.Tty} {
		if yes {
			q.Set(name, "1")
		}
	}
	return q
}

// get asks for a page.
func (r *rig) get(path string) (code int, body string) {
	r.Helper()
	resp, err := http.Get(r.server.URL + path)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// safeBuffer may be written while it is read.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
