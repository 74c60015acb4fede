package stream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// link is the life of one client's upgraded connection. cancel closes the
// connection under whatever still reads or writes; it is called by whoever sees
// first that the client is gone, that nothing happens any more, or that all is
// said:
//
//	open -> sending and receiving -> outcome told -> client leaves -> cancel
//	   \________ client gone, idle, handler ends, protocol broken ________/
type link struct {
	ctx    context.Context //nolint:containedctx // it is the connection's life
	cancel context.CancelFunc
	linger time.Duration

	idle  time.Duration
	last  atomic.Int64 // when something was said, in Unix nanoseconds
	timer *time.Timer
}

func (h *Handler) newLink(r *http.Request) *link {
	l := &link{idle: h.IdleTimeout, linger: h.Linger}
	l.ctx, l.cancel = context.WithCancel(r.Context())
	stop := context.AfterFunc(h.life, l.cancel)
	l.touch()
	armed := make(chan struct{})
	l.timer = time.AfterFunc(l.idle, func() { <-armed; l.checkIdle() })
	close(armed)
	context.AfterFunc(l.ctx, func() {
		stop()
		l.timer.Stop()
	})
	return l
}

// touch notes that something was said.
func (l *link) touch() { l.last.Store(time.Now().UnixNano()) }

func (l *link) checkIdle() {
	left := l.idle - time.Since(time.Unix(0, l.last.Load()))
	if left <= 0 {
		l.cancel()
		return
	}
	if l.ctx.Err() == nil {
		l.timer.Reset(left)
	}
}

// leave waits until the client has left, but not for ever, and ends the link.
func (l *link) leave() {
	t := time.NewTimer(l.linger)
	defer t.Stop()
	select {
	case <-l.ctx.Done():
	case <-t.C:
	}
	l.cancel()
}

// watched gives the link the connection that an upgrade takes over.
type watched struct {
	http.ResponseWriter
	link *link
	// spdy: what comes is SPDY frames from the first byte.
	spdy bool
}

func (w watched) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	context.AfterFunc(w.link.ctx, func() { _ = conn.Close() }) // closed for good: nobody waits for it
	if w.spdy {
		rw = bufio.NewReadWriter(bufio.NewReader(&frames{r: rw.Reader}), rw.Writer)
	}
	return &watchedConn{conn, w.link}, rw, nil
}

// watchedConn notices by a failed write that the client is gone. That matters while
// nobody reads, because the process takes no input.
type watchedConn struct {
	net.Conn
	link *link
}

// Close is the link's. Libraries that close twice see no error.
func (c *watchedConn) Close() error {
	c.link.cancel()
	return nil
}

func (c *watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		c.link.cancel()
	}
	return n, err
}

// Largest SPDY frames that a client may send. The library holds up to 250 at once, and
// unpacks the headers of control frames; real ones have 32 KiB and 100 bytes.
const (
	maxDataFrame    = 256 << 10
	maxControlFrame = 16 << 10
)

var errFrame = errors.New("a SPDY frame is too large")

// frames passes SPDY frames on until one is too large.
type frames struct {
	r    io.Reader
	head [8]byte // of the next frame, of which have bytes are there
	have int
	left uint32 // bytes of the present frame that are still to come
}

func (f *frames) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	for p := b[:n]; len(p) > 0; {
		if f.left > 0 {
			skip := min(f.left, uint32(len(p)))
			f.left, p = f.left-skip, p[skip:]
			continue
		}
		c := copy(f.head[f.have:], p)
		f.have, p = f.have+c, p[c:]
		if f.have < len(f.head) {
			continue
		}
		f.have, f.left = 0, uint32(f.head[5])<<16|uint32(f.head[6])<<8|uint32(f.head[7])
		limit := uint32(maxDataFrame)
		if control := f.head[0]&0x80 != 0; control {
			limit = maxControlFrame
		}
		if f.left > limit {
			return 0, errFrame
		}
	}
	return n, err
}
