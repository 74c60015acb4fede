// Package stream is the node's door for people: logs, exec, attach and
// port-forward of its pods, at the paths and in the protocols of the kubelet
// (WebSocket and SPDY), as one http.Handler. Who may come in is decided by the
// API server, which is the only one that reaches the handler. It owns no
// container and no listener. Start reading at New; a file per verb, link.go has
// what all upgraded connections share.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/runtime/engine"
)

// Pods tells what runs on this node.
type Pods interface {
	Lookup(namespace, name string) (Pod, bool)
}

// Pod as far as streams need to know it.
type Pod struct {
	UID types.UID
	// NetNS is the path of the pod's network namespace, empty for the host's.
	NetNS string
	// Containers of all kinds: init, sidecar, app, ephemeral.
	Containers []Container
}

// Container is the newest instance of a container of a pod.
type Container struct {
	Name string
	// ID in the engine; empty if it was never created.
	ID                  string
	Running, TTY, Stdin bool
	// Waiting is the reason why the container does not run yet, as its status says it.
	Waiting string
	LogPath string
	// PreviousLogPath is the log of the instance before; empty if there is none.
	PreviousLogPath string
}

// Dialer connects to a port inside a pod, as a process in the pod would on localhost.
type Dialer interface {
	DialPod(ctx context.Context, netns string, port uint16) (net.Conn, error)
}

// Config of a Handler; Pods, Engine and Dialer are required.
type Config struct {
	Pods   Pods
	Engine engine.Engine
	Dialer Dialer
	// Reach tells whether the API server may be connected with an address: one of the
	// node's own or of its pods. Nil: with none.
	Reach func(netip.Addr) bool
	// More are further paths of the node's own API, which answer GET at once.
	More map[string]http.Handler
	// HostLogs is the folder that /logs/ shows, the host's own logs; empty: none.
	HostLogs string
	Log      *slog.Logger

	// MaxStreams bounds what is open at once, all verbs together; 0 is 1000. One
	// more is answered with 429.
	MaxStreams int
	// IdleTimeout ends a connection on which nothing was said for so long; 0 is the
	// kubelet's 4 hours.
	IdleTimeout time.Duration
	// SetupTimeout is how long a client may take to open the streams it announced;
	// 0 is 30 s.
	SetupTimeout time.Duration
	// Linger is how long a client may take to leave after it was told the outcome; 0
	// is a minute. Whoever leaves first loses what is under way to it.
	Linger time.Duration
	// Ping is how often a connection is shown to be alive, to what lies between and to
	// us; 0 is 30 s.
	Ping time.Duration
}

// Handler serves the streams of one node.
type Handler struct {
	Config
	mux *http.ServeMux
	// slots holds one value for each open stream.
	slots chan struct{}
	// life ends with Run.
	life    context.Context //nolint:containedctx // sessions outlive their requests' handlers in net/http's eyes
	end     context.CancelFunc
	buffers sync.Pool // of the WebSockets' write buffers: idle connections hold none
}

// New checks the configuration.
func New(c Config) (*Handler, error) {
	if c.Pods == nil || c.Engine == nil || c.Dialer == nil {
		return nil, fmt.Errorf("making the stream handler: pods, engine or dialer missing")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.IdleTimeout, 4 * time.Hour}, {&c.SetupTimeout, 30 * time.Second}, {&c.Linger, time.Minute}, {&c.Ping, 30 * time.Second}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.MaxStreams == 0 {
		c.MaxStreams = 1000
	}
	h := &Handler{Config: c, mux: http.NewServeMux(), slots: make(chan struct{}, c.MaxStreams)}
	h.life, h.end = context.WithCancel(context.Background())
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /containerLogs/{namespace}/{pod}/{container}": h.logs,
		"/exec/{namespace}/{pod}/{container}":              h.exec,
		"/attach/{namespace}/{pod}/{container}":            h.attach,
		"/portForward/{namespace}/{pod}":                   h.portForward,
		"GET " + api.PathDial + "{address}":                h.dial,
	} {
		h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { h.bounded(w, r, serve) })
	}
	for path, more := range c.More {
		h.mux.Handle("GET "+path, more)
	}
	if c.HostLogs != "" {
		h.mux.HandleFunc("GET /logs/", func(w http.ResponseWriter, r *http.Request) { h.bounded(w, r, h.hostLogs) })
	}
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	return h, nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// endTime is how long Run waits for what it has cut off.
const endTime = 2 * time.Second

// Run waits for ctx, then cuts all connections off; processes that were run
// through them are killed. Nothing is served afterwards.
func (h *Handler) Run(ctx context.Context) error {
	<-ctx.Done()
	h.end()
	timeout := time.NewTimer(endTime)
	defer timeout.Stop()
	for range cap(h.slots) {
		select {
		case h.slots <- struct{}{}:
		case <-timeout.C:
			return nil // they have no connection any more, and end by themselves
		}
	}
	return nil
}

// bounded serves a stream if there is room for one more.
func (h *Handler) bounded(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request) error) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		fail(w, refusef(http.StatusTooManyRequests, "this node has %d streams open, which is its limit", cap(h.slots)))
		return
	}
	if h.life.Err() != nil {
		fail(w, refusef(http.StatusServiceUnavailable, "the node's agent is stopping"))
		return
	}
	if err := serve(w, r); err != nil {
		fail(w, err)
	}
}

// refusal is an answer that is no stream.
type refusal struct {
	code int
	text string
}

func (r refusal) Error() string { return r.text }

func refusef(code int, format string, args ...any) error {
	return refusal{code, fmt.Sprintf(format, args...)}
}

// fail answers in plain text, as the kubelet does: the API server makes a Status
// of it. Handlers return errors only before they have written anything.
func fail(w http.ResponseWriter, err error) {
	refused := refusal{http.StatusInternalServerError, err.Error()}
	errors.As(err, &refused)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(refused.code)
	_, _ = io.WriteString(w, refused.text)
}

// pod finds the pod of a request.
func (h *Handler) pod(r *http.Request) (Pod, bool) {
	return h.Pods.Lookup(r.PathValue("namespace"), r.PathValue("pod"))
}

// fullName is how the kubelet names a pod in its errors.
func fullName(r *http.Request) string { return r.PathValue("pod") + "_" + r.PathValue("namespace") }

func (p Pod) container(name string) (Container, bool) {
	for _, c := range p.Containers {
		if c.Name == name {
			return c, true
		}
	}
	return Container{}, false
}

// running finds a container that a process can be reached in.
func (h *Handler) running(r *http.Request) (Container, error) {
	p, ok := h.pod(r)
	if !ok {
		return Container{}, refusef(http.StatusNotFound, "pod does not exist")
	}
	name := r.PathValue("container")
	c, ok := p.container(name)
	if !ok || !c.Running {
		return Container{}, refusef(http.StatusInternalServerError, "container not found (%q)", name)
	}
	return c, nil
}
