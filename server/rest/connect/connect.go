// Package connect leads requests past the registry to where pods run: logs, exec,
// attach and port-forward to the node's own API, proxies to pods, services and
// nodes. It looks up who is meant, asks admission, and hands bytes through; an
// upgraded connection is passed both ways as it is. It refuses to know what the
// bytes mean. Start reading at Connector.Stream.
package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/api"
	"orch/api/client"
	"orch/server/backend"
	"orch/server/registry"
)

// Dialer opens a connection to a node's own API, which speaks HTTP/1.1.
type Dialer interface {
	Dial(ctx context.Context, node string) (net.Conn, error)
}

// Connector makes the connections. Its transports keep a few idle connections.
type Connector struct {
	registry *registry.Registry
	backends *backend.Backends
	nodes    http.RoundTripper
	direct   http.RoundTripper
}

// Limits of the connections to nodes and pods.
const (
	idleConnections = 2
	idleTime        = 30 * time.Second
	dialTime        = 10 * time.Second
	// maxErrorText bounds how much of a node's error is read.
	maxErrorText = 50_000
)

var errNoNodes = errors.New("no route to nodes")

// New takes a nil dialer for a server that has no nodes, and nil backends for one
// without a network of pods.
func New(r *registry.Registry, nodes Dialer, backends *backend.Backends) *Connector {
	toNode := func(ctx context.Context, _, address string) (net.Conn, error) {
		if nodes == nil {
			return nil, errNoNodes
		}
		node, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, dialTime)
		defer cancel()
		return nodes.Dial(ctx, node)
	}
	toPod := (&net.Dialer{Timeout: dialTime}).DialContext
	if backends != nil {
		toPod = backends.DialContext
	}
	return &Connector{registry: r, backends: backends, nodes: transport(toNode), direct: transport(toPod)}
}

