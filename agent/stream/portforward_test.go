package stream

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"orch/network/nettest"
	"orch/runtime/fakeengine"
)

// dialers are how port-forward clients connect.
var dialers = []struct {
	name string
	make func(*rest.Config, *url.URL) (httpstream.Dialer, error)
}{
	{"WebSocket", func(c *rest.Config, u *url.URL) (httpstream.Dialer, error) {
		return portforward.NewSPDYOverWebsocketDialer(u, c)
	}},
	{"SPDY", func(c *rest.Config, u *url.URL) (httpstream.Dialer, error) {
		transport, upgrader, err := spdy.RoundTripperFor(c)
		if err != nil {
			return nil, err
		}
		return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), nil
	}},
}

// echo answers on a port of its own: what it gets, in capitals, and the end.
func echo(t *testing.T) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := c.Read(buf)
					if _, werr := c.Write(bytes.ToUpper(buf[:n])); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// forwarding runs a client's port-forward to the port and tells where it listens.
func (r *rig) forwarding(dialer httpstream.Dialer, port uint16, errOut io.Writer) (local string) {
	r.Helper()
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, errOut)
	if err != nil {
		r.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		r.Fatalf("ended at once: %v", err)
	}
	r.Cleanup(func() {
		close(stop)
		<-done
	})
	ports, err := f.GetPorts()
	if err != nil {
		r.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

func TestPortForward(t *testing.T) {
	for _, d := range dialers {
		t.Run(d.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Script{}, nil)
			dialer, err := d.make(r.config(), r.url("/portForward/default/web", nil))
			if err != nil {
				t.Fatal(err)
			}
			errOut := &safeBuffer{}
			local := r.forwarding(dialer, echo(t), errOut)
			var work sync.WaitGroup
			for i := range 20 { // at once
				work.Go(func() {
					want := strings.Repeat(fmt.Sprint("hello", i), 100_000)
					got, err := ask(local, want)
					if err != nil || got != strings.ToUpper(want) {
						t.Errorf("%d: %d bytes of %d, %v", i, len(got), len(want), err)
					}
				})
			}
			work.Wait()
			if errOut.String() != "" {
				t.Error(errOut)
			}
		})
	}
}

// ask sends text, ends its half, and reads the answer.
func ask(address, text string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	go func() {
		_, _ = io.WriteString(c, text)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	b, err := io.ReadAll(c)
	return string(b), err
}

// What was forwarded and has ended is forgotten, though the port-forward goes on.
func TestForwardedIsForgotten(t *testing.T) {
	for _, d := range dialers {
		t.Run(d.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Script{}, nil)
			dialer, err := d.make(r.config(), r.url("/portForward/default/web", nil))
			if err != nil {
				t.Fatal(err)
			}
			local := r.forwarding(dialer, echo(t), io.Discard)
			count := func() int { return strings.Count(stacks(), "orch/agent/stream.(*forwarder)") }
			for i := range 50 {
				if got, err := ask(local, "a"); err != nil || got != "A" {
					t.Fatalf("%d: %q %v", i, got, err)
				}
			}
			if !await(func() bool { return count() == 0 }) {
				t.Errorf("%d goroutines of forwarding are left", count())
			}
		})
	}
}

func TestClosedPort(t *testing.T) {
	port := uint16(nettest.Port(t))
	for _, d := range dialers {
		t.Run(d.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Script{}, nil)
			dialer, err := d.make(r.config(), r.url("/portForward/default/web", nil))
			if err != nil {
				t.Fatal(err)
			}
			conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			head := http.Header{"Streamtype": {"error"}, "Port": {fmt.Sprint(port)}, "Requestid": {"0"}}
			errors, err := conn.CreateStream(head)
			if err != nil {
				t.Fatal(err)
			}
			head.Set("Streamtype", "data")
			data, err := conn.CreateStream(head)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("error forwarding port %d to pod web_default, uid uid-1: dial tcp 127.0.0.1:%d: connect: connection refused", port, port)
			if b, err := io.ReadAll(errors); err != nil || string(b) != want {
				t.Errorf("%q %v", b, err)
			}
			if b, err := io.ReadAll(data); err != nil || len(b) > 0 {
				t.Errorf("%q %v", b, err)
			}
		})
	}
}

// Clients in other languages name the ports in the query and get channels.
func TestPortForwardByChannels(t *testing.T) {
	closed := uint16(nettest.Port(t))
	for _, text := range []bool{false, true} {
		t.Run(fmt.Sprintf("text %v", text), func(t *testing.T) {
			r := newRig(t, fakeengine.Script{}, nil)
			open := echo(t)
			p := protocolV4
			if text {
				p = protocolV4Text
			}
			c := r.webSocket("/portForward/default/web", url.Values{"port": {fmt.Sprint(open), fmt.Sprint(closed)}}, p)
			c.send(0, "abc")
			got := map[byte]string{}
			for len(got[0]) < 5 || len(got[3]) < 100 {
				channel, data, err := c.receive()
				if err != nil {
					t.Fatal(err)
				}
				got[channel] += data
			}
			number := func(port uint16) string { return string([]byte{byte(port), byte(port >> 8)}) }
			if got[0] != number(open)+"ABC" || got[1] != number(open) || got[2] != number(closed) ||
				got[3] != number(closed)+fmt.Sprintf("error forwarding port %d to pod web_default, uid uid-1: dial tcp 127.0.0.1:%d: connect: connection refused", closed, closed) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestPortForwardRefusals(t *testing.T) {
	r := newRig(t, fakeengine.Script{}, nil)
	for _, c := range []struct {
		name, path, protocol string
		code                 int
		want                 string
	}{
		{"no pod", "none", tunnelProtocol, 500, `pod not found ("none_default")`},
		{"no port", "web", protocolV4, 400, `query parameter "port" is required`},
		{"no port number", "web?port=http", protocolV4, 400, `unable to parse "http" as a port`},
		{"port too large", "web?port=65536", protocolV4, 400, `unable to parse "65536" as a port`},
		{"too many ports", "web?port=" + strings.TrimSuffix(strings.Repeat("1,", 128), ","), protocolV4, 400, "at most 127 ports"},
		{"protocol", "web?port=80", "v9.channel.k8s.io", 403, "requested protocol(s) are not supported: [v9.channel.k8s.io]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := websocket.Dialer{Subprotocols: []string{c.protocol}}
			_, resp, err := d.Dial("ws"+strings.TrimPrefix(r.server.URL, "http")+"/portForward/default/"+c.path, nil)
			if err == nil || resp == nil {
				t.Fatal("it was let in", err)
			}
			b, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.code || !strings.Contains(string(b), c.want) {
				t.Errorf("%d %q", resp.StatusCode, b)
			}
		})
	}
}

// The client is cut off in the middle, or its half never ends.
func TestPortForwardEnds(t *testing.T) {
	for _, d := range dialers {
		for _, how := range []string{"cut", "stop"} {
			t.Run(d.name+"/"+how, func(t *testing.T) {
				r := newRig(t, fakeengine.Script{}, func(c *Config) { c.Ping = 50 * time.Millisecond })
				cable := r.cable()
				u := r.url("/portForward/default/web", nil)
				u.Host = cable.Addr().String()
				dialer, err := d.make(r.config(), u)
				if err != nil {
					t.Fatal(err)
				}
				local := r.forwarding(dialer, echo(t), io.Discard)
				c, err := net.Dial("tcp", local)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_, _ = io.WriteString(c, "x")
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				if how == "cut" {
					cable.cut()
				} else {
					r.stop()
				}
			})
		}
	}
}
