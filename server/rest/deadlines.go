package rest

import (
	"net/http"
	"sync"
	"time"
)

// deadlines is how long the server bears clients that do not read, write or say anything.
type deadlines struct {
	// headers is for a handshake, and for the headers of a request, to come whole.
	headers time.Duration
	// idle is for the next request on a connection.
	idle time.Duration
	// ping is for an HTTP/2 connection without frames; half of it more for the answer to a ping.
	ping time.Duration
	// lastWords is what an answer may still take once its request has run out of time.
	lastWords time.Duration
	// stall is for a watch's client to read what was written.
	stall time.Duration
}

func usualDeadlines() deadlines {
	return deadlines{headers: 30 * time.Second, idle: 3 * time.Minute, ping: 30 * time.Second, lastWords: 5 * time.Second, stall: 30 * time.Second}
}

// cutOff makes reads of the body fail when the request's time is over, and writes a
// little later, so that neither a slow sender nor a slow reader holds its place. The
// handler must call stop before it returns.
func (d deadlines) cutOff(w http.ResponseWriter, after time.Duration) (stop func()) {
	var h handling
	t := time.AfterFunc(after, h.whileItLasts(func() {
		c, now := http.NewResponseController(w), time.Now()
		_ = c.SetReadDeadline(now) // where there is no connection there is nobody to cut off
		_ = c.SetWriteDeadline(now.Add(d.lastWords))
	}))
	return func() {
		t.Stop()
		h.end()
	}
}

// handling is the time that a handler takes. Its writer must not be touched afterwards:
// that of HTTP/2 ends the server then, and under HTTP/1 another request has the connection.
type handling struct {
	mu   sync.Mutex
	over bool // guarded by mu
}

// whileItLasts is f for another goroutine: it does nothing once the handler has returned.
func (h *handling) whileItLasts(f func()) func() {
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.over {
			f()
		}
	}
}

// end waits for what is being done.
func (h *handling) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
}
