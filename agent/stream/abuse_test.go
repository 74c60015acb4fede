package stream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/transport/spdy"

	"orch/runtime/engine"
	"orch/runtime/fakeengine"
)

// rawClient speaks the channels by hand.
type rawClient struct {
	*rig
	conn *websocket.Conn
	text bool
}

func (r *rig) webSocket(path string, q url.Values, protocols ...string) *rawClient {
	r.Helper()
	u := r.url(path, q)
	u.Scheme = "ws"
	d := websocket.Dialer{Subprotocols: protocols}
	conn, resp, err := d.Dial(u.String(), nil)
	if err != nil {
		r.Fatalf("%v %v", err, resp)
	}
	r.Cleanup(func() { conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return &rawClient{r, conn, strings.Contains(conn.Subprotocol(), "base64")}
}

func (c *rawClient) send(channel byte, data string) {
	c.Helper()
	message := append([]byte{channel}, data...)
	if c.text {
		message = append([]byte{channel + '0'}, base64.StdEncoding.EncodeToString([]byte(data))...)
	}
	if err := c.conn.WriteMessage(websocket.BinaryMessage, message); err != nil {
		c.Error(err)
	}
}

func (c *rawClient) receive() (channel byte, data string, err error) {
	_, b, err := c.conn.ReadMessage()
	if err != nil || len(b) == 0 {
		return 0, "", err
	}
	if !c.text {
		return b[0], string(b[1:]), nil
	}
	plain, err := base64.StdEncoding.DecodeString(string(b[1:]))
	return b[0] - '0', string(plain), err
}

// all reads until the server closes.
func (c *rawClient) all() (byChannel map[byte]string, err error) {
	byChannel = map[byte]string{}
	for {
		channel, data, err := c.receive()
		if err != nil {
			return byChannel, err
		}
		byChannel[channel] += data
	}
}

var cat = url.Values{"command": {"cat"}, "input": {"1"}, "output": {"1"}}

func TestSubprotocols(t *testing.T) {
	for _, c := range []struct {
		name     string
		offers   []string
		chosen   string
		first    bool // an empty message says that the connection stands
		status   bool
		command  string
		errorMsg string
	}{
		{"v5", []string{protocolV5}, protocolV5, false, true, "cat", ""},
		{"v4", []string{protocolV4}, protocolV4, true, true, "cat", ""},
		{"v4 text", []string{protocolV4Text}, protocolV4Text, true, true, "cat", ""},
		{"v1", []string{protocolV1}, protocolV1, true, false, "cat", ""},
		{"v1 text", []string{protocolV1Text}, protocolV1Text, true, false, "cat", ""},
		{"none", nil, "", true, false, "cat", ""},
		{"the client's order", []string{"v9.channel.k8s.io", protocolV4, protocolV5}, protocolV4, true, true, "cat", ""},
		{"v1 failure", []string{protocolV1}, protocolV1, true, false, "fail", "command terminated with non-zero exit code: command terminated with exit code 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, script, nil)
			q := url.Values{"command": {c.command}, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}} // the API's names
			ws := r.webSocket("/exec/default/web/app", q, c.offers...)
			if ws.conn.Subprotocol() != c.chosen {
				t.Fatalf("subprotocol %q", ws.conn.Subprotocol())
			}
			if c.first {
				if channel, data, err := ws.receive(); channel != 1 || data != "" || err != nil {
					t.Errorf("first message %d %q %v", channel, data, err)
				}
			}
			if c.command == "cat" {
				ws.send(0, "hello")
				if channel, data, err := ws.receive(); channel != 1 || data != "hello" || err != nil {
					t.Errorf("%d %q %v", channel, data, err)
				}
				if c.chosen != protocolV5 {
					return // these cannot end their input; leaving kills
				}
				ws.send(255, "\x00")
			}
			got, err := ws.all()
			if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				t.Error(err)
			}
			var status metav1.Status
			if c.status && (json.Unmarshal([]byte(got[3]), &status) != nil || status.Status != metav1.StatusSuccess) {
				t.Errorf("status %q", got[3])
			}
			if !c.status && got[3] != c.errorMsg {
				t.Errorf("error %q", got[3])
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t, script, nil)
	r.change("web", func(p *Pod) { p.Containers = append(p.Containers, Container{Name: "ended", ID: "x"}) })
	for _, c := range []struct {
		name, path string
		code       int
		want       string
	}{
		{"no pod", "/exec/default/none/app?command=ls&output=1", 404, "pod does not exist"},
		{"no container", "/exec/default/web/none?command=ls&output=1", 500, `container not found ("none")`},
		{"not running", "/exec/default/web/ended?command=ls&output=1", 500, `container not found ("ended")`},
		{"attach to none", "/attach/default/web/ended?output=1", 500, `container not found ("ended")`},
		{"no streams", "/exec/default/web/app?command=ls", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"no command", "/exec/default/web/app?output=1", 400, "you must specify a command"},
		{"protocol", "/exec/default/web/app?output=1&command=ls", 403, "requested protocol(s) are not supported: [v9.channel.k8s.io]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := websocket.Dialer{Subprotocols: []string{"v9.channel.k8s.io"}}
			_, resp, err := d.Dial("ws"+strings.TrimPrefix(r.server.URL, "http")+c.path, nil)
			if err == nil || resp == nil {
				t.Fatal("it was let in", err)
			}
			b, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.code || !strings.HasPrefix(string(b), c.want) {
				t.Errorf("%d %q", resp.StatusCode, b)
			}
		})
	}
	for _, path := range []string{"/exec/default/web/app?command=ls&output=1", "/attach/default/web/app?output=1", "/portForward/default/web"} {
		if code, body := r.get(path); code != 400 || body != "Upgrade request required" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	if code, body := r.get("/healthz"); code != 200 || body != "ok" {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := r.get("/no/such/page"); code != 404 {
		t.Error(code)
	}
}

// Strange messages end at most the connection they come on.
func TestStrangeMessages(t *testing.T) {
	for _, c := range []struct {
		name, protocol string
		messages       []string
		survives       bool
	}{
		{"empty", protocolV5, []string{""}, true},
		{"no such channel", protocolV5, []string{"\x07abc", "\xfeabc"}, true},
		{"output from the client", protocolV5, []string{"\x01abc", "\x02abc", "\x03abc"}, true},
		{"no size", protocolV5, []string{"\x04{", "\x04", "\x04" + `{"Width":-1}`, "\x04" + `{"Width":70000,"Height":1}`, "\x04" + strings.Repeat("[", 1<<20)}, true},
		{"ends of nothing", protocolV5, []string{"\xff", "\xff\x09"}, true},
		{"large", protocolV5, []string{"\x00" + strings.Repeat("x", 20<<20)}, true},
		{"too large", protocolV5, []string{"\x00" + strings.Repeat("x", maxMessage+1)}, false},
		{"no base64", protocolV4Text, []string{"0***"}, false},
		{"no channel of base64", protocolV4Text, []string{"\x00YQ=="}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Script{Exec: func(_ context.Context, _ engine.ExecSpec, streams engine.IO) (int, error) {
				buf, tail := make([]byte, 32<<10), ""
				for {
					n, err := streams.Stdin.Read(buf)
					if err != nil {
						return 0, nil
					}
					tail += string(buf[:n]) // a message may come in parts
					if tail = tail[max(0, len(tail)-len("ping")):]; tail == "ping" {
						fmt.Fprint(streams.Stdout, "pong")
					}
				}
			}}, nil)
			ws := r.webSocket("/exec/default/web/app", cat, c.protocol)
			for _, m := range c.messages {
				_ = ws.conn.WriteMessage(websocket.BinaryMessage, []byte(m)) // may fail when it is one too many
			}
			if c.survives {
				ws.send(0, "ping")
			}
			got := ""
			for got == "" {
				var err error
				if _, got, err = ws.receive(); err != nil {
					break
				}
			}
			if (got == "pong") != c.survives {
				t.Errorf("answer %q", got)
			}
		})
	}
}

func TestTooManyStreams(t *testing.T) {
	r := newRig(t, script, func(c *Config) { c.MaxStreams = 2 })
	for range 2 {
		r.webSocket("/exec/default/web/app", cat, protocolV5)
	}
	if code, body := r.get("/containerLogs/default/web/app"); code != 429 || body != "this node has 2 streams open, which is its limit" {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := r.get("/healthz"); code != 200 {
		t.Error(code)
	}
}

// A client that says nothing for long is let go; one that talks is not.
func TestIdle(t *testing.T) {
	r := newRig(t, script, func(c *Config) { c.IdleTimeout, c.Ping = time.Second, 20*time.Millisecond })
	quiet, talking := r.webSocket("/exec/default/web/app", cat, protocolV5), r.webSocket("/exec/default/web/app", cat, protocolV5)
	ended := make(chan error, 1)
	go func() {
		_, err := quiet.all()
		ended <- err
	}()
	begin := time.Now()
	for done := false; !done; {
		talking.send(0, "x")
		if _, data, err := talking.receive(); err != nil || data != "x" {
			t.Fatalf("%q %v", data, err)
		}
		select {
		case <-ended:
			done = time.Since(begin) > 2500*time.Millisecond
			ended <- nil
		case <-time.After(20 * time.Millisecond):
		}
		if time.Since(begin) > patience {
			t.Fatal("the quiet one is still there")
		}
	}
}

// Who is told the outcome and does not leave is let go.
func TestLinger(t *testing.T) {
	r := newRig(t, script, func(c *Config) { c.Linger = 50 * time.Millisecond })
	ws := r.webSocket("/exec/default/web/app", url.Values{"command": {"both"}, "stdout": {"1"}, "stderr": {"1"}}, protocolV5)
	ws.conn.SetCloseHandler(func(int, string) error { return nil }) // does not answer
	if _, err := ws.all(); err == nil {
		t.Error("it was not closed")
	}
}

// spdyUpgrade opens a SPDY connection by hand and returns it bare.
func (r *rig) spdyUpgrade(path, protocol string) net.Conn {
	r.Helper()
	conn, err := net.Dial("tcp", r.server.Listener.Addr().String())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\nContent-Length: 0\r\n\r\n", path, protocol)
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); {
		if _, err := conn.Read(b); err != nil {
			r.Fatalf("%v after %q", err, head)
		}
		head = append(head, b...)
	}
	if !strings.HasPrefix(string(head), "HTTP/1.1 101") {
		r.Fatalf("%q", head)
	}
	return conn
}

// SPDY clients that do not do what they have announced are let go.
func TestStrangeSPDY(t *testing.T) {
	const execPath, forwardPath = "/exec/default/web/app?command=cat&input=1&output=1", "/portForward/default/web"
	for _, c := range []struct{ name, path, protocol, bytes string }{
		{"no streams", execPath, "v4.channel.k8s.io", ""},
		{"a huge data frame", execPath, "v4.channel.k8s.io", "\x00\x00\x00\x01\x00\xff\xff\xff"},
		{"a huge control frame", execPath, "v4.channel.k8s.io", "\x80\x03\x00\x01\x00\xff\xff\xff"},
		{"no SPDY", execPath, "v4.channel.k8s.io", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"a huge data frame to a port", forwardPath, forwardProtocol, "\x00\x00\x00\x01\x00\xff\xff\xff"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, script, func(c *Config) { c.SetupTimeout = 100 * time.Millisecond })
			conn := r.spdyUpgrade(c.path, c.protocol)
			if _, err := io.WriteString(conn, c.bytes); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the connection was not closed: %v", err)
			}
		})
	}
}

