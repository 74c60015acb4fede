package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"orch/api"
)

func serve(t *testing.T, change func(*Config)) (*Tunnel, string) {
	t.Helper()
	cfg := Config{Wait: 50 * time.Millisecond, Node: func(r *http.Request) (string, error) {
		if n := r.Header.Get("X-Node"); n != "" {
			return n, nil
		}
		return "", errors.New("who are you")
	}}
	if change != nil {
		change(&cfg)
	}
	tun, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tun.Run(ctx) }()
	srv := httptest.NewServer(tun)
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	return tun, srv.Listener.Addr().String()
}

// agent connects as a node and answers every request with its greeting.
func agent(t *testing.T, address, node, greeting string) (stop func()) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nX-Node: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.PathTunnel, node, api.TunnelProtocol)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", resp, err)
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	mux, err := yamux.Server(&prefixed{conn, r}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, greeting+r.URL.Path) })}
	go func() { _ = srv.Serve(mux) }()
	stop = sync.OnceFunc(func() { srv.Close(); mux.Close() })
	t.Cleanup(stop)
	return stop
}

// ask sends one request to a node.
func ask(t *testing.T, tun *Tunnel, node, path string) (string, error) {
	t.Helper()
	conn, err := tun.Dial(t.Context(), node)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestReachAndReconnect(t *testing.T) {
	tun, address := serve(t, func(c *Config) { c.Wait = time.Minute })
	stop := agent(t, address, "n1", "first")
	agent(t, address, "n2", "other")
	for node, want := range map[string]string{"n1": "first/a", "n2": "other/a"} {
		if got, err := ask(t, tun, node, "/a"); err != nil || got != want {
			t.Errorf("%s: %q %v", node, got, err)
		}
	}
	stop()
	// Dial waits for the node to come back.
	go func() {
		time.Sleep(20 * time.Millisecond)
		agent(t, address, "n1", "second")
	}()
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := ask(t, tun, "n1", "/b")
		if err == nil && got == "second/b" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q %v", got, err)
		}
	}
	// A second connection of a node takes the place of the first.
	agent(t, address, "n2", "newer") // its answer comes a little before it counts
	for deadline = time.Now().Add(time.Minute); ; {
		got, err := ask(t, tun, "n2", "/c")
		if err == nil && got == "newer/c" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q %v", got, err)
		}
	}
}

func TestNotConnected(t *testing.T) {
	tun, _ := serve(t, nil)
	if _, err := tun.Dial(t.Context(), "nix"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("got %v", err)
	}
}

func TestRefusals(t *testing.T) {
	tun, address := serve(t, func(c *Config) { c.MaxNodes = 1 })
	for _, tc := range []struct {
		name string
		head map[string]string
		code int
	}{
		{"no node", map[string]string{"Connection": "Upgrade", "Upgrade": api.TunnelProtocol}, 403},
		{"no upgrade", map[string]string{"X-Node": "n1"}, 426},
		{"another protocol", map[string]string{"X-Node": "n1", "Connection": "Upgrade", "Upgrade": "websocket"}, 426},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _ := http.NewRequest("GET", "http://"+address+api.PathTunnel, nil)
			for k, v := range tc.head {
				r.Header.Set(k, v)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.code {
				t.Errorf("got %d", resp.StatusCode)
			}
		})
	}
	agent(t, address, "n1", "")
	deadline := time.Now().Add(time.Minute)
	for !tun.Connected("n1") && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	agent(t, address, "n2", "")
	if tun.Connected("n2") {
		t.Error("more nodes than the limit are held")
	}
}

func TestStreamLimit(t *testing.T) {
	tun, address := serve(t, func(c *Config) { c.MaxStreams, c.Wait = 2, time.Minute })
	agent(t, address, "n1", "")
	for range 2 {
		c, err := tun.Dial(t.Context(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := tun.Dial(t.Context(), "n1"); err == nil {
		t.Error("a third stream was opened")
	}
}

func TestLocal(t *testing.T) {
	tun, _ := serve(t, nil)
	stop := tun.Local("self", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "local"+r.URL.Path) }))
	if got, err := ask(t, tun, "self", "/x"); err != nil || got != "local/x" {
		t.Errorf("%q %v", got, err)
	}
	stop()
	if _, err := tun.Dial(t.Context(), "self"); !errors.Is(err, ErrNotConnected) {
		t.Errorf("got %v", err)
	}
}
