package rest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/agent/stream"
	"orch/api"
	"orch/api/client"
	"orch/runtime/fakeengine"
	"orch/server/backend"
	"orch/server/registry"
)

func newBackends(t *testing.T, r *registry.Registry, c backend.Config) *backend.Backends {
	t.Helper()
	c.Cache = r.Client(registry.User{Name: "admin"})
	b, err := backend.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// site is what runs in the pods: it says what it was asked, and links to itself.
func site(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/page":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		fmt.Fprint(w, `<a href="/there">x</a><a href="near">y</a><a href="http://elsewhere/z">z</a>`)
	case "/moved":
		http.Redirect(w, r, "/there?x=1", http.StatusFound)
	case "/ws":
		up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		kind, data, err := c.ReadMessage()
		if err == nil {
			_ = c.WriteMessage(kind, append([]byte("echo "), data...))
		}
	case "/teapot":
		http.Error(w, "short and stout", http.StatusTeapot)
	default:
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s host=%s auth=%q for=%t uri=%s", r.Method, r.URL.RequestURI(), body, r.Host, r.Header.Get("Authorization"),
			r.Header.Get("X-Forwarded-For") != "", r.Header.Get("X-Forwarded-Uri"))
	}
}

// podNetwork is a server whose pods are sites: "plain" at 10.1.0.1:8080, "secret" with TLS at
// 10.1.0.2:8443, "far" at 10.2.0.1:8080 on the joined node n1, whose agent alone reaches it.
func podNetwork(t *testing.T) *world {
	t.Helper()
	plain, secret := httptest.NewServer(http.HandlerFunc(site)), httptest.NewTLSServer(http.HandlerFunc(site))
	t.Cleanup(plain.Close)
	t.Cleanup(secret.Close)
	sites := map[string]string{"10.1.0.1:8080": plain.Listener.Addr().String(), "10.1.0.2:8443": secret.Listener.Addr().String()}
	direct := func(ctx context.Context, network, address string) (net.Conn, error) {
		if sites[address] == "" {
			return nil, fmt.Errorf("dial tcp %s: connect: connection refused", address)
		}
		return new(net.Dialer).DialContext(ctx, network, sites[address])
	}
	agent, err := stream.New(stream.Config{Pods: noPods{}, Engine: fakeengine.New(fakeengine.Options{}), Dialer: noPods{},
		Reach: func(ip netip.Addr) bool { return ip == netip.MustParseAddr("127.0.0.1") }})
	if err != nil {
		t.Fatal(err)
	}
	// The agent's pods listen on this host's loopback: the way to them is rewritten as NAT does.
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, "10.2.0.1:8080", plain.Listener.Addr().String(), 1)
		agent.ServeHTTP(w, r)
	}))
	t.Cleanup(far.Close)
	n := node{far}
	w := newWorld(t, func(c *Config) {
		c.Nodes = n
		c.Backends = newBackends(t, c.Registry, backend.Config{Nodes: n, Own: "n0", Direct: direct})
	})
	put(t, w, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: core.NodeSpec{PodCIDR: "10.2.0.0/24", PodCIDRs: []string{"10.2.0.0/24"}}})
	for _, p := range []struct {
		name, ip string
		port     int32
		tls      bool
	}{{"plain", "10.1.0.1", 8080, false}, {"secret", "10.1.0.2", 8443, true}, {"far", "10.2.0.1", 8080, false}, {"local", "127.0.0.1", 8080, false}} {
		pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: "default"},
			Spec: core.PodSpec{Containers: []core.Container{{Name: "a", Image: "i", Ports: []core.ContainerPort{{ContainerPort: p.port}}}}}}
		pod = put(t, w, api.Pods, pod)
		pod = pod.DeepCopy()
		pod.Status.PodIP, pod.Status.PodIPs = p.ip, []core.PodIP{{IP: p.ip}}
		if _, err := client.UpdateStatus(t.Context(), w.registry.Client(registry.User{Name: "admin"}), api.Pods, pod); err != nil {
			t.Fatal(err)
		}
		if p.name == "local" {
			continue
		}
		put(t, w, api.Services, &core.Service{ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: "default"}, Spec: core.ServiceSpec{ClusterIP: "None", Ports: []core.ServicePort{{Name: "web", Port: 80}}}})
		put(t, w, api.EndpointSlices, &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: "default", Labels: map[string]string{discovery.LabelServiceName: p.name}},
			AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Name: new("web"), Port: new(p.port)}},
			Endpoints: []discovery.Endpoint{
				{Addresses: []string{p.ip}, TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: "default", Name: p.name}},
				{Addresses: []string{"10.9.9.9"}}, // of no pod: never asked
				{Addresses: []string{"10.8.8.8"}, Conditions: discovery.EndpointConditions{Ready: new(false)}, TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: "default", Name: p.name}},
			}})
	}
	return w
}

