package stream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"

	"orch/runtime/engine"
)

// wanted are the streams a client asks for.
type wanted struct{ stdin, stdout, stderr, tty bool }

func wantedStreams(q url.Values) (wanted, error) {
	w := wanted{stdin: flag(q, "stdin", "input"), stdout: flag(q, "stdout", "output"), stderr: flag(q, "stderr", "error"), tty: flag(q, "tty")}
	if w.tty {
		w.stderr = false // a terminal has one output
	}
	if !w.stdin && !w.stdout && !w.stderr {
		return w, refusef(http.StatusBadRequest, "you must specify at least 1 of stdin, stdout, stderr")
	}
	return w, nil
}

// remote is a client whose streams a process is connected to.
type remote interface {
	// io returns the process's side of the streams.
	io() engine.IO
	// gone ends when the client has gone away.
	gone() context.Context
	// finish tells the client how it ended and closes the connection.
	finish(metav1.Status)
}

// open upgrades the request, by WebSocket or SPDY. It returns nil without an error
// where the client was answered already.
func (h *Handler) open(w http.ResponseWriter, r *http.Request, want wanted) (remote, error) {
	if isWebSocket(r) {
		return h.openWebSocket(w, r, want)
	}
	if httpstream.IsUpgradeRequest(r) {
		return h.openSPDY(w, r, want)
	}
	return nil, errNoUpgrade
}

// refuse says why there is no process to talk to. Clients of the v5 protocol are told
// on a connection's error channel, because upstream's API server takes them itself before it
// asks the node; the others by the answer to their request.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, why error) error {
	if !isWebSocket(r) || !slices.Contains(websocket.Subprotocols(r), protocolV5) {
		return why
	}
	s, err := h.openWebSocket(w, r, wanted{})
	if err != nil || s == nil {
		return err
	}
	s.finish(internalError("unable to upgrade connection", why))
	return nil
}

var errNoUpgrade = refusef(http.StatusBadRequest, "Upgrade request required")

// exec runs a command in a running container.
func (h *Handler) exec(w http.ResponseWriter, r *http.Request) error {
	c, err := h.running(r)
	if err != nil {
		return h.refuse(w, r, err)
	}
	q := r.URL.Query()
	want, err := wantedStreams(q)
	if err != nil {
		return err
	}
	command := q["command"]
	if len(command) == 0 {
		return refusef(http.StatusBadRequest, "you must specify a command")
	}
	s, err := h.open(w, r, want)
	if err != nil || s == nil {
		return err
	}
	code, err := h.Engine.Exec(s.gone(), c.ID, engine.ExecSpec{Command: command, TTY: want.tty}, s.io())
	if err != nil {
		s.finish(internalError("error executing command in container", err))
		return nil
	}
	s.finish(exited(code))
	return nil
}

// attach connects to the first process of a running container.
func (h *Handler) attach(w http.ResponseWriter, r *http.Request) error {
	c, err := h.running(r)
	if err != nil {
		return h.refuse(w, r, err)
	}
	want, err := wantedStreams(r.URL.Query())
	if err != nil {
		return err
	}
	s, err := h.open(w, r, want)
	if err != nil || s == nil {
		return err
	}
	streams := s.io()
	if in := streams.Stdin; in != nil && !c.Stdin {
		streams.Stdin = nil
		go func() { _, _ = io.Copy(io.Discard, in) }() // ends with the connection
	}
	if err := h.Engine.Attach(s.gone(), c.ID, streams); err != nil {
		s.finish(internalError("error attaching to container", err))
		return nil
	}
	s.finish(exited(0))
	return nil
}

// exited is the Status that remote command clients read the exit code from.
func exited(code int) metav1.Status {
	if code == 0 {
		return metav1.Status{Status: metav1.StatusSuccess}
	}
	return metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
		Message: fmt.Sprintf("command terminated with non-zero exit code: command terminated with exit code %d", code),
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: fmt.Sprint(code)}}}}
}

func internalError(what string, err error) metav1.Status {
	return metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: %s: %v", what, err)}
}

// sizes passes terminal sizes on; when the reader is slow only the newest counts.
type sizes chan engine.Size

func newSizes() sizes { return make(sizes, 1) }

func (s sizes) push(size engine.Size) {
	for {
		select {
		case s <- size:
			return
		default:
		}
		select {
		case <-s:
		default:
		}
	}
}

// counted notes on the link what goes through.
type counted struct {
	io.Writer
	link *link
}

func (c counted) Write(b []byte) (int, error) {
	c.link.touch()
	return c.Writer.Write(b)
}
