// Package extensiontest is an API server for tests of aggregation: it serves the kind
// Flunder of wardle.example.com/v1alpha1 and, shaped like the metrics server, the kinds
// of metrics.k8s.io/v1beta1, with discovery in both forms, watches and OpenAPI, and
// metrics for autoscalers. It lets
// only front proxies in, and tells what they said of the user. It stores nothing beyond
// its life. Start reading at New.
package extensiontest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Group and Version of Flunders.
const (
	Group   = "wardle.example.com"
	Version = "v1alpha1"
	root    = "/apis/" + Group + "/" + Version
	metrics = "/apis/metrics.k8s.io/v1beta1"
)

// Server is a running extension server.
type Server struct {
	// CA is the bundle for the APIService; Address where the server listens.
	CA      []byte
	Address string

	// NoAggregated switches the new form of discovery off, NoV3 OpenAPI of version 3.
	NoAggregated, NoV3 bool

	http *httptest.Server

	mu       sync.Mutex
	down     bool
	revision int
	flunders map[string]map[string]any
	changed  chan struct{}
	events   []event
	asked    []string
	requests int // while it was down
}

type event struct {
	kind   string
	object map[string]any
}

// New starts a server with a certificate for the Service name.namespace.svc, which takes
// clients with a certificate of the front proxies' authority.
func New(t testing.TB, service, namespace string, frontProxyCA []byte) *Server {
	t.Helper()
	s := &Server{flunders: map[string]map[string]any{}, changed: make(chan struct{})}
	cert, ca := certificate(t, service+"."+namespace+".svc")
	s.CA = ca
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(frontProxyCA) {
		t.Fatal("no authority of front proxies")
	}
	s.http = httptest.NewUnstartedServer(s)
	s.http.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, NextProtos: []string{"h2", "http/1.1"}}
	s.http.EnableHTTP2 = true
	s.http.Config.ErrorLog = nil
	s.http.StartTLS()
	s.Address = s.http.Listener.Addr().String()
	t.Cleanup(s.Close)
	return s
}

// Close ends all connections.
func (s *Server) Close() {
	s.http.CloseClientConnections()
	s.http.Close()
}

// SetDown makes every answer an error.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Requests counts what came while the server was down.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Asked lists the paths of the requests so far that ask for documents.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.asked...)
}

// Flunders lists namespace and name of what is there.
func (s *Server) Flunders() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.flunders))
}

func certificate(t testing.TB, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// DialAddress connects to the server, whatever address is asked for.
func (s *Server) DialAddress() (net.Conn, error) { return net.Dial("tcp", s.Address) }

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down := s.down
	if down {
		s.requests++
	}
	s.mu.Unlock()
	if down {
		http.Error(w, "down", http.StatusInternalServerError)
		return
	}
	switch path := r.URL.Path; {
	case path == "/apis", path == root, path == metrics, path == custom, path == external, strings.HasPrefix(path, "/openapi/"):
		s.document(w, r)
	case strings.HasPrefix(path, metrics):
		s.measure(w, r)
	case strings.HasPrefix(path, custom+"/"), strings.HasPrefix(path, external+"/"):
		s.observe(w, r)
	case strings.HasPrefix(path, root+"/"):
		s.resource(w, r)
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// refuse answers with a Status.
func refuse(w http.ResponseWriter, code int, reason, text string) {
	answer(w, code, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": text, "code": code})
}

// resource serves Flunders: /namespaces/NS/flunders[/NAME[/SUB]] and /flunders.
func (s *Server) resource(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, root+"/"), "/")
	namespace, name, sub := "", "", ""
	if parts[0] == "namespaces" && len(parts) > 2 {
		namespace, parts = parts[1], parts[2:]
	}
	if parts[0] != "flunders" {
		http.NotFound(w, r)
		return
	}
	if len(parts) > 1 {
		name = parts[1]
	}
	if len(parts) > 2 {
		sub = parts[2]
	}
	switch {
	case sub == "whoami":
		answer(w, 200, map[string]any{"headers": r.Header, "host": r.Host, "query": r.URL.RawQuery})
	case sub == "away":
		http.Redirect(w, r, "https://elsewhere.example.com/", http.StatusFound)
	case sub == "socket":
		socket(w, r)
	case r.Method == http.MethodPost && name == "":
		s.create(w, r, namespace)
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		s.watch(w, r)
	case r.Method == http.MethodGet && name == "":
		answer(w, 200, s.list(namespace))
	case r.Method == http.MethodDelete && name == "":
		s.mu.Lock()
		for key := range s.flunders {
			if strings.HasPrefix(key, namespace+"/") {
				delete(s.flunders, key)
			}
		}
		s.mu.Unlock()
		answer(w, 200, s.list(namespace))
	default:
		s.one(w, r, namespace+"/"+name)
	}
}

func socket(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.WriteMessage(websocket.TextMessage, []byte("hello "+r.Header.Get("X-Remote-User")))
	for {
		kind, data, err := c.ReadMessage()
		if err != nil {
			return
		}
		_ = c.WriteMessage(kind, data)
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, namespace string) {
	body, err := io.ReadAll(r.Body)
	o := map[string]any{}
	if err != nil || json.Unmarshal(body, &o) != nil {
		refuse(w, 400, "BadRequest", "no object")
		return
	}
	meta, _ := o["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	if name == "" {
		refuse(w, 422, "Invalid", "metadata.name: Required value")
		return
	}
	s.mu.Lock()
	key := namespace + "/" + name
	if s.flunders[key] != nil {
		s.mu.Unlock()
		refuse(w, 409, "AlreadyExists", fmt.Sprintf("flunders.%s %q already exists", Group, name))
		return
	}
	s.revision++
	meta["namespace"], meta["resourceVersion"], meta["uid"] = namespace, strconv.Itoa(s.revision), "uid-"+strconv.Itoa(s.revision)
	meta["creationTimestamp"] = time.Now().UTC().Format(time.RFC3339)
	o["apiVersion"], o["kind"] = Group+"/"+Version, "Flunder"
	s.flunders[key] = o
	s.tellLocked("ADDED", o)
	s.mu.Unlock()
	answer(w, 201, o)
}

func (s *Server) tellLocked(kind string, o map[string]any) {
	s.events = append(s.events, event{kind, o})
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) list(namespace string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	for key, o := range s.flunders {
		if namespace == "" || strings.HasPrefix(key, namespace+"/") {
			items = append(items, o)
		}
	}
	return map[string]any{"apiVersion": Group + "/" + Version, "kind": "FlunderList", "metadata": map[string]any{"resourceVersion": strconv.Itoa(s.revision)}, "items": items}
}

// watch tells all events, then those that come.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	flush := http.NewResponseController(w).Flush
	_ = flush()
	for told := 0; ; {
		s.mu.Lock()
		events, changed := s.events[told:], s.changed
		s.mu.Unlock()
		for _, e := range events {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": e.kind, "object": e.object})
		}
		told += len(events)
		_ = flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
