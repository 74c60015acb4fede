// Package webhook is the one way on which the server calls webhooks of every sort. Client is
// for those that objects of the cluster name, for admission and conversion: it reaches a
// URL or a ready endpoint of a Service, posts one JSON document and reads one back,
// within the caller's deadline and a limit on the answer's size. Receiver is for those that the
// administrator names by a kubeconfig, for token review, authorization and audit: it repeats what fails.
//
// Client refuses everything that could make a webhook a way into the server: it follows no
// redirect, asks no proxy, sends nothing of the user's credentials and of the server's only
// what the administrator has set for this webhook, and dials no link-local, multicast or unspecified address, nor the host's own loopback
// for a Service. The package knows nothing of what the documents mean. Start reading at
// Client.Call, then resolve.go and receiver.go.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"

	"orch/api/calls"
	"orch/api/client"
)

// Limits of the client. Upstream keeps as many configurations; it has no other limit.
const (
	maxConfigurations = 200
	// maxConnections to one endpoint; further calls wait for one, within their deadline.
	maxConnections  = 64
	idleConnections = 8
	idleTime        = 30 * time.Second
	dialTime        = 10 * time.Second
	maxHeader       = 64 << 10
	// maxErrorText is how much of an answer that is an error is shown, as upstream.
	maxErrorText = 2048
	// DefaultAnswer bounds an answer for which Call.Limit says nothing else.
	DefaultAnswer = 10 << 20
)

// Endpoint says where a webhook is and how to trust it. It is comparable: calls to equal
// endpoints share their connections.
type Endpoint struct {
	// URL, https, if Service is empty.
	URL     string
	Service Service
	// CABundle has certificates in PEM that the webhook's is checked against; empty means
	// those that the host trusts.
	CABundle string
	// Identity is how the server shows who it is; by default it does not.
	Identity Identity
}

// Service is a webhook inside the cluster. Port 0 is 443.
type Service struct {
	Namespace, Name, Path string
	Port                  int32
}

// Identity of the server towards one webhook: a certificate in PEM, a token, a password.
type Identity struct{ Certificate, Key, Token, User, Password string }

// Target names the webhook as kubeconfigs do: its host and port, a Service by its name in
// the cluster.
func (e Endpoint) Target() string {
	if s := e.Service; s != (Service{}) {
		return net.JoinHostPort(s.Name+"."+s.Namespace+".svc", strconv.Itoa(int(s.port())))
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return "" // the call will say so
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// Config of a Client.
type Config struct {
	// Cache has Services and EndpointSlices; nil: calls to Services fail.
	Cache client.Cache
	// Dial replaces the network, for tests; the address has been resolved and allowed.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Calls counts what is asked, by the hosts of URLs and Services; nil for nobody.
	Calls *calls.Calls
}

// Client calls webhooks. It is safe for parallel use.
type Client struct {
	cfg Config

	mu     sync.Mutex
	routes map[Endpoint]*route // guarded by mu, as is what they say of their use
	clock  uint64
}

// route keeps the connections of one endpoint.
type route struct {
	endpoint  Endpoint
	base      *url.URL
	transport *http.Transport
	used      uint64
}

// Call is one request to a webhook.
type Call struct {
	To   Endpoint
	Body []byte
	// Limit bounds the answer's bytes; 0 means DefaultAnswer.
	Limit int64
}

// New makes a Client. Close ends its idle connections.
func New(c Config) *Client { return &Client{cfg: c, routes: map[Endpoint]*route{}} }

// Close ends idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.routes {
		r.transport.CloseIdleConnections()
	}
}