func TestStrangeForwards(t *testing.T) {
	header := func(kind, port, id string) http.Header {
		return http.Header{"Streamtype": {kind}, "Port": {port}, "Requestid": {id}}
	}
	for _, c := range []struct {
		name    string
		streams []http.Header
		lives   bool // the connection goes on
	}{
		{"no port", []http.Header{header("data", "", "1")}, false},
		{"port of a name", []http.Header{header("data", "http", "1")}, false},
		{"twice the same", []http.Header{header("data", "80", "1"), header("data", "80", "1")}, false},
		{"unknown", []http.Header{header("noise", "80", "1")}, false},
		{"half a pair", []http.Header{header("data", "80", "1")}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Script{}, func(c *Config) { c.SetupTimeout = 100 * time.Millisecond })
			transport, upgrader, err := spdy.RoundTripperFor(r.config())
			if err != nil {
				t.Fatal(err)
			}
			conn, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", r.url("/portForward/default/web", nil)).Dial(forwardProtocol)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if c.lives {
				s, err := conn.CreateStream(c.streams[0])
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(s); err != nil { // it is given up
					t.Error(err)
				}
				return
			}
			go func() {
				for _, h := range c.streams {
					_, _ = conn.CreateStream(h) // the client library waits long for an answer
				}
			}()
			select {
			case <-conn.CloseChan():
			case <-time.After(patience):
				t.Error("the connection goes on")
			}
		})
	}
}

// TestRefusalOnTheErrorChannel: clients of v5 read why there is no process from a
// connection that stands, where kubectl shows it once and does not try SPDY.
func TestRefusalOnTheErrorChannel(t *testing.T) {
	r := newRig(t, script, nil)
	for path, want := range map[string]string{
		"/exec/default/web/none":   `Internal error occurred: unable to upgrade connection: container not found ("none")`,
		"/attach/default/none/app": "Internal error occurred: unable to upgrade connection: pod does not exist",
	} {
		got, err := r.webSocket(path, cat, protocolV5, protocolV4).all()
		if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Error(err)
		}
		var status metav1.Status
		if err := json.Unmarshal([]byte(got[3]), &status); err != nil || status.Message != want || status.Code != http.StatusInternalServerError {
			t.Errorf("%s: %q %v", path, got[3], err)
		}
	}
}
