package rest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hasty is a world with TLS whose server hardly waits for some things.
func hasty(t *testing.T, protocol string, change func(*deadlines)) (w *world, dial func(secure bool) net.Conn) {
	t.Helper()
	w = newWorld(t, nil)
	w.server.deadlines.lastWords = 50 * time.Millisecond
	change(&w.server.deadlines)
	url, client := w.serveTLS(t)
	roots := client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	return w, func(secure bool) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if !secure {
			return c
		}
		return tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "example.com", NextProtos: []string{protocol}})
	}
}

// ends reads what comes until the connection ends, which it must.
func ends(t *testing.T, what string, c io.Reader) (data []byte) {
	t.Helper()
	data, err := io.ReadAll(c)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("%s: still open after a minute", what)
	}
	return data
}

func hastyHeaders(d *deadlines, x time.Duration) { d.headers = x }

// shaken is a connection to a server that is as hasty as the machine bears: on a slow one
// the handshake is what takes too long.
func shaken(t *testing.T, secure bool, change func(*deadlines, time.Duration)) net.Conn {
	t.Helper()
	for patience := 200 * time.Millisecond; ; patience *= 4 {
		_, dial := hasty(t, "http/1.1", func(d *deadlines) { change(d, patience) })
		c := dial(secure)
		h, is := c.(*tls.Conn)
		if !is {
			return c
		}
		if err := h.Handshake(); err == nil {
			return c
		} else if patience > 10*time.Second {
			t.Fatal(err)
		}
	}
}

// TestHalfOpenConnectionsEnd: a client that begins something and goes no further loses its connection.
func TestHalfOpenConnectionsEnd(t *testing.T) {
	for _, tc := range []struct {
		name   string
		secure bool
		says   string
		change func(*deadlines, time.Duration)
	}{
		{"nothing at all", false, "", hastyHeaders},
		{"half a handshake", false, "\x16\x03\x01\x02\x00\x01", hastyHeaders},
		{"a handshake and no request", true, "", hastyHeaders},
		{"half of the headers", true, "GET /version HTTP/1.1\r\nHost: h\r\nX-A", hastyHeaders},
		{"one request and no other", true, "GET /version HTTP/1.1\r\nHost: h\r\n\r\n", func(d *deadlines, x time.Duration) { d.idle = x }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := shaken(t, tc.secure, tc.change)
			_, _ = io.WriteString(c, tc.says)
			ends(t, tc.name, c)
		})
	}
	t.Run("HTTP/2 without answers to pings", func(t *testing.T) {
		t.Parallel()
		_, dial := hasty(t, "h2", func(d *deadlines) { d.ping = 200 * time.Millisecond })
		c := dial(true)
		_, _ = io.WriteString(c, http2.ClientPreface)
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		pings := 0
		for {
			frame, err := f.ReadFrame()
			if _, is := frame.(*http2.PingFrame); is {
				pings++
			}
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Fatalf("still open after a minute and %d pings", pings)
			}
			if err != nil {
				break
			}
		}
		if pings == 0 {
			t.Error("it was closed without a ping")
		}
	})
}

// TestSlowReadersAreCutOff: a client that asks for much and reads nothing loses its
// connection soon after the time of its request is over, or when its watch has stalled.
func TestSlowReadersAreCutOff(t *testing.T) {
	for _, query := range []string{"?timeout=5s", "?watch=1"} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			const objects, size = 24, 600 << 10 // more than sockets hold
			w, dial := hasty(t, "http/1.1", func(d *deadlines) { d.stall = time.Second })
			for i := range objects {
				cm := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i), Namespace: "default"}, Data: map[string]string{"k": strings.Repeat("x", size)}}
				if _, err := w.registry.Create(t.Context(), configMapCall(""), cm, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			c := dial(true)
			if _, err := fmt.Fprintf(c, "GET %s%s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", configMaps, query); err != nil {
				t.Fatal(err)
			}
			select { // it reads nothing until the server has lost patience
			case <-w.closed:
			case <-time.After(time.Minute):
				t.Fatal("still open after a minute")
			}
			data := ends(t, query, c)
			if !bytes.HasPrefix(data, []byte("HTTP/1.1 200 OK")) || len(data) >= objects*size {
				t.Errorf("%d bytes came, beginning with %.20q", len(data), data)
			}
		})
	}
}

// TestSlowStreamsAreCutOff: the same within HTTP/2, where it costs the client the stream.
func TestSlowStreamsAreCutOff(t *testing.T) {
	for _, query := range []string{"?timeout=5s", "?watch=1"} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			w, dial := hasty(t, "h2", func(d *deadlines) { d.stall = time.Second })
			w.fill(t, 200) // more than the window of a stream
			c := dial(true)
			_, _ = io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, c)
			_ = f.WriteSettings()
			var b bytes.Buffer
			e := hpack.NewEncoder(&b)
			for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "h"}, {":path", configMaps + query}} {
				_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
			}
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
			got := 0
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					t.Fatalf("the connection ended, not the stream: %v", err)
				}
				switch frame := frame.(type) {
				case *http2.DataFrame:
					if got += len(frame.Data()); frame.StreamEnded() {
						t.Fatalf("the answer came whole in %d bytes", got)
					}
				case *http2.PingFrame:
					if !frame.IsAck() {
						_ = f.WritePing(true, frame.Data)
					}
				case *http2.RSTStreamFrame:
					if got == 0 {
						t.Error("it was reset before it began")
					}
					return
				}
			}
		})
	}
}

// late is a writer that takes its time to set a deadline.
type late struct {
	http.ResponseWriter
	asked, go_ chan struct{}
	set        atomic.Int32
}

func (l *late) SetReadDeadline(time.Time) error {
	close(l.asked)
	<-l.go_
	l.set.Add(1)
	return nil
}

func (l *late) SetWriteDeadline(time.Time) error {
	l.set.Add(1)
	return nil
}

// TestNobodyIsCutOffAfterwards: a request whose time was over just when its handler returned
// ended the server, since a deadline was set for a stream that was gone.
func TestNobodyIsCutOffAfterwards(t *testing.T) {
	l := &late{asked: make(chan struct{}), go_: make(chan struct{})}
	stop := usualDeadlines().cutOff(l, 0)
	<-l.asked
	go func() { close(l.go_) }()
	stop()
	if n := l.set.Load(); n != 2 {
		t.Errorf("the handler may return while the deadlines are being set: %d were", n)
	}
	var h handling
	do := h.whileItLasts(func() { t.Error("done after the end") })
	h.end()
	do()
}

// TestOverJustInTime has requests whose time is over while they are answered.
func TestOverJustInTime(t *testing.T) {
	w := newWorld(t, nil)
	w.make(t, "a")
	url, client := w.serveTLS(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				resp, err := client.Get(fmt.Sprintf("%s%s?timeout=%dus", url, configMaps, 1+(i+8*n)%400))
				if err != nil {
					continue // a stream that is cut off before its headers
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	if resp, err := client.Get(url + configMaps); err != nil || resp.StatusCode != 200 {
		t.Errorf("afterwards: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
}
