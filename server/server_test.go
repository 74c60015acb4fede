package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore"
	"orch/datastore/memory"
	"orch/server/pki"
)

// start runs a server on loopback until the test ends.
func start(t testing.TB, store datastore.Store, change func(*Config)) *Server {
	t.Helper()
	s, stop := boot(t, store, change)
	t.Cleanup(stop)
	return s
}

// boot runs a server on loopback until stop is called.
func boot(t testing.TB, store datastore.Store, change func(*Config)) (_ *Server, stop func()) {
	t.Helper()
	return bootLogging(t, store, slog.New(slog.DiscardHandler), change)
}

func bootLogging(t testing.TB, store datastore.Store, log *slog.Logger, change func(*Config)) (_ *Server, stop func()) {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{
		DataDir: dir, BindAddress: "127.0.0.1", AdvertiseAddress: "192.0.2.1", NodeName: "one", WriteKubeconfig: filepath.Join(dir, "orch.yaml"),
		ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767",
		Version: "v1.37.0+orch",
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg, store, log)
	for end := time.Now().Add(time.Minute); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		// Since it was let go, the port may have become that of somebody's connection.
		s, err = New(cfg, store, log)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server ended with %v", err)
		}
	}
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("server did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("server is not ready")
	}
	return s, stop
}

// caller makes requests as somebody.
type caller struct {
	t    testing.TB
	s    *Server
	http *http.Client
	// header is sent with every request.
	header http.Header
}

func as(t testing.TB, s *Server, cert, key []byte) *caller {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.PKI().ServerCA())
	c := &tls.Config{RootCAs: roots}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	tr := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &caller{t, s, &http.Client{Transport: tr}, http.Header{}}
}

func user(t testing.TB, s *Server, name string, groups ...string) *caller {
	t.Helper()
	cert, key, err := s.PKI().ClientPair(name, groups...)
	if err != nil {
		t.Fatal(err)
	}
	return as(t, s, cert, key)
}

func (c *caller) do(method, path, body string) (int, string) {
	c.t.Helper()
	r, err := http.NewRequest(method, c.s.url()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header = c.header.Clone()
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
		if method == "PATCH" {
			r.Header.Set("Content-Type", "application/merge-patch+json")
		}
	}
	resp, err := c.http.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (c *caller) message(method, path, body string) (int, string) {
	c.t.Helper()
	code, text := c.do(method, path, body)
	var s metav1.Status
	if json.Unmarshal([]byte(text), &s) == nil && s.Kind == "Status" {
		return code, s.Message
	}
	return code, text
}

func TestFirstBoot(t *testing.T) {
	begin := time.Now()
	s := start(t, memory.New(), nil)
	t.Logf("first boot to ready: %v", time.Since(begin))
	admin := user(t, s, "admin", api.GroupMasters)
	for _, path := range []string{"/readyz", "/livez", "/healthz", "/version", "/api", "/apis", "/api/v1/nodes", "/metrics"} {
		if code, body := admin.do("GET", path, ""); code != 200 {
			t.Errorf("GET %s: %d %s", path, code, body)
		} else if path == "/metrics" && !strings.Contains(body, "apiserver_request_total{") {
			t.Errorf("requests are not counted:\n%s", body)
		}
	}
	c := s.Client("test")
	for name, want := range map[string]string{"kubernetes": "10.43.0.1", "kube-dns": "10.43.0.10"} {
		ns := api.NamespaceDefault
		if name == "kube-dns" {
			ns = api.NamespaceSystem
		}
		svc := client.Cached(c, api.Services, ns, name)
		if svc == nil || svc.Spec.ClusterIP != want {
			t.Errorf("service %s is %+v, want address %s", name, svc, want)
		}
	}
	ep := client.Cached(c, api.Endpoints, "default", "kubernetes")
	if ep == nil || ep.Subsets[0].Addresses[0].IP != "192.0.2.1" || int(ep.Subsets[0].Ports[0].Port) != s.Port() {
		t.Errorf("endpoints of kubernetes: %+v", ep)
	}
	if n := len(client.CachedList(c, api.ClusterRoles, "", nil)); n < 65 {
		t.Errorf("%d cluster roles", n)
	}
	waitFor(t, "role admin to be summed up", func() bool {
		r := client.Cached(c, api.ClusterRoles, "", "admin")
		return r != nil && len(r.Rules) > 20
	})
	if b, err := os.ReadFile(s.KubeconfigPath()); err != nil || !strings.Contains(string(b), s.url()) {
		t.Errorf("kubeconfig: %v %s", err, b)
	}
	if i, err := os.Stat(s.KubeconfigPath()); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig has mode %v", i.Mode())
	}
}