// Call posts a JSON document and returns the document that comes back. Whatever the
// webhook does, it returns with ctx at the latest. An answer that is no success is a
// *apierrors.StatusError; other errors are worded as upstream's client words them.
func (c *Client) Call(ctx context.Context, call Call) ([]byte, error) {
	r, err := c.route(call.To)
	if err != nil {
		return nil, err
	}
	u := *r.base
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline); left > 0 { // the webhook is told, in whole seconds
			u.RawQuery = "timeout=" + strconv.FormatInt(int64((left+time.Second-1)/time.Second), 10) + "s"
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(call.Body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("User-Agent", "kube-apiserver-admission")
	// A connection that the webhook closed while it was idle is tried anew: an empty key
	// tells the transport that the call may be repeated, and is not sent.
	req.Header["Idempotency-Key"] = nil
	switch id := call.To.Identity; {
	case id.Token != "":
		req.Header.Set("Authorization", "Bearer "+id.Token)
	case id.User != "" || id.Password != "":
		req.SetBasicAuth(id.User, id.Password)
	}
	h := http.Client{Transport: c.cfg.Calls.Wrap(r.via(c)), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	limit := call.Limit
	if limit == 0 {
		limit = DefaultAnswer
	}
	return read(resp, limit)
}

// read takes the answer's body.
func read(resp *http.Response, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("unexpected error when reading response body. Please retry. Original error: %w", err)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("the response is larger than the limit of %d bytes", limit)
	case resp.StatusCode < http.StatusOK || resp.StatusCode > http.StatusPartialContent:
		return nil, refused(resp, body)
	case len(body) == 0:
		return nil, fmt.Errorf("0-length response with status code: %d and content type: %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return body, nil
}

// refused is the error of an answer that is no success: the Status in it, or one that
// is made of its code and, if it is text, its beginning.
func refused(resp *http.Response, body []byte) error {
	var s metav1.Status
	if json.Unmarshal(body, &s) == nil && s.Kind == "Status" && s.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: s}
	}
	message := "unknown"
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.Header.Get("Content-Type") == "" || err == nil && strings.HasPrefix(media, "text/") {
		message = strings.TrimSpace(string(body[:min(len(body), maxErrorText)]))
	}
	retry, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return apierrors.NewGenericServerResponse(resp.StatusCode, http.MethodPost, schema.GroupResource{}, "", message, retry, true)
}

// route finds or makes what an endpoint needs. The one that was not used for longest
// goes when there are too many.
func (c *Client) route(e Endpoint) (*route, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	if r := c.routes[e]; r != nil {
		r.used = c.clock
		return r, nil
	}
	r, err := c.newRoute(e)
	if err != nil {
		return nil, err
	}
	r.used = c.clock
	if len(c.routes) >= maxConfigurations {
		var oldest *route
		for _, o := range c.routes {
			if oldest == nil || o.used < oldest.used {
				oldest = o
			}
		}
		oldest.transport.CloseIdleConnections()
		delete(c.routes, oldest.endpoint)
	}
	c.routes[e] = r
	return r, nil
}

func (c *Client) newRoute(e Endpoint) (*route, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if e.CABundle != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(e.CABundle)) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	if e.Identity.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(e.Identity.Certificate), []byte(e.Identity.Key))
		if err != nil {
			return nil, fmt.Errorf("reading the certificate for a webhook: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	base, err := e.base()
	if err != nil {
		return nil, err
	}
	inside := e.Service != Service{}
	if inside {
		conf.ServerName = base.Hostname()
	}
	return &route{endpoint: e, base: base, transport: &http.Transport{
		TLSClientConfig: conf, DialContext: c.dialer(inside), TLSHandshakeTimeout: dialTime,
		MaxConnsPerHost: maxConnections, MaxIdleConnsPerHost: idleConnections, MaxIdleConns: maxConnections, IdleConnTimeout: idleTime,
		MaxResponseHeaderBytes: maxHeader, DisableCompression: true, // Proxy stays nil: the environment has no say
	}}, nil
}

// base is the address as users write it, and as errors show it.
func (e *Endpoint) base() (*url.URL, error) {
	if s := e.Service; s != (Service{}) {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(s.Name+"."+s.Namespace+".svc", strconv.Itoa(int(s.port()))), Path: "/" + strings.TrimPrefix(s.Path, "/")}, nil
	}
	if e.URL == "" {
		return nil, errors.New("webhook configuration must have either service or URL")
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil, fmt.Errorf("Unparsable URL: %v", err) //nolint // upstream's words
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("a webhook's URL must be of the form https://host[/path]")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, nil
}

func (s *Service) port() int32 {
	if s.Port == 0 {
		return 443
	}
	return s.Port
}