func transport(dial func(ctx context.Context, network, address string) (net.Conn, error)) http.RoundTripper {
	return &http.Transport{DialContext: dial, MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTime, DisableCompression: true,
		// As upstream: nobody vouches for the certificates of pods, and the user asked for this one.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
}

// Logs answers with a container's log, for as long as the client listens if it follows.
func (c *Connector) Logs(w http.ResponseWriter, r *http.Request, call registry.Request) error {
	o, err := logOptions(call.Name, r.URL.Query())
	if err != nil {
		return err
	}
	pod, err := c.pod(r.Context(), call)
	if err != nil {
		return err
	}
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" { // nothing can have been logged yet
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	to := target{host: pod.Spec.NodeName, path: nodePath("containerLogs", pod, container), query: logQuery(o), name: call.Name}
	return readable(w, r, func(w http.ResponseWriter, r *http.Request) error {
		return c.forward(w, r, c.nodes, to, func(resp *http.Response) { resp.Header = http.Header{"Content-Type": {"text/plain"}} })
	})
}

// Stream opens exec, attach or port-forward.
func (c *Connector) Stream(w http.ResponseWriter, r *http.Request, call registry.Request) error {
	query := r.URL.Query()
	o, err := streamOptions(call.Subresource, query)
	if err != nil {
		return err
	}
	pod, err := c.pod(r.Context(), call)
	if err != nil {
		return err
	}
	if o, err = c.admit(r.Context(), call, o); err != nil {
		return err
	}
	to := target{name: call.Name, host: pod.Spec.NodeName}
	switch o := o.(type) {
	case *core.PodExecOptions:
		if o.Container, err = containerOf(pod, o.Container); err == nil {
			to.path, to.query = nodePath("exec", pod, o.Container), terminalQuery(o.Stdin, o.Stdout, o.Stderr, o.TTY)
			to.query["command"] = o.Command
		}
	case *core.PodAttachOptions:
		if o.Container, err = containerOf(pod, o.Container); err == nil {
			to.path, to.query = nodePath("attach", pod, o.Container), terminalQuery(o.Stdin, o.Stdout, o.Stderr, o.TTY)
		}
	case *core.PodPortForwardOptions:
		to.path, to.query = nodePath("portForward", pod, ""), url.Values{}
		for _, p := range o.Ports {
			to.query.Add("port", fmt.Sprint(p))
		}
	}
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	if r.Header.Get("Upgrade") == "" {
		return apierrors.NewBadRequest("Upgrade request required")
	}
	return c.forward(w, r, c.nodes, to, nil)
}

// admit asks admission about a connection, and gives its options as they are then.
func (c *Connector) admit(ctx context.Context, call registry.Request, o runtime.Object) (runtime.Object, error) {
	a := &registry.Attributes{Operation: registry.Connect, User: call.User, Resource: c.registry.For(call.Kind),
		Namespace: call.Namespace, Name: call.Name, Subresource: call.Subresource, Object: o, Warn: call.Warn, Annotate: call.Annotate}
	err := c.registry.Admit(ctx, a)
	return a.Object, err
}

func (c *Connector) pod(ctx context.Context, call registry.Request) (*core.Pod, error) {
	return lookUp[core.Pod](ctx, c.registry, api.Pods, call)
}

// lookUp reads the object that a connection is about.
func lookUp[T any](ctx context.Context, r *registry.Registry, k api.Kind[T], call registry.Request) (*T, error) {
	call.Target = client.Target{Kind: k.Facts, Namespace: call.Namespace, Name: call.Name}
	res, err := r.Get(ctx, call, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return any(res.Object).(*T), nil
}

func nodePath(verb string, pod *core.Pod, container string) string {
	path := "/" + verb + "/" + pod.Namespace + "/" + pod.Name
	if container != "" {
		path += "/" + container
	}
	return path
}

// target is where a request goes on to.
type target struct {
	scheme string // empty means http
	host   string // a node's name, or address and port
	path   string
	query  url.Values
	// name of the object, for errors.
	name string
	// open lets answers of any status through: proxies, not logs and streams.
	open bool
}

// forward hands the request on and the answer back. edit may change the head of
// an answer that went well.
func (c *Connector) forward(w http.ResponseWriter, r *http.Request, via http.RoundTripper, to target, edit func(*http.Response)) error {
	var failed error
	p := httputil.ReverseProxy{
		Transport: via,
		Rewrite: func(pr *httputil.ProxyRequest) {
			if to.scheme == "" {
				to.scheme = "http"
			}
			pr.Out.URL = &url.URL{Scheme: to.scheme, Host: to.host, RawQuery: to.query.Encode()}
			pr.Out.URL.Path, _ = url.PathUnescape(to.path)
			pr.Out.URL.RawPath = to.path
			if !to.open {
				pr.Out.Host = to.host
			}
			// The node knows us by our certificate; the user's secret is not for it.
			pr.Out.Header.Del("Authorization")
			if to.open {
				pr.SetXForwarded()
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			// Clients that wanted a stream put words of their own before the node's, so these
			// stay as they are.
			stream := r.Header.Get("Upgrade") != ""
			if !to.open && !stream && resp.StatusCode != http.StatusSwitchingProtocols && (resp.StatusCode < 200 || resp.StatusCode > http.StatusPartialContent) {
				return refused(resp, to.name)
			}
			if edit != nil {
				edit(resp)
			}
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
	}
	p.ServeHTTP(w, r)
	var status apierrors.APIStatus
	if failed == nil || errors.As(failed, &status) {
		return failed
	}
	if to.open {
		return apierrors.NewServiceUnavailable("error trying to reach service: " + failed.Error())
	}
	return apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", failed))
}

// refused turns a node's error page into a Status, as upstream's
// GenericHttpResponseChecker does.
func refused(resp *http.Response, name string) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	if err != nil {
		return fmt.Errorf("reading the node's answer: %w", err)
	}
	text := string(data)
	switch resp.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, "", api.Pods.GroupResource(), name, text, 0, false)
}

// redirect sends a browser to the same path with a slash at its end, so that
// relative links work.
func redirect(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || strings.HasSuffix(r.URL.Path, "/") || r.Header.Get("Upgrade") != "" {
		return false
	}
	to := *r.URL
	to.Path += "/"
	w.Header().Set("Location", to.RequestURI())
	w.WriteHeader(http.StatusMovedPermanently)
	return true
}
