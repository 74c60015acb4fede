// Package stream is the node's door for people: logs, exec, attach and
// port-forward of its pods, at the paths and in the protocols of the kubelet
// (WebSocket and SPDY), as one http.Handler. Who may come in is decided by the
// API server, which is the only one that reaches the handler. It owns no
// container and no listener. Start reading at New; a file per verb.
package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	LogPath             string
	// PreviousLogPath is the log of the instance before; empty if there is none.
	PreviousLogPath string
}

// Dialer connects to a port inside a pod, as a process in the pod would on localhost.
type Dialer interface {
	DialPod(ctx context.Context, netns string, port uint16) (net.Conn, error)
}

// Config of a Handler; all but Log are required.
type Config struct {
	Pods   Pods
	Engine engine.Engine
	Dialer Dialer
	Log    *slog.Logger
}

// Handler serves the streams of one node.
type Handler struct {
	Config
	mux *http.ServeMux
}

// New checks the configuration.
func New(c Config) (*Handler, error) {
	if c.Pods == nil || c.Engine == nil || c.Dialer == nil {
		return nil, fmt.Errorf("making the stream handler: pods, engine or dialer missing")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	h := &Handler{Config: c, mux: http.NewServeMux()}
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /containerLogs/{namespace}/{pod}/{container}": h.logs,
		"/exec/{namespace}/{pod}/{container}":              h.exec,
		"/attach/{namespace}/{pod}/{container}":            h.attach,
		"/portForward/{namespace}/{pod}":                   h.portForward,
	} {
		h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := serve(w, r); err != nil {
				fail(w, err)
			}
		})
	}
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return h, nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// fail answers with a Status; handlers return errors only before they have
// written anything.
func fail(w http.ResponseWriter, err error) {
	status := metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError, Message: err.Error()}
	if s, ok := err.(errors.APIStatus); ok {
		status = s.Status()
	}
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	json.NewEncoder(w).Encode(status)
}

// pod finds the pod of a request.
func (h *Handler) pod(r *http.Request) (Pod, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	p, ok := h.Pods.Lookup(namespace, name)
	if !ok {
		return Pod{}, errors.NewNotFound(api.Pods.GroupResource(), name)
	}
	return p, nil
}

// container finds the container of a request.
func (h *Handler) container(r *http.Request) (Container, error) {
	p, err := h.pod(r)
	if err != nil {
		return Container{}, err
	}
	name := r.PathValue("container")
	for _, c := range p.Containers {
		if c.Name == name {
			return c, nil
		}
	}
	return Container{}, errors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, r.PathValue("pod")))
}

// running finds a container that a process can be reached in.
func (h *Handler) running(r *http.Request) (Container, error) {
	c, err := h.container(r)
	if err != nil {
		return Container{}, err
	}
	if !c.Running {
		return Container{}, fmt.Errorf("container not found (%q)", c.Name)
	}
	return c, nil
}
