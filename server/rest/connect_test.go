package rest

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/backend"
	"orch/server/registry"
)

// node is a node API that says what it was asked.
type node struct{ *httptest.Server }

func (n node) Dial(ctx context.Context, name string) (net.Conn, error) {
	if name != "n1" {
		return nil, fmt.Errorf("node %s is not connected", name)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", n.Listener.Addr().String())
}

func newNode(t *testing.T) node {
	mux := http.NewServeMux()
	echo := func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.WriteMessage(websocket.TextMessage, []byte(r.URL.Path+"?"+r.URL.RawQuery+" auth="+r.Header.Get("Authorization")))
		for {
			kind, data, err := c.ReadMessage()
			if err != nil {
				return
			}
			_ = c.WriteMessage(kind, data)
		}
	}
	mux.HandleFunc("/exec/", echo)
	mux.HandleFunc("/exec/default/two/b", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `container not found ("b")`)
	})
	mux.HandleFunc("/attach/", echo)
	mux.HandleFunc("/portForward/", echo)
	mux.HandleFunc("/containerLogs/", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/b"):
			http.Error(w, `container "b" in pod "two" is waiting to start: ContainerCreating`, http.StatusBadRequest)
		case r.URL.Query().Has("follow"):
			fmt.Fprintln(w, "one")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			w.Header().Set("Secret", "x")
			fmt.Fprint(w, r.URL.Path+"?"+r.URL.RawQuery)
		}
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "node ok") })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return node{s}
}