// waitFor waits for a condition that some loop makes true.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestRestartChangesNothing(t *testing.T) {
	store := memory.New()
	dir, port := t.TempDir(), 0
	run := func() int64 {
		ok := t.Run("run", func(t *testing.T) {
			s := start(t, store, func(c *Config) { c.DataDir, c.HTTPSPort = dir, port })
			port = s.Port()
			c := s.Client("test")
			waitFor(t, "summed roles, API services and the trust bundle", func() bool {
				for _, name := range []string{"admin", "edit", "view"} {
					if r := client.Cached(c, api.ClusterRoles, "", name); r == nil || len(r.Rules) < 10 {
						return false
					}
				}
				return len(client.CachedList(c, api.APIServices, "", nil)) >= 20 && len(client.CachedList(c, api.ClusterTrustBundles, "", nil)) > 0
			})
			// What follows from those is written a moment later: a first start that is stopped
			// in the middle leaves the rest to the next.
			last, since := store.Revision(), time.Now()
			waitFor(t, "the store to stand still", func() bool {
				if now := store.Revision(); now != last {
					last, since = now, time.Now()
				}
				return time.Since(since) > time.Second
			})
		})
		if !ok {
			t.FailNow()
		}
		return store.Revision()
	}
	first := run()
	if second := run(); second != first {
		page, err := store.List(t.Context(), datastore.ListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page.KVs {
			if kv.ModRevision > first {
				t.Errorf("a restart wrote %s", kv.Key)
			}
		}
		t.Errorf("a restart wrote %d revisions", second-first)
	}
}

func TestSystemObjectsAreKept(t *testing.T) {
	s := start(t, memory.New(), nil)
	c := s.Client("test")
	ctx := t.Context()
	if err := client.Delete(ctx, c, api.Services, "default", "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the kubernetes service to be back", func() bool {
		o := client.Cached(c, api.Services, "default", "kubernetes")
		return o != nil && o.Spec.ClusterIP == "10.43.0.1"
	})
	ep := client.Cached(c, api.Endpoints, "default", "kubernetes").DeepCopy()
	ep.Subsets[0].Addresses[0].IP = "192.0.2.9"
	if _, err := client.Update(ctx, c, api.Endpoints, ep); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the endpoints to be mended", func() bool {
		o := client.Cached(c, api.Endpoints, "default", "kubernetes")
		return o != nil && o.Subsets[0].Addresses[0].IP == "192.0.2.1"
	})
}