func put[T any, P client.PtrTo[T]](t *testing.T, w *world, k api.Kind[T], o P) *T {
	t.Helper()
	made, err := client.Create(t.Context(), w.registry.Client(registry.User{Name: "admin"}), k, o)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

type noPods struct{}

func (noPods) Lookup(string, string) (stream.Pod, bool) { return stream.Pod{}, false }
func (noPods) DialPod(context.Context, string, uint16) (net.Conn, error) {
	return nil, fmt.Errorf("no pods")
}

func TestProxySubresource(t *testing.T) {
	w := podNetwork(t)
	const ns = "/api/v1/namespaces/default/"
	for _, c := range []struct {
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"first port", "GET", "pods/plain/proxy/a/b?x=1&y=%20", "", 200, `GET /a/b?x=1&y=+  host=`},
		{"escapes and slash", "GET", "pods/plain/proxy/a%2Fb/", "", 200, "GET /a%2Fb/  host="},
		{"port", "POST", "pods/plain:8080/proxy/p", "body", 200, "POST /p body host="},
		{"all verbs", "PUT", "pods/plain/proxy/", "b", 200, "PUT / b host="},
		{"patch", "PATCH", "pods/plain/proxy/", "b", 200, "PATCH / b host="},
		{"delete", "DELETE", "pods/plain/proxy/", "", 200, "DELETE / "},
		{"the user's secret stays", "GET", "pods/plain/proxy/a", "", 200, `auth="" for=true uri=/api/v1/namespaces/default/pods/plain/proxy/a`},
		{"backend's status", "GET", "pods/plain/proxy/teapot", "", 418, "short and stout"},
		{"TLS", "GET", "pods/https:secret:8443/proxy/a", "", 200, "GET /a "},
		{"service by name", "GET", "services/plain:web/proxy/a", "", 200, "GET /a "},
		{"service by number", "GET", "services/plain:80/proxy/a", "", 200, "GET /a "},
		{"service with TLS", "GET", "services/https:secret:web/proxy/a", "", 200, "GET /a "},
		{"joined node", "GET", "pods/far/proxy/a", "", 200, "GET /a "},
		{"service on a joined node", "GET", "services/far:web/proxy/a", "", 200, "GET /a "},
		{"no such port", "GET", "services/plain:81/proxy/a", "", 503, `no service port 81 found for service \"plain\"`},
		{"no such port name", "GET", "services/plain:x/proxy/a", "", 503, `no endpoints available for service \"plain\"`},
		{"closed port", "GET", "pods/plain:9/proxy/a", "", 503, "error trying to reach service: dial tcp 10.1.0.1:9: connect: connection refused"},
		{"closed port of a joined node", "GET", "pods/far:9/proxy/a", "", 503, "error trying to reach service: dialling 10.2.0.1:9 through node n1: 403 Forbidden: 10.2.0.1 is no address of this node or its pods"},
		{"loopback", "GET", "pods/local/proxy/a", "", 400, "address not allowed"},
		{"bad scheme", "GET", "pods/ftp:plain:1/proxy/a", "", 400, `invalid pod request \"ftp:plain:1\"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, data := w.do(t, c.method, ns+c.path, c.body, "Authorization", "Bearer secret")
			if resp.StatusCode != c.code || !strings.Contains(string(data), c.want) {
				t.Errorf("%s %s", resp.Status, data)
			}
		})
	}
}

func TestProxyRewrites(t *testing.T) {
	w := podNetwork(t)
	const base = "/api/v1/namespaces/default/services/plain:web/proxy"
	resp, data := w.do(t, "GET", base+"/page", "")
	if want := `<a href="` + base + `/there">x</a><a href="near">y</a><a href="http://elsewhere/z">z</a>`; string(data) != want {
		t.Errorf("got %s", data)
	}
	if resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("a pod allows other sites to use the API server")
	}
	if resp, _ := w.do(t, "GET", base+"/moved", ""); resp.StatusCode != 302 || resp.Header.Get("Location") != base+"/there?x=1" {
		t.Errorf("%s %s", resp.Status, resp.Header.Get("Location"))
	}
	if resp, _ := w.do(t, "GET", base+"?q=1", ""); resp.StatusCode != 301 || resp.Header.Get("Location") != base+"/?q=1" {
		t.Errorf("%s %s", resp.Status, resp.Header.Get("Location"))
	}
}

func TestProxyUpgrades(t *testing.T) {
	w := podNetwork(t)
	for _, path := range []string{"pods/plain", "services/https:secret:web", "pods/far"} {
		d := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		ws, resp, err := d.Dial(strings.Replace(w.http.URL, "http", "ws", 1)+"/api/v1/namespaces/default/"+path+"/proxy/ws", nil)
		if err != nil {
			t.Fatalf("%s: %v %v", path, err, resp)
		}
		if err := ws.WriteMessage(websocket.TextMessage, []byte("hi")); err != nil {
			t.Fatal(err)
		}
		if _, data, err := ws.ReadMessage(); err != nil || string(data) != "echo hi" {
			t.Errorf("%s: %q %v", path, data, err)
		}
		ws.Close()
	}
}
