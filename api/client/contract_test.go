package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/client/clienttest"
	"orch/datastore/memory"
	"orch/server/access"
	"orch/server/registry"
	"orch/server/rest"
)

var admin = registry.User{Name: "admin", Groups: []string{api.GroupMasters}}

// everybody is the admin here: who may do what is tested elsewhere.
type everybody struct{}

func (everybody) Authenticate(*http.Request) (registry.User, bool, error) { return admin, true, nil }
func (everybody) Authorize(context.Context, access.Attributes) (bool, string, error) {
	return true, "", nil
}
func (everybody) Dial(context.Context, string) (net.Conn, error) {
	return nil, errors.New("there are no nodes")
}

// newRegistry runs a registry on the memory store until the test ends.
func newRegistry(t *testing.T) *registry.Registry {
	t.Helper()
	reg, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	background(t, reg.Run)
	<-reg.Ready()
	_, err = client.Create(t.Context(), reg.Client(admin), api.Namespaces, &core.Namespace{ObjectMeta: metav1.ObjectMeta{Name: clienttest.Namespace}})
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

func background(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// serve runs the REST server for the registry on the address.
func serve(t *testing.T, reg *registry.Registry, address string, cert tls.Certificate) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	for end := time.Now().Add(time.Minute); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		// Since it was let go, the port may have become that of somebody's connection.
		l, err = net.Listen("tcp", address)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := rest.New(rest.Config{
		Registry: reg, Authenticator: everybody{}, Authorizer: everybody{}, Nodes: everybody{}, Listener: l,
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Version: "v1.37.0",
	})
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String(), background(t, s.Run)
}

func certificate(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestContractInProcess(t *testing.T) {
	clienttest.Run(t, newRegistry(t).Client(admin))
}

// dial makes a client over HTTP with its own cache.
func dial(t *testing.T, address string, ca []byte) (*client.Client, *client.LiveCache) {
	t.Helper()
	h, err := client.NewHTTP(client.HTTPConfig{Server: "https://" + address, CA: ca, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	cache := client.NewCache(h, map[*api.Facts]client.Scope{api.ConfigMaps.Facts: {}, api.Pods.Facts: {FieldSelector: "spec.nodeName=n1"}})
	background(t, cache.Run)
	return &client.Client{Transport: h, Cache: cache}, cache
}

func TestContractOverHTTP(t *testing.T) {
	cert, ca := certificate(t)
	address, _ := serve(t, newRegistry(t), "127.0.0.1:0", cert)
	c, cache := dial(t, address, ca)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := cache.WaitSynced(ctx); err != nil || !cache.Synced() {
		t.Fatalf("waiting for the cache: %v", err)
	}
	clienttest.Run(t, c)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Errorf("the server chose %q: every watch would take a connection of its own", p)
	}
}

func TestCacheOutlivesAServerRestart(t *testing.T) {
	cert, ca := certificate(t)
	reg := newRegistry(t)
	address, stop := serve(t, reg, "127.0.0.1:0", cert)
	c, cache := dial(t, address, ca)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := cache.WaitSynced(ctx); err != nil {
		t.Fatal(err)
	}
	var gone, came atomic.Int32
	if err := c.Subscribe(ctx, api.ConfigMaps.Facts, func(ch client.Change) {
		if ch.New != nil {
			came.Add(1)
		} else if ch.Old != nil {
			gone.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	local := reg.Client(admin)
	made := func(name string) *core.ConfigMap {
		cm, err := client.Create(ctx, local, api.ConfigMaps, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: clienttest.Namespace, Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		return cm
	}
	follow := func(cm *core.ConfigMap) {
		t.Helper()
		if err := c.WaitRevision(ctx, api.ConfigMaps.Facts, revision(t, cm)); err != nil {
			t.Fatal(err)
		}
	}
	follow(made("before"))
	stop()
	if client.Cached(c, api.ConfigMaps, clienttest.Namespace, "before") == nil {
		t.Error("the content went with the server")
	}
	if err := client.Delete(ctx, local, api.ConfigMaps, clienttest.Namespace, "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	meanwhile := made("meanwhile")
	serve(t, reg, address, cert)
	follow(meanwhile)
	follow(made("after"))
	if came.Load() != 3 || gone.Load() != 1 {
		t.Errorf("%d came and %d went, want 3 and 1", came.Load(), gone.Load())
	}
}

func revision(t *testing.T, o metav1.Object) int64 {
	n, ok := new(big.Int).SetString(o.GetResourceVersion(), 10)
	if !ok {
		t.Fatalf("resource version %q", o.GetResourceVersion())
	}
	return n.Int64()
}

func TestHTTPRetriesAndErrors(t *testing.T) {
	busy := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "0")
		http.Error(w, "busy", http.StatusTooManyRequests)
	}
	cases := []struct {
		name   string
		create bool
		calls  int32 // until it answers
		answer func(w http.ResponseWriter)
		want   func(error) bool
		asked  int32
	}{
		{"a read is tried again when the server is busy", false, 2, busy, func(err error) bool { return err == nil }, 3},
		{"a write is not", true, 9, busy, apierrors.IsTooManyRequests, 1},
		{"no Status in the answer", false, 9, func(w http.ResponseWriter) { http.Error(w, "gateway broke", http.StatusBadGateway) }, func(err error) bool {
			var s apierrors.APIStatus
			return errors.As(err, &s) && s.Status().Code == http.StatusBadGateway
		}, 1},
		{"nonsense", false, 9, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(`{"kind":`))
		}, func(err error) bool { return err != nil }, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int32
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) <= c.calls {
					c.answer(w)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				w.Write([]byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}`))
			})}
			go srv.Serve(l)
			defer srv.Close()
			h, err := client.NewHTTP(client.HTTPConfig{Server: "http://" + l.Addr().String(), Token: func() (string, error) { return "t", nil }})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if c.create {
				_, err = client.Create(t.Context(), h, api.ConfigMaps, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}})
			} else {
				_, err = client.Get(t.Context(), h, api.ConfigMaps, "default", "a")
			}
			if !c.want(err) || asked.Load() != c.asked {
				t.Errorf("asked %d times, want %d; error %v", asked.Load(), c.asked, err)
			}
		})
	}
}

func TestNewHTTPRefuses(t *testing.T) {
	for _, c := range []client.HTTPConfig{
		{Server: "10.0.0.1:6443"}, {Server: "ftp://host"}, {Server: "https://host", CA: []byte("no PEM")}, {Server: "https://host", Cert: []byte("no"), Key: []byte("no")},
	} {
		if _, err := client.NewHTTP(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
