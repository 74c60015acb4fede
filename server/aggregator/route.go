package aggregator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/transport"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"orch/api"
)

// route is the way to the server behind one APIService.
type route struct {
	name    string
	spec    apireg.APIServiceSpec
	service apireg.ServiceReference
	// available follows the condition.
	available atomic.Bool
	// plain speaks HTTP/2 where the server does; upgrades must not.
	plain, upgrades *http.Transport
	// broken is why there is no way.
	broken error

	mu      sync.Mutex
	checkOf string // what the last check depended on; guarded by mu, as are the next two
	checkAt time.Time
	check   condition

	surface surface
	docs    documents
}

// Limits of the connections to one server.
const (
	idleConnections = 8
	idleTime        = 90 * time.Second
	pingTime        = 30 * time.Second
)

func (a *Aggregator) newRoute(o *apireg.APIService) *route {
	r := &route{name: o.Name, spec: *o.Spec.DeepCopy(), service: *o.Spec.Service}
	for _, c := range o.Status.Conditions {
		if c.Type == apireg.Available && c.Status == apireg.ConditionTrue {
			r.available.Store(true)
		}
	}
	roots, err := rootsOf(o.Spec.CABundle)
	if err != nil {
		r.broken = fmt.Errorf("unable to load root certificates: %w", err)
	}
	newTransport := func(h2 bool) *http.Transport {
		t := &http.Transport{
			DialContext: a.Backends.DialContext, MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTime, DisableCompression: true,
			TLSHandshakeTimeout: checkTime, ForceAttemptHTTP2: h2,
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingTime, PingTimeout: pingTime / 2},
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: o.Spec.Service.Name + "." + o.Spec.Service.Namespace + ".svc",
				InsecureSkipVerify: o.Spec.InsecureSkipTLSVerify, //nolint:gosec // the APIService says so
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return a.Certificate(), nil
				},
			},
		}
		if !h2 {
			t.TLSClientConfig.NextProtos = []string{"http/1.1"}
		}
		return t
	}
	r.plain, r.upgrades = newTransport(true), newTransport(false)
	return r
}

// rootsOf reads a bundle; nil stands for the host's own roots.
func rootsOf(bundle []byte) (*x509.CertPool, error) {
	if len(bundle) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("unable to parse bytes as PEM block")
	}
	return pool, nil
}

// close lets go of connections that nobody uses.
func (r *route) close() {
	r.plain.CloseIdleConnections()
	r.upgrades.CloseIdleConnections()
}

func (r *route) lastCheck(of string, after time.Time) (condition, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.check, r.checkOf == of && r.checkAt.After(after)
}

func (r *route) noteCheck(of string, at time.Time, c condition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checkOf, r.checkAt, r.check = of, at, c
}

func (r *route) forgetCheck() { r.noteCheck("", time.Time{}, condition{}) }

// root is the path that the server has to serve.
func (r *route) root() string {
	if r.spec.Group == "" {
		return "/api/" + r.spec.Version
	}
	return "/apis/" + r.spec.Group + "/" + r.spec.Version
}

// check asks the server a few times at once; one answer is enough.
func (a *Aggregator) check(ctx context.Context, r *route) error {
	if r.broken != nil {
		return r.broken
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	results := make(chan error, attempts)
	for range attempts {
		go func() { results <- a.probe(ctx, r) }()
	}
	var err error
	for range attempts {
		if err = <-results; err == nil {
			return nil
		}
	}
	r.close()
	return err
}

func (a *Aggregator) probe(ctx context.Context, r *route) error {
	req, err := a.request(ctx, r, r.root())
	if err != nil {
		return err
	}
	resp, err := r.client().Do(req)
	if err != nil {
		return fmt.Errorf("failing or missing response from %v: %w", req.URL, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("failing or missing response from %v: bad status from %v: %d", req.URL, req.URL, resp.StatusCode)
	}
	return nil
}

// request asks for a path as the aggregator itself, which may read everything.
func (a *Aggregator) request(ctx context.Context, r *route, path string) (*http.Request, error) {
	if r.broken != nil {
		return nil, r.broken
	}
	host, err := a.Backends.Resolve(r.service.Namespace, r.service.Name, *r.service.Port)
	if err != nil {
		return nil, err
	}
	where, query, _ := cutQuery(path)
	u := url.URL{Scheme: "https", Host: host, Path: where, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	transport.SetAuthProxyHeaders(req, "system:kube-aggregator", "", []string{api.GroupMasters}, nil)
	return req, nil
}

// client follows no redirects: another server has no business to send us elsewhere.
func (r *route) client() *http.Client {
	return &http.Client{Transport: r.plain, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
