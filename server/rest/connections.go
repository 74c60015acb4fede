package rest

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Limits of connections and of what is open on them.
const (
	maxConnections = 10_000 // more are closed as they come
	// Watches of one user and of all; more are told to come again.
	maxUserWatches = 4_000
	maxWatches     = 16_000
	watchRetry     = 5 // seconds
	// A connection whose requests are given up this often within resetWindow is closed.
	maxResets   = 1_000
	resetWindow = 10 * time.Second
)

// bounded is a listener that keeps no more than max connections open.
type bounded struct {
	net.Listener
	max  int64
	open atomic.Int64
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if b.open.Add(1) <= b.max {
			return &counted{Conn: c, open: &b.open}, nil
		}
		b.open.Add(-1)
		_ = c.Close() // nothing was promised to it
	}
}

type counted struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// watchLimit counts open watches. The zero value is ready.
type watchLimit struct {
	mu    sync.Mutex
	total int
	users map[string]int
}

// enter counts a watch until done is called, or refuses it.
func (l *watchLimit) enter(user string) (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users[user] >= maxUserWatches || l.total >= maxWatches {
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("too many watches are open: %d of this user, %d in all", l.users[user], l.total), watchRetry)
	}
	if l.users == nil {
		l.users = map[string]int{}
	}
	l.users[user]++
	l.total++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.total--
		if l.users[user]--; l.users[user] == 0 {
			delete(l.users, user)
		}
	}, nil
}

// resets counts the requests of one connection that were given up.
type resets struct {
	conn net.Conn

	mu    sync.Mutex
	since time.Time
	count int
	shut  bool
}

type resetsKey struct{}

// connContext gives the requests of a connection its resets.
func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, resetsKey{}, &resets{conn: c})
}

// noteReset counts a request whose client did not wait for its end, and closes a
// connection that gives up too many: opening and resetting streams costs a client
// nothing, and us the work.
func noteReset(r *http.Request) {
	c, _ := r.Context().Value(resetsKey{}).(*resets)
	if c == nil || r.ProtoMajor != 2 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.since) > resetWindow {
		c.since, c.count = now, 0
	}
	if c.count++; c.count > maxResets && !c.shut {
		c.shut = true
		go goAway(c.conn)
	}
}

// goAway says ENHANCE_YOUR_CALM and closes the connection. net/http has no way to say it
// for us: the frame goes out between two of its own, or, if it is just writing one,
// breaks what is thrown away anyhow.
func goAway(c net.Conn) {
	const (
		frame           = 17
		typeGoAway      = 7
		enhanceYourCalm = 11
		lastStream      = 1<<31 - 1
	)
	var b [frame]byte
	b[2], b[3] = frame-9, typeGoAway
	binary.BigEndian.PutUint32(b[9:], lastStream)
	binary.BigEndian.PutUint32(b[13:], enhanceYourCalm)
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(b[:])
	if t, is := c.(*tls.Conn); is {
		c = t.NetConn()
	}
	_ = c.Close()
}
