package stream

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/api/errors"
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
		return w, errors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	return w, nil
}

// session is a connection that streams of a process are connected to.
type session interface {
	// io returns the process's side of the streams.
	io() engine.IO
	// gone ends when the client has gone away.
	gone() context.Context
	// finish tells the client how it ended and closes the connection.
	finish(metav1.Status)
}

// open upgrades the request to a session, by WebSocket or SPDY.
func open(w http.ResponseWriter, r *http.Request, want wanted) (session, error) {
	if isWebSocket(r) {
		return openWebSocket(w, r, want)
	}
	if httpstream.IsUpgradeRequest(r) {
		return openSPDY(w, r, want)
	}
	return nil, errors.NewBadRequest("Upgrade request required")
}

// exec runs a command in a running container.
func (h *Handler) exec(w http.ResponseWriter, r *http.Request) error {
	c, err := h.running(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	want, err := wantedStreams(q)
	if err != nil {
		return err
	}
	command := q["command"]
	if len(command) == 0 {
		return errors.NewBadRequest("you must specify a command")
	}
	s, err := open(w, r, want)
	if err != nil || s == nil {
		return err
	}
	code, err := h.Engine.Exec(s.gone(), c.ID, engine.ExecSpec{Command: command, TTY: want.tty}, s.io())
	s.finish(outcome(code, err))
	return nil
}

// attach connects to the first process of a running container.
func (h *Handler) attach(w http.ResponseWriter, r *http.Request) error {
	c, err := h.running(r)
	if err != nil {
		return err
	}
	want, err := wantedStreams(r.URL.Query())
	if err != nil {
		return err
	}
	if want.stdin && !c.Stdin {
		want.stdin = false
	}
	if c.TTY {
		want.tty, want.stderr = true, false
	}
	s, err := open(w, r, want)
	if err != nil || s == nil {
		return err
	}
	s.finish(outcome(0, h.Engine.Attach(s.gone(), c.ID, s.io())))
	return nil
}

// outcome is the Status that remote command clients read the exit code from.
func outcome(code int, err error) metav1.Status {
	switch {
	case err != nil:
		return metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
			Message: fmt.Sprintf("Internal error occurred: error executing command in container: %v", err)}
	case code != 0:
		return metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: command terminated with exit code %d", code),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: fmt.Sprint(code)}}}}
	}
	return metav1.Status{Status: metav1.StatusSuccess}
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
