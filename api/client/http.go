package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion/queryparams"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
)

const (
	// bodyLimit bounds what is read of one answer.
	bodyLimit = 256 << 20
	// retries of a request that is safe to repeat, after retryFirst doubled each time.
	retries    = 4
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// HTTPConfig says which server to talk to and as whom.
type HTTPConfig struct {
	// Server is the base URL, such as https://10.0.0.1:6443.
	Server string
	// CA is the PEM of the authorities that the server's certificate is checked
	// against; empty means the system's.
	CA []byte
	// Cert and Key are PEM of the client certificate; empty for none.
	Cert, Key []byte
	// Certificate, if set, is asked for the client certificate at every new
	// connection, so that it can be renewed. It replaces Cert and Key.
	Certificate func() (*tls.Certificate, error)
	// Token, if set, is asked for the bearer token of every request.
	Token     func() (string, error)
	UserAgent string
	// Dial, if set, makes the connections.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// HTTP is the Transport to a server elsewhere. It speaks protobuf for built-in
// kinds and JSON for the others, over HTTP/2 where the server does.
type HTTP struct {
	base   *url.URL
	config HTTPConfig
	round  *http.Transport
}

var _ Transport = (*HTTP)(nil)

// NewHTTP checks the config; it makes no connection yet.
func NewHTTP(c HTTPConfig) (*HTTP, error) {
	base, err := url.Parse(strings.TrimRight(c.Server, "/"))
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") {
		return nil, fmt.Errorf("making API client: server %q is not an http(s) URL", c.Server)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if len(c.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("making API client: no certificate in the CA's PEM")
		}
	}
	switch {
	case c.Certificate != nil:
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificate() }
	case len(c.Cert) > 0:
		pair, err := tls.X509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("making API client: reading client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	return &HTTP{base: base, config: c, round: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dial,
		TLSClientConfig:       conf,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true, // nodes are near: the CPU costs more than the bytes
		ExpectContinueTimeout: time.Second,
		// A connection whose other end has vanished is noticed by pings, so that
		// watches on it end and are made anew.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}}, nil
}

// Close drops idle connections.
func (h *HTTP) Close() { h.round.CloseIdleConnections() }

// request is one call before it is sent.
type request struct {
	verb, method string
	target       Target
	options      any // a pointer to an options struct, becomes the query
	extra        url.Values
	body         []byte
	contentType  string
}

func (h *HTTP) Get(ctx context.Context, t Target, o metav1.GetOptions) (runtime.Object, error) {
	return h.object(ctx, request{verb: "get", method: http.MethodGet, target: t, options: &o})
}

func (h *HTTP) List(ctx context.Context, t Target, o metav1.ListOptions) (List, error) {
	body, contentType, err := h.do(ctx, request{verb: "list", method: http.MethodGet, target: t, options: &o})
	if err != nil {
		return List{}, err
	}
	l, err := decode(body, contentType, list(t.Kind))
	if err != nil {
		return List{}, err
	}
	m, err := meta.ListAccessor(l)
	if err != nil {
		return List{}, fmt.Errorf("decoding list of %s: %w", t.Kind.Plural, err)
	}
	out := List{ResourceVersion: m.GetResourceVersion(), Continue: m.GetContinue()}
	out.Items = make([]api.Object, 0, meta.LenList(l))
	// With-allocation keeps the items apart, so that one kept object does not
	// keep the whole list in memory.
	err = meta.EachListItemWithAlloc(l, func(o runtime.Object) error {
		out.Items = append(out.Items, o.(api.Object))
		return nil
	})
	return out, err
}

func (h *HTTP) Watch(ctx context.Context, t Target, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	resp, err := h.send(ctx, request{verb: "watch", method: http.MethodGet, target: t, options: &o})
	if err != nil {
		return nil, err
	}
	return newStream(resp, t.Kind)
}

func (h *HTTP) Create(ctx context.Context, t Target, obj runtime.Object, o metav1.CreateOptions) (runtime.Object, error) {
	body, media, err := encode(obj)
	if err != nil {
		return nil, err
	}
	return h.object(ctx, request{verb: "create", method: http.MethodPost, target: t, options: &o, body: body, contentType: media})
}

func (h *HTTP) Update(ctx context.Context, t Target, obj runtime.Object, o metav1.UpdateOptions) (runtime.Object, error) {
	body, media, err := encode(obj)
	if err != nil {
		return nil, err
	}
	return h.object(ctx, request{verb: "update", method: http.MethodPut, target: t, options: &o, body: body, contentType: media})
}

func (h *HTTP) Patch(ctx context.Context, t Target, pt types.PatchType, patch []byte, o metav1.PatchOptions) (runtime.Object, error) {
	return h.object(ctx, request{verb: "patch", method: http.MethodPatch, target: t, options: &o, body: patch, contentType: string(pt)})
}

func (h *HTTP) Delete(ctx context.Context, t Target, o metav1.DeleteOptions) (runtime.Object, error) {
	body, err := deleteBody(o)
	if err != nil {
		return nil, err
	}
	return h.object(ctx, request{verb: "delete", method: http.MethodDelete, target: t, body: body, contentType: mediaJSON})
}

func (h *HTTP) DeleteCollection(ctx context.Context, t Target, d metav1.DeleteOptions, l metav1.ListOptions) error {
	body, err := deleteBody(d)
	if err != nil {
		return err
	}
	_, _, err = h.do(ctx, request{verb: "deletecollection", method: http.MethodDelete, target: t, options: &l, body: body, contentType: mediaJSON})
	return err
}

func deleteBody(o metav1.DeleteOptions) ([]byte, error) {
	o.TypeMeta = metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encoding delete options: %w", err)
	}
	return body, nil
}

// object sends the request and decodes one object from the answer.
func (h *HTTP) object(ctx context.Context, r request) (runtime.Object, error) {
	body, contentType, err := h.do(ctx, r)
	if err != nil {
		return nil, err
	}
	return decode(body, contentType, object(r.target.Kind))
}

func (h *HTTP) do(ctx context.Context, r request) (body []byte, contentType string, err error) {
	resp, err := h.send(ctx, r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err = readAll(resp)
	if err != nil {
		return nil, "", fmt.Errorf("reading answer to %s %s: %w", r.verb, r.target, err)
	}
	return body, resp.Header.Get("Content-Type"), nil
}

func readAll(resp *http.Response) ([]byte, error) {
	var buf bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= bodyLimit {
		buf.Grow(int(n) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(resp.Body, bodyLimit+1))
	if err == nil && n > bodyLimit {
		err = errors.New("the answer is too large")
	}
	return buf.Bytes(), err
}

// send returns the answer once it is a good one; the caller closes its body.
func (h *HTTP) send(ctx context.Context, r request) (*http.Response, error) {
	wait := retryFirst
	for try := 0; ; try++ {
		resp, retryAfter, err := h.sendOnce(ctx, r)
		if err == nil {
			return resp, nil
		}
		if try == retries || !r.repeatable() || (retryAfter < 0 && !errors.Is(err, syscall.ECONNREFUSED)) {
			return nil, err
		}
		pause := max(retryAfter, wait/2+rand.N(wait/2))
		select {
		case <-time.After(min(pause, retryMost)):
		case <-ctx.Done():
			return nil, err
		}
		wait *= 2
	}
}

// repeatable requests do the same twice as once.
func (r request) repeatable() bool {
	return r.method == http.MethodGet || r.method == http.MethodPut || (r.method == http.MethodDelete && r.target.Name != "")
}

// sendOnce returns the answer or an error; retryAfter is negative unless the
// server asked to come back later.
func (h *HTTP) sendOnce(ctx context.Context, r request) (resp *http.Response, retryAfter time.Duration, err error) {
	req, err := h.build(ctx, r)
	if err != nil {
		return nil, -1, err
	}
	resp, err = h.round.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, -1, fmt.Errorf("sending %s %s: %w", r.verb, r.target, err)
	}
	if resp.StatusCode < 300 {
		return resp, -1, nil
	}
	defer resp.Body.Close()
	retryAfter = -1
	if resp.StatusCode == http.StatusTooManyRequests {
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		retryAfter = time.Duration(seconds) * time.Second
	}
	return nil, retryAfter, statusError(resp, r)
}

func (h *HTTP) build(ctx context.Context, r request) (*http.Request, error) {
	u := *h.base
	u.Path += r.target.Path()
	if r.options != nil {
		q, err := queryparams.Convert(r.options)
		if err != nil {
			return nil, fmt.Errorf("encoding options: %w", err)
		}
		u.RawQuery = q.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	req.Header.Set("Accept", accept(r.target.Kind))
	req.Header.Set("User-Agent", h.config.UserAgent)
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if h.config.Token != nil {
		token, err := h.config.Token()
		if err != nil {
			return nil, fmt.Errorf("getting token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

func accept(f *api.Facts) string {
	if f.Dynamic {
		return mediaJSON
	}
	return mediaProtobuf + "," + mediaJSON
}

// statusError makes the error of an answer: the server's own Status where it
// sent one, else the one that fits the code.
func statusError(resp *http.Response, r request) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	none := func(schema.GroupVersionKind) runtime.Object { return nil }
	if o, err := decode(body, resp.Header.Get("Content-Type"), none); err == nil {
		if s, ok := o.(*metav1.Status); ok && s.Status != metav1.StatusSuccess {
			return &apierrors.StatusError{ErrStatus: *s}
		}
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return apierrors.NewGenericServerResponse(resp.StatusCode, r.verb, r.target.Kind.GroupResource(), r.target.Name,
		strings.TrimSpace(string(body)), seconds, true)
}

// Path is the target's path below the server's base URL.
func (t Target) Path() string {
	var b strings.Builder
	if t.Kind.Group == "" {
		b.WriteString("/api/" + t.Kind.Version)
	} else {
		b.WriteString("/apis/" + t.Kind.Group + "/" + t.Kind.Version)
	}
	if t.Namespace != "" && !t.Kind.Cluster {
		b.WriteString("/namespaces/" + t.Namespace)
	}
	b.WriteString("/" + t.Kind.Plural)
	if t.Name != "" {
		b.WriteString("/" + t.Name)
	}
	if t.Subresource != "" {
		b.WriteString("/" + t.Subresource)
	}
	return b.String()
}

// String names the target for an error message.
func (t Target) String() string { return strings.TrimPrefix(t.Path(), "/") }
