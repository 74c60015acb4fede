package join

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"orch/api"
	"orch/datastore/memory"
	"orch/network/nettest"
	"orch/server"
	serverjoin "orch/server/join"
	"orch/server/pki"
	"orch/server/tunnel"
)

const patience = time.Minute

// control is a real control plane on loopback that can be stopped and started.
type control struct {
	t     *testing.T
	cfg   server.Config
	store *memory.Store
	now   *server.Server
	stop  func()
}

func newControl(t *testing.T, change func(*server.Config)) *control {
	t.Helper()
	dir := t.TempDir()
	c := &control{t: t, store: memory.New(), cfg: server.Config{
		DataDir: dir, BindAddress: "127.0.0.1", AdvertiseAddress: "127.0.0.1", NodeName: "one", WriteKubeconfig: filepath.Join(dir, "orch.yaml"),
		ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDomain: "cluster.local", HTTPSPort: nettest.Port(t), ServiceNodePortRange: "30000-32767", Version: "v1.37.0+orch",
	}}
	if change != nil {
		change(&c.cfg)
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *control) start() {
	c.t.Helper()
	s, err := server.New(c.cfg, c.store, slog.New(slog.DiscardHandler))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c.now = s
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- err
		c.t.Fatal(err)
	}
}

func (c *control) url() string   { return fmt.Sprintf("https://127.0.0.1:%d", c.now.Port()) }
func (c *control) token() string { return c.now.PKI().Token().String() }

// node is the agent's side.
type node struct {
	Config
	log *safeBuffer
}

func (c *control) node(t *testing.T, name string) *node {
	n := &node{log: &safeBuffer{}}
	n.Config = Config{Server: c.url(), Token: c.token(), NodeName: name, Dir: filepath.Join(t.TempDir(), "agent"), Log: slog.New(slog.NewTextHandler(n.log, nil))}
	return n
}

func (n *node) join(t *testing.T) (*Membership, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return Join(ctx, n.Config)
}

func (n *node) mustJoin(t *testing.T) *Membership {
	t.Helper()
	m, err := n.join(t)
	if err != nil {
		t.Fatalf("%v\n%s", err, n.log)
	}
	return m
}

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

func (s *safeBuffer) count(text string) int { return strings.Count(s.String(), text) }

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// wants checks that err is one clear line.
func wants(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v\nwant %s", err, text)
	}
}

func TestRefusals(t *testing.T) {
	c := newControl(t, nil)
	token, other := c.token(), "K10"+strings.Repeat("ab", 32)
	credentials := token[strings.Index(token, "::"):]
	taken := c.node(t, "taken")
	taken.mustJoin(t)
	for _, tc := range []struct {
		name   string
		change func(*node)
		want   string
	}{
		{"no token", func(n *node) { n.Token = "" }, "a join token is needed: pass --token with what the server keeps in <data-dir>/server/token"},
		{"wrong secret", func(n *node) { n.Token = token + "x" }, "the server refused: the join token is wrong; take it from <data-dir>/server/token on a server"},
		{"wrong short token", func(n *node) { n.Token = "secret" }, "the server refused: the join token is wrong"},
		{"wrong CA hash", func(n *node) { n.Token = other + credentials }, "the server refused: the server's CA is not the one that the token names (sha256 "},
		{"cut token", func(n *node) { n.Token = token[:20] }, "the join token is malformed: it starts with K10 but is not K10<sha256 of the CA>::<user>:<secret>"},
		{"half a token", func(n *node) { n.Token = other + "::server" }, "the join token is malformed: no user and secret behind ::"},
		{"plain HTTP", func(n *node) { n.Server = "http://127.0.0.1:6443" }, `"http://127.0.0.1:6443" is not the URL of a server: it looks like https://HOST:6443`},
		{"no URL", func(n *node) { n.Server = "127.0.0.1:6443" }, `"127.0.0.1:6443" is not the URL of a server`},
		{"a path", func(n *node) { n.Server += "/api" }, "is not the URL of a server"},
		{"certificate for another name", func(n *node) { n.Server = fmt.Sprintf("https://127.0.0.2:%d", c.now.Port()) }, "the server refused: its certificate is not for 127.0.0.2: start the server with --tls-san 127.0.0.2"},
		{"name taken", func(n *node) { n.NodeName = "taken" }, `the server refused: node "taken" has joined before with another password; choose another --node-name, or run "kubectl delete node taken" if that node is gone`},
		{"the server's own name", func(n *node) { n.NodeName = "one" }, `the server refused: node "one" is the server's own; choose another --node-name`},
		{"no name of a node", func(n *node) { n.NodeName = "Node_1" }, `the server refused: node name "Node_1": a lowercase RFC 1123 subdomain`},
		{"nowhere to keep it", func(n *node) { n.Dir = "/proc/none" }, "keeping the node's membership: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "certificate for another name" {
				proxy(t, fmt.Sprintf("127.0.0.2:%d", c.now.Port()), fmt.Sprintf("127.0.0.1:%d", c.now.Port()))
			}
			n := c.node(t, "two")
			tc.change(n)
			_, err := n.join(t)
			wants(t, err, tc.want)
		})
	}
}