// pods makes: one (container a on n1), two (a and b on n1), lost (on n2), pending (nowhere).
func (w *world) pods(t *testing.T) {
	t.Helper()
	for name, on := range map[string]string{"one": "n1", "two": "n1", "lost": "n2", "pending": ""} {
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: core.PodSpec{NodeName: on, Containers: []core.Container{{Name: "a", Image: "i"}}}}
		if name == "two" {
			p.Spec.Containers = append(p.Spec.Containers, core.Container{Name: "b", Image: "i"})
			p.Spec.InitContainers = []core.Container{{Name: "c", Image: "i"}}
		}
		call := registry.Request{User: registry.User{Name: "admin"}, Target: client.Target{Kind: api.Pods.Facts, Namespace: "default"}}
		if _, err := w.registry.Create(t.Context(), call, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	call := registry.Request{User: registry.User{Name: "admin"}, Target: client.Target{Kind: api.Nodes.Facts}}
	if _, err := w.registry.Create(t.Context(), call, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestLogs(t *testing.T) {
	n := newNode(t)
	w := newWorld(t, func(c *Config) { c.Nodes = n })
	w.pods(t)
	for _, c := range []struct {
		name, path string
		code       int
		want       string
	}{
		{"options", "one/log?previous=true&tailLines=5&timestamps=1&sinceSeconds=9&limitBytes=7", 200, "/containerLogs/default/one/a?limitBytes=7&previous=true&sinceSeconds=9&tailLines=5&timestamps=true"},
		{"choice", "two/log", 400, "a container name must be specified for pod two, choose one of: [a b] or one of the init containers: [c]"},
		{"container", "two/log?container=a", 200, "/containerLogs/default/two/a?"},
		{"no container", "two/log?container=x", 400, "container x is not valid for pod two"},
		{"waiting", "two/log?container=b", 400, `is waiting to start: ContainerCreating`},
		{"pending", "pending/log", 200, ""},
		{"lost node", "lost/log", 500, "error dialing backend: node n2 is not connected"},
		{"no pod", "none/log", 404, `pods \"none\" not found`},
		{"negative", "one/log?tailLines=-1", 422, `PodLogOptions \"one\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`},
		{"both since", "one/log?sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z", 422, "at most one of `sinceTime` or `sinceSeconds` may be specified"},
		{"bad number", "one/log?tailLines=x", 400, "invalid syntax"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, data := w.do(t, "GET", "/api/v1/namespaces/default/pods/"+c.path, "")
			if resp.StatusCode != c.code || !strings.Contains(string(data), c.want) {
				t.Errorf("%s %s", resp.Status, data)
			}
			if resp.Header.Get("Secret") != "" {
				t.Error("the node's headers came through")
			}
		})
	}
	t.Run("follow", func(t *testing.T) {
		resp, err := http.Get(w.http.URL + "/api/v1/namespaces/default/pods/one/log?follow=true")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		line := make([]byte, 4)
		if _, err := io.ReadFull(resp.Body, line); err != nil || string(line) != "one\n" {
			t.Errorf("%q %v", line, err)
		}
	})
}

// TestLogsOverWebSocket: upstream's conformance suite reads logs so.
func TestLogsOverWebSocket(t *testing.T) {
	n := newNode(t)
	w := newWorld(t, func(c *Config) { c.Nodes = n })
	w.pods(t)
	at := "ws" + strings.TrimPrefix(w.http.URL, "http") + "/api/v1/namespaces/default/pods/"
	for protocol, want := range map[string]string{"": "/containerLogs/default/one/a?", "binary.k8s.io": "/containerLogs/default/one/a?",
		"base64.binary.k8s.io": base64.StdEncoding.EncodeToString([]byte("/containerLogs/default/one/a?"))} {
		d := websocket.Dialer{}
		if protocol != "" {
			d.Subprotocols = []string{protocol}
		}
		c, resp, err := d.Dial(at+"one/log", nil)
		if err != nil {
			t.Fatalf("%q: %v %v", protocol, err, resp)
		}
		var got string
		for messages := 0; ; messages++ {
			_, b, err := c.ReadMessage()
			if messages == 0 && len(b) != 0 {
				t.Errorf("%q: greeted with %q", protocol, b)
			}
			if err != nil {
				if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					t.Errorf("%q: %v", protocol, err)
				}
				break
			}
			got += string(b)
		}
		if !strings.Contains(got, want[:len(want)-4]) {
			t.Errorf("%q: %q, want %q", protocol, got, want)
		}
		c.Close()
	}
	if _, resp, err := websocket.DefaultDialer.Dial(at+"none/log", nil); err == nil || resp.StatusCode != 404 {
		t.Errorf("no pod: %v", err)
	}
	d := websocket.Dialer{Subprotocols: []string{"other"}}
	if _, resp, err := d.Dial(at+"one/log", nil); err == nil || resp.StatusCode != 400 {
		t.Errorf("other protocol: %v", err)
	}
}

func TestStreamsGoThrough(t *testing.T) {
	n := newNode(t)
	w := newWorld(t, func(c *Config) { c.Nodes = n })
	w.pods(t)
	for _, c := range []struct{ name, path, want string }{
		{"exec", "one/exec?command=sh&command=-c&stdin=true&stdout=true&tty=true", "/exec/default/one/a?command=sh&command=-c&input=1&output=1&tty=1 auth="},
		{"attach", "two/attach?container=b&stdout=1&stderr=1", "/attach/default/two/b?error=1&output=1 auth="},
		{"portforward", "one/portforward?ports=80,81", "/portForward/default/one?port=80&port=81 auth="},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := websocket.Dialer{Subprotocols: []string{"v5.channel.k8s.io"}}
			ws, resp, err := d.Dial(strings.Replace(w.http.URL, "http", "ws", 1)+"/api/v1/namespaces/default/pods/"+c.path, http.Header{"Authorization": {"Bearer secret"}})
			if err != nil {
				t.Fatalf("%v %v", err, resp)
			}
			defer ws.Close()
			if ws.Subprotocol() != "v5.channel.k8s.io" {
				t.Errorf("subprotocol %q", ws.Subprotocol())
			}
			if _, data, err := ws.ReadMessage(); err != nil || string(data) != c.want {
				t.Errorf("node was asked %q, %v", data, err)
			}
			for i := range 100 {
				want := strings.Repeat("x", i*1000)
				if err := ws.WriteMessage(websocket.BinaryMessage, []byte(want)); err != nil {
					t.Fatal(err)
				}
				if _, data, err := ws.ReadMessage(); err != nil || string(data) != want {
					t.Fatalf("message %d: %d bytes, %v", i, len(data), err)
				}
			}
			// The node sees the client go, and the client sees the server drain.
			if c.name == "portforward" {
				w.server.drain()
				if _, _, err := ws.ReadMessage(); err == nil {
					t.Error("still open after the drain")
				}
			}
		})
	}
}

