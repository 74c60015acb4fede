package webhook

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// objects is a cache of what is given.
type objects []api.Object

func (l objects) Lookup(f *api.Facts, namespace, name string) (found api.Object) {
	l.Each(f, namespace, func(o api.Object) bool {
		if o.GetName() == name {
			found = o
		}
		return found == nil
	})
	return found
}

func (l objects) Each(f *api.Facts, namespace string, each func(api.Object) bool) {
	for _, o := range l {
		if reflect.TypeOf(o) == reflect.TypeOf(f.New()) && o.GetNamespace() == namespace && !each(o) {
			return
		}
	}
}

func (objects) Subscribe(context.Context, *api.Facts, func(client.Change)) error { return nil }
func (objects) Revision(*api.Facts) int64                                        { return 0 }
func (objects) WaitRevision(context.Context, *api.Facts, int64) error            { return nil }

// serve runs a webhook on loopback and gives its endpoint.
func serve(t *testing.T, h http.HandlerFunc) (*httptest.Server, Endpoint) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s, Endpoint{URL: s.URL + "/hook", CABundle: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))}
}

// TestWhateverTheWebhookDoes: a misbehaving webhook gives an error in time, and gets nothing.
func TestWhateverTheWebhookDoes(t *testing.T) {
	var elsewhere atomic.Int32
	target, _ := serve(t, func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1) })
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	for _, tc := range []struct {
		name, says string
		do         http.HandlerFunc
	}{
		{"hangs", "context deadline exceeded", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-forever:
			case <-r.Context().Done():
			}
		}},
		{"drips", "context deadline exceeded", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client goes
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
		}},
		{"redirects", "the server responded with the status code 307", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
		}},
		{"is huge", "larger than the limit of 1000 bytes", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }},
		{"has a huge header", "headers exceeded", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}},
		{"says nothing", "0-length response with status code: 200", func(http.ResponseWriter, *http.Request) {}},
		{"is not found", "the server could not find the requested resource", http.NotFound},
		{"fails with words", `an error on the server ("out of order") has prevented the request from succeeding`, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", 500) }},
		{"closes the connection", "EOF", func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			_ = c.Close()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, e := serve(t, tc.do)
			c := New(Config{})
			defer c.Close()
			patience := time.Minute
			if tc.says == context.DeadlineExceeded.Error() {
				patience = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, err := c.Call(ctx, Call{To: e, Body: []byte(`{}`), Limit: 1000})
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %s", err, tc.says)
			}
		})
	}
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestWhereAWebhookMayBe(t *testing.T) {
	for _, tc := range []struct{ url, says string }{
		{"https://169.254.169.254/latest", "link-local"}, {"https://[fe80::1]/", "link-local"}, {"https://0.0.0.0:1/", "unspecified"},
		{"https://224.0.0.1/", "multicast"}, {"http://127.0.0.1/", "https://host[/path]"}, {"https://u:p@127.0.0.1/", "https://host[/path]"},
		{"https://127.0.0.1:1/", "connection refused"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := New(Config{}).Call(ctx, Call{To: Endpoint{URL: tc.url}, Body: []byte(`{}`)})
		cancel()
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %s", tc.url, err, tc.says)
		}
	}
}

// TestGoodAnswerOverOneConnection: no credentials are sent, the deadline is, and the
// connection is kept.
func TestGoodAnswerOverOneConnection(t *testing.T) {
	seen := make(chan *http.Request, 10)
	s, e := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	var opened atomic.Int32
	c := New(Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		opened.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 3 {
		got, err := c.Call(ctx, Call{To: e, Body: []byte(`{"a":1}`)})
		if err != nil || string(got) != `{"a":1}` {
			t.Fatalf("%s %v", got, err)
		}
		r := <-seen
		if r.Method != "POST" || r.URL.Path != "/hook" || !strings.HasPrefix(r.URL.RawQuery, "timeout=") || r.Header.Get("Authorization") != "" || len(r.TLS.PeerCertificates) != 0 {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
	}
	if opened.Load() != 1 {
		t.Errorf("%d connections for three calls", opened.Load())
	}
	s.CloseClientConnections() // a webhook that restarted
	if _, err := c.Call(ctx, Call{To: e, Body: []byte(`{}`)}); err != nil {
		t.Errorf("after the webhook closed an idle connection: %v", err)
	}
	e.CABundle = ""
	if _, err := c.Call(ctx, Call{To: e, Body: []byte(`{}`)}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
}

func TestRoutesAreBounded(t *testing.T) {
	c := New(Config{})
	for i := range maxConfigurations + 20 {
		if _, err := c.route(Endpoint{URL: "https://h/" + strings.Repeat("x", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.routes) != maxConfigurations {
		t.Errorf("%d", len(c.routes))
	}
}

// TestServiceIsResolvedToAReadyEndpoint with the name svc.ns.svc in the certificate's check.
func TestServiceIsResolvedToAReadyEndpoint(t *testing.T) {
	var name string
	s, e := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"host":"`+r.Host+`"}`) })
	s.TLS.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { name = h.ServerName; return nil, nil }
	slice := func(n string, ready bool, addr string) *discovery.EndpointSlice {
		return &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: n, Labels: map[string]string{discovery.LabelServiceName: "svc"}},
			Ports:     []discovery.EndpointPort{{Name: new("hook"), Port: new(int32(9443))}},
			Endpoints: []discovery.Endpoint{{Addresses: []string{addr}, Conditions: discovery.EndpointConditions{Ready: &ready}}}}
	}
	cache := objects{
		&core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc"}, Spec: core.ServiceSpec{Ports: []core.ServicePort{{Name: "hook", Port: 443}}}},
		&core.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "none"}, Spec: core.ServiceSpec{Ports: []core.ServicePort{{Port: 443}}}},
		slice("a", false, "10.9.9.8"), slice("b", true, "10.9.9.9")}
	var dialled string
	c := New(Config{Cache: cache, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled = address
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}})
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	to := Endpoint{Service: Service{Namespace: "ns", Name: "svc", Path: "/x"}, CABundle: e.CABundle}
	_, err := c.Call(ctx, Call{To: to, Body: []byte(`{}`)})
	if err == nil || !strings.Contains(err.Error(), "not svc.ns.svc") || !strings.HasPrefix(err.Error(), `Post "https://svc.ns.svc:443/x?timeout=`) {
		t.Errorf("a certificate for another name: %v", err)
	}
	if dialled != "10.9.9.9:9443" || name != "svc.ns.svc" {
		t.Errorf("dialled %s, asked for %s", dialled, name)
	}
	for svc, says := range map[string]string{"none": `no endpoints available for service "none"`, "nix": `service "nix" not found`} {
		to.Service.Name = svc
		if _, err := c.Call(ctx, Call{To: to, Body: []byte(`{}`)}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %s", err, says)
		}
	}
	to.Service = Service{Namespace: "ns", Name: "svc", Port: 80}
	if _, err := c.Call(ctx, Call{To: to, Body: []byte(`{}`)}); err == nil || !strings.Contains(err.Error(), `no service port 80 found for service "svc"`) {
		t.Errorf("%v", err)
	}
	if err := allowed("127.0.0.1:1", true); err == nil {
		t.Error("a service at loopback is allowed")
	}
}