// proxy passes connections on.
func proxy(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			go func() { _, _ = io.Copy(far, near); far.Close() }()
			go func() { _, _ = io.Copy(near, far); near.Close() }()
		}
	}()
}

func TestJoinAndRestart(t *testing.T) {
	c := newControl(t, nil)
	n := c.node(t, "two")
	m := n.mustJoin(t)
	if got := m.Cluster(); got.ClusterCIDR != "10.42.0.0/16" || got.ServiceCIDR != "10.43.0.0/16" || got.ClusterDNS != "10.43.0.10" || got.ClusterDomain != "cluster.local" {
		t.Errorf("%+v", got)
	}
	if !bytes.Equal(m.CA(), c.now.PKI().ServerCA()) {
		t.Error("another CA")
	}
	if info, err := os.Stat(filepath.Join(n.Dir, keptFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	first, _ := m.Certificate()

	t.Run("server down, no token", func(t *testing.T) {
		c.stop()
		defer c.start()
		again := *n
		again.Token = ""
		m := again.mustJoin(t)
		if cert, _ := m.Certificate(); !bytes.Equal(cert.Certificate[0], first.Certificate[0]) {
			t.Error("it is another certificate")
		}
	})
	t.Run("another URL of the same cluster", func(t *testing.T) {
		again := *n
		again.Token = "" // its certificate is enough
		again.Server = fmt.Sprintf("https://localhost:%d", c.now.Port())
		if m := again.mustJoin(t); m.Server() != again.Server {
			t.Error(m.Server())
		}
		n.mustJoin(t) // and back
	})
	t.Run("another name", func(t *testing.T) {
		again := *n
		again.NodeName = "three"
		cert, _ := again.mustJoin(t).Certificate()
		if cert.Leaf.Subject.CommonName != "system:node:three" || !strings.Contains(n.log.String(), `the certificate is of \"system:node:two\", not of node \"three\"`) {
			t.Errorf("%s\n%s", cert.Leaf.Subject, n.log)
		}
		n.mustJoin(t)
	})
	t.Run("another name without a token", func(t *testing.T) {
		again := *n
		again.NodeName, again.Token = "four", ""
		_, err := again.join(t)
		wants(t, err, "a join token is needed")
	})
	t.Run("server set up anew", func(t *testing.T) {
		anew := newControl(t, nil)
		proxied := *n
		proxied.Server, proxied.Token = anew.url(), anew.token()
		if m := proxied.mustJoin(t); !bytes.Equal(m.CA(), anew.now.PKI().ServerCA()) {
			t.Error("the old CA")
		}
		short := *n
		short.Dir, short.Token = proxied.Dir, c.token()[strings.LastIndex(c.token(), ":")+1:]
		_, err := short.join(t)
		wants(t, err, "the server refused: its CA is not the one that this node has joined: if the server was set up anew, join with its whole new token (K10...), or remove "+filepath.Join(n.Dir, keptFile))
	})
	t.Run("damaged", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(n.Dir, keptFile), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := n.join(t)
		wants(t, err, "(remove "+filepath.Join(n.Dir, keptFile)+" to join anew)")
	})
}

// The short token joins, but not silently.
func TestShortToken(t *testing.T) {
	c := newControl(t, nil)
	n := c.node(t, "two")
	n.Token = n.Token[strings.LastIndex(n.Token, ":")+1:]
	n.mustJoin(t)
	if n.log.count("the token does not name the server's CA") != 1 {
		t.Error(n.log)
	}
}

// A node waits for a server that is not there yet, and says so once.
func TestWaitsForTheServer(t *testing.T) {
	c := newControl(t, nil)
	n := c.node(t, "two")
	c.stop()
	done := make(chan error, 1)
	go func() {
		_, err := Join(t.Context(), n.Config)
		done <- err
	}()
	await(t, "warning", func() bool { return n.log.count("joining is not possible yet, trying again") == 1 })
	time.Sleep(500 * time.Millisecond)
	if n.log.count("not possible yet") != 1 || !strings.Contains(n.log.String(), "connect: connection refused") || strings.Contains(n.log.String(), "Get ") {
		t.Error(n.log)
	}
	c.start()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// strange is a server that speaks TLS but not sense.
func strange(t *testing.T, cacerts, join http.HandlerFunc) (url, token string) {
	t.Helper()
	mux := http.NewServeMux()
	s := httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if cacerts == nil {
		cacerts = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(ca) }
	}
	mux.HandleFunc(api.PathCACerts, cacerts)
	if join != nil {
		mux.HandleFunc(api.PathJoin, join)
	}
	sum := sha256.Sum256(ca)
	return s.URL, "K10" + hex.EncodeToString(sum[:]) + "::server:x"
}

func TestStrangeServers(t *testing.T) {
	says := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, text)
		}
	}
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for block := bytes.Repeat([]byte("x"), 1<<16); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	answer := func(a api.JoinAnswer) http.HandlerFunc {
		b, _ := json.Marshal(a)
		return says(200, string(b))
	}
	for _, tc := range []struct {
		name          string
		cacerts, join http.HandlerFunc
		short         bool
		want          string
		retries       bool
	}{
		{"no CA", says(404, "nothing here"), nil, false, "the server refused: /cacerts answered 404 without a certificate: is it an orch server?", false},
		{"a page for a CA", says(200, "<html>"), nil, true, "the server refused: /cacerts answered 200 without a certificate", false},
		{"an endless CA", endless, nil, false, "the server refused: the answer of /cacerts is larger than 1048576 bytes: is it an orch server?", false},
		{"starting", says(503, ""), nil, false, "/cacerts answered 503 Service Unavailable", true},
		{"no join", nil, nil, false, "the server refused: /orch/v1/join answered 404 Not Found", false},
		{"a page", nil, says(200, "<html>"), false, "the server refused: its answer cannot be read: invalid character '<'", false},
		{"endless", nil, endless, false, "the server refused: the answer of /orch/v1/join is larger than", false},
		{"empty", nil, says(200, "{}"), false, "the server refused: its answer is of no use: reading the node's certificate: ", false},
		{"no certificate", nil, answer(api.JoinAnswer{Certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}), false, "the server refused: its answer is of no use: reading the node's certificate: x509: malformed certificate", false},
		{"busy", nil, says(429, ""), false, "/orch/v1/join answered 429 Too Many Requests", true},
		{"broken", nil, says(500, `{"message":"the node's password could not be stored"}`), false, "the node's password could not be stored", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url, token := strange(t, tc.cacerts, tc.join)
			if tc.short {
				token = "x"
			}
			log := &safeBuffer{}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cfg := Config{Server: url, Token: token, NodeName: "two", Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(log, nil))}
			if tc.retries {
				go func() {
					for log.count("trying again") == 0 && ctx.Err() == nil {
						time.Sleep(5 * time.Millisecond)
					}
					cancel()
				}()
			}
			_, err := Join(ctx, cfg)
			if tc.retries {
				if log.count(tc.want) != 1 || err != context.Canceled {
					t.Errorf("%v\n%s", err, log)
				}
				return
			}
			wants(t, err, tc.want)
		})
	}
}