func TestCredentials(t *testing.T) {
	s := start(t, memory.New(), nil)
	other, err := New(Config{
		DataDir: t.TempDir(), BindAddress: "127.0.0.1", NodeName: "two", ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767",
	}, memory.New(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.listener.Close()
	strangerCert, strangerKey, err := other.PKI().ClientPair("admin", api.GroupMasters)
	if err != nil {
		t.Fatal(err)
	}
	expired := func() *caller {
		csr, key := identity(t, "admin")
		r, err := pki.ParseRequest(csr)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := s.PKI().Sign(pki.Profile{Name: "admin", Groups: []string{api.GroupMasters}, Client: true, LifeAtMost: 1}, r.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return as(t, s, cert, key)
	}
	token := func(v string) *caller {
		c := as(t, s, nil, nil)
		c.header.Set("Authorization", "Bearer "+v)
		return c
	}
	for _, tc := range []struct {
		name    string
		who     *caller
		path    string
		code    int
		message string
	}{
		{"admin", user(t, s, "admin", api.GroupMasters), "/api/v1/nodes", 200, ""},
		{"nobody may ask for health", as(t, s, nil, nil), "/healthz", 200, ""},
		{"nobody may not ask for the version", as(t, s, nil, nil), "/version", 401, "Unauthorized"},
		{"nobody may read the CA", as(t, s, nil, nil), "/cacerts", 200, ""},
		{"nobody may not list", as(t, s, nil, nil), "/api/v1/nodes", 401, "Unauthorized"},
		{"nobody may not read metrics", as(t, s, nil, nil), "/metrics", 401, "Unauthorized"},
		{"certificate of another authority", as(t, s, strangerCert, strangerKey), "/api/v1/nodes", 401, "Unauthorized"},
		{"expired certificate", expired(), "/healthz", 401, "Unauthorized"},
		{"a token that is none", token("nonsense"), "/healthz", 401, "Unauthorized"},
		{"a forged token", token("eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06YWRtaW4ifQ."), "/healthz", 401, "Unauthorized"},
		{"a user without rights", user(t, s, "alice"), "/api/v1/namespaces/default/pods", 403, `pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default"`},
		{"a user may discover", user(t, s, "alice"), "/apis", 200, ""},
		{"a missing role is named", user(t, s, "bob"), "/api/v1/namespaces/default/pods", 403, `pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default": RBAC: clusterrole.rbac.authorization.k8s.io "nix" not found`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if strings.Contains(tc.message, `"nix"`) {
				_, err := s.Client("test", api.GroupMasters).Create(t.Context(), client.Target{Kind: api.ClusterRoleBindings.Facts}, &rbac.ClusterRoleBinding{
					ObjectMeta: metav1.ObjectMeta{Name: "dangling"}, RoleRef: rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "nix"},
					Subjects: []rbac.Subject{{APIGroup: rbac.GroupName, Kind: "User", Name: "bob"}},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
			}
			code, message := tc.who.message("GET", tc.path, "")
			if code != tc.code || (tc.message != "" && message != tc.message) {
				t.Errorf("got %d %s\nwant %d %s", code, message, tc.code, tc.message)
			}
		})
	}
}

func TestImpersonation(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	admin.header.Set("Impersonate-User", "carol")
	admin.header.Set("Impersonate-Group", "devs")
	code, body := admin.do("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	if code != 201 || !strings.Contains(body, `"username":"carol"`) || !strings.Contains(body, `"groups":["devs","system:authenticated"]`) {
		t.Errorf("%d %s", code, body)
	}
	alice := user(t, s, "alice")
	alice.header.Set("Impersonate-User", "admin")
	if code, m := alice.message("GET", "/api", ""); code != 403 || m != `forbidden: User "alice" cannot impersonate-on:user-info:get path "/api"` {
		t.Errorf("%d %s", code, m)
	}
}

func TestPortTaken(t *testing.T) {
	s := start(t, memory.New(), nil)
	_, err := New(Config{
		DataDir: t.TempDir(), BindAddress: "127.0.0.1", HTTPSPort: s.Port(), NodeName: "two", ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16",
		ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767",
	}, memory.New(), nil)
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

func makeAccount(t testing.TB, s *Server, namespace, name string) {
	t.Helper()
	c := s.Client("test", api.GroupMasters)
	if client.Cached(c, api.ServiceAccounts, namespace, name) != nil {
		return
	}
	if _, err := client.Create(t.Context(), c, api.ServiceAccounts, &core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}); err != nil {
		t.Fatal(fmt.Errorf("making account %s/%s: %w", namespace, name, err))
	}
}