func TestStreamErrors(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Nodes = newNode(t) })
	w.pods(t)
	for _, c := range []struct {
		name, path string
		upgrade    bool
		code       int
		want       string
	}{
		{"no upgrade", "one/exec?command=ls", false, 400, "Upgrade request required"},
		{"pending", "pending/exec?command=ls", true, 400, "pod pending does not have a host assigned"},
		{"choice", "two/attach", true, 400, "choose one of: [a b]"},
		{"lost", "lost/exec?command=ls", true, 500, "error dialing backend"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var header []string
			if c.upgrade {
				header = []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
			}
			resp, data := w.do(t, "GET", "/api/v1/namespaces/default/pods/"+c.path, "", header...)
			if resp.StatusCode != c.code || !strings.Contains(string(data), c.want) {
				t.Errorf("%s %s", resp.Status, data)
			}
		})
	}
	// Clients that asked for a stream put "unable to upgrade connection" before what they read.
	resp, data := w.do(t, "GET", "/api/v1/namespaces/default/pods/two/exec?container=b&command=ls&stdout=1", "", "Connection", "Upgrade", "Upgrade", "SPDY/3.1")
	if resp.StatusCode != 500 || string(data) != `container not found ("b")` {
		t.Errorf("the node's words became %s %s", resp.Status, data)
	}
}

func TestNodeProxy(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Nodes, c.Backends = newNode(t), newBackends(t, c.Registry, backend.Config{}) })
	w.pods(t)
	// With the kubelet's port, as older clients write it, the way led to a port that is not there.
	if resp, data := w.do(t, "GET", "/api/v1/nodes/n1:10250/proxy/healthz", ""); resp.StatusCode != 200 || string(data) != "node ok" {
		t.Errorf("with the kubelet's port: %d %s", resp.StatusCode, data)
	}
	if resp, data := w.do(t, "GET", "/api/v1/nodes/n1/proxy/healthz", ""); resp.StatusCode != 200 || string(data) != "node ok" {
		t.Errorf("%s %s", resp.Status, data)
	}
	if resp, data := w.do(t, "GET", "/api/v1/nodes/n2/proxy/healthz", ""); resp.StatusCode != 404 {
		t.Errorf("unknown node: %s %s", resp.Status, data)
	}
	if resp, data := w.do(t, "GET", "/api/v1/namespaces/default/pods/one/proxy/", ""); resp.StatusCode != 400 || !strings.Contains(string(data), "address not allowed") {
		t.Errorf("pod without address: %s %s", resp.Status, data)
	}
	if resp, data := w.do(t, "GET", "/api/v1/namespaces/default/services/none:80/proxy/", ""); resp.StatusCode != 404 {
		t.Errorf("unknown service: %s %s", resp.Status, data)
	}
}

// Today's kubectl falls back to SPDY, which is no HTTP behind its upgrade: bytes go
// through both ways, and an end on one side ends the other.
func TestAnyUpgradeGoesThrough(t *testing.T) {
	n := newNode(t)
	gone := make(chan struct{})
	n.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer close(gone)
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nhello ")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	w := newWorld(t, func(c *Config) { c.Nodes = n })
	w.pods(t)
	c, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /api/v1/namespaces/default/pods/one/exec?command=ls&stdout=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" {
		t.Fatalf("%v %v", resp, err)
	}
	fmt.Fprint(c, "world")
	got := make([]byte, len("hello world"))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "hello world" {
		t.Fatalf("%q %v", got, err)
	}
	c.Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the node's side is still open")
	}
}