// hasty signs certificates that last a few seconds.
type hasty struct {
	*pki.PKI
	life time.Duration
}

func (h hasty) SignNode(node string, csr []byte) ([]byte, error) {
	r, err := pki.ParseRequest(csr)
	if err != nil {
		return nil, err
	}
	return h.Sign(pki.Profile{Name: api.UserNodePrefix + node, Groups: []string{api.GroupNodes}, Client: true, LifeAtMost: h.life}, r.PublicKey)
}

// front is a control plane's door with certificates of a short life.
func front(t *testing.T, c *control, life time.Duration, accepts func(user, secret string) bool) (url string, tun *tunnel.Tunnel) {
	t.Helper()
	nodeOf := func(r *http.Request) (string, error) {
		if err := c.now.PKI().VerifyClient(r.TLS.PeerCertificates); err != nil {
			return "", err
		}
		return strings.TrimPrefix(r.TLS.PeerCertificates[0].Subject.CommonName, api.UserNodePrefix), nil
	}
	h, err := serverjoin.New(serverjoin.Config{Authority: hasty{c.now.PKI(), life}, Accepts: accepts, Node: nodeOf,
		Client: c.now.Client(api.ControllerUser, "system:masters"), Log: slog.New(slog.DiscardHandler),
		Cluster: serverjoin.Cluster{ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16"}})
	if err != nil {
		t.Fatal(err)
	}
	if tun, err = tunnel.New(tunnel.Config{Node: nodeOf, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tun.Run(ctx) }()
	mux := http.NewServeMux()
	mux.HandleFunc(api.PathCACerts, h.CACerts)
	mux.Handle(api.PathJoin, h)
	mux.Handle(api.PathTunnel, tun)
	s := httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = c.now.PKI().TLSConfig()
	s.TLS.NextProtos = []string{"http/1.1"}
	serving, err := s.TLS.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS.Certificates = []tls.Certificate{*serving}
	s.StartTLS()
	t.Cleanup(func() {
		cancel()
		<-done
		s.Close()
	})
	return s.URL, tun
}

func TestRenewal(t *testing.T) {
	const life = 6 * time.Second // a renewal comes after two thirds of it
	c := newControl(t, nil)
	accepted := make(chan struct{})
	accepts := func(user, secret string) bool {
		select {
		case <-accepted:
			return false // the token is another one by now
		default:
			close(accepted)
			return c.now.PKI().Token().Accepts(user, secret)
		}
	}
	url, _ := front(t, c, life, accepts)
	n := c.node(t, "two")
	n.Server = url
	begin := time.Now()
	m := n.mustJoin(t)
	first, _ := m.Certificate()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	await(t, "two renewals", func() bool { return n.log.count("renewed the node's certificate") == 2 })
	if took := time.Since(begin); took < life {
		t.Errorf("renewed too often: twice in %v", took)
	}
	second, _ := m.Certificate()
	if bytes.Equal(first.Certificate[0], second.Certificate[0]) {
		t.Error("the same certificate")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	// What was renewed is what is kept.
	again := *n
	again.Token = ""
	kept, _ := again.mustJoin(t).Certificate()
	if !bytes.Equal(kept.Certificate[0], second.Certificate[0]) {
		t.Error("the renewed certificate is not kept")
	}
	time.Sleep(time.Until(second.Leaf.NotAfter) + 10*time.Millisecond)
	_, err := again.join(t)
	wants(t, err, "a join token is needed")
	if !strings.Contains(again.log.String(), "the node's certificate expired on ") {
		t.Error(again.log)
	}
}

// A renewal is asked for when the server says, not before: an ordinary certificate
// is left alone though it began in 1970.
func TestNoNeedlessRenewal(t *testing.T) {
	c := newControl(t, nil)
	n := c.node(t, "two")
	now := time.Now()
	clock := &now
	var mu sync.Mutex
	n.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return *clock }
	m := n.mustJoin(t)
	left := m.due.Sub(now)
	if left < 200*24*time.Hour || left > 364*24*time.Hour {
		t.Errorf("due in %v", left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := m.Run(ctx); err != nil || n.log.count("renewed") != 0 {
		t.Errorf("%v\n%s", err, n.log)
	}
	// Years pass in no time: the clock was set.
	mu.Lock()
	*clock = now.Add(300 * 24 * time.Hour)
	mu.Unlock()
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	await(t, "renewal", func() bool { return n.log.count("renewed the node's certificate") == 1 })
	cancel()
	<-done
}

// The connection is held through restarts of the server; each state is told once.
func TestServe(t *testing.T) {
	c := newControl(t, nil)
	n := c.node(t, "two")
	m := n.mustJoin(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- m.Serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "node says "+r.URL.Path) }))
	}()
	ask := func() string {
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.now.Tunnel().Dial(ctx, "two") }}
		resp, err := (&http.Client{Transport: tr}).Get("http://two/x")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	await(t, "answer", func() bool { return ask() == "node says /x" })
	for i := range 2 {
		c.stop()
		await(t, "warning", func() bool { return n.log.count("no connection to the server, trying again") >= i+1 })
		time.Sleep(300 * time.Millisecond)
		c.start()
		await(t, "answer after a restart", func() bool { return ask() == "node says /x" })
	}
	if got := n.log.count("connected to the server"); got != 3 {
		t.Errorf("%d connections are told of", got)
	}
	if got := n.log.count("trying again"); got > 6 {
		t.Errorf("%d warnings:\n%s", got, n.log)
	}
	begin := time.Now()
	cancel()
	if err := <-done; err != nil || time.Since(begin) > 15*time.Second { // less than what any call may take
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

// A server that lets nobody in, or is another one, is named.
func TestServeRefused(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, m *Membership)
		want   string
	}{
		{"another CA", func(t *testing.T, m *Membership) { m.url, _ = parseURL(newControl(t, nil).url()) },
			"its certificate is of another CA than the one this node has joined: if the server was set up anew, join with its new token"},
		{"certificate of another authority", func(t *testing.T, m *Membership) {
			other := newControl(t, nil)
			m.cert, _ = other.node(t, "two").mustJoin(t).Certificate()
		}, "the server answered 403 Forbidden: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newControl(t, nil)
			n := c.node(t, "two")
			m := n.mustJoin(t)
			tc.change(t, m)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- m.Serve(ctx, http.NotFoundHandler()) }()
			await(t, "warning", func() bool { return n.log.count("trying again") > 0 })
			time.Sleep(500 * time.Millisecond)
			cancel()
			<-done
			if n.log.count(tc.want) != 1 {
				t.Error(n.log)
			}
		})
	}
}
