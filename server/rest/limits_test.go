package rest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"orch/server/access"
	"orch/server/flow"
)

// held authorization keeps a request in its seat until it may go.
type held struct {
	everybody
	in, out chan struct{}
}

func (h held) Authorize(ctx context.Context, at access.Attributes) (bool, string, error) {
	if at.Name == "held" {
		h.in <- struct{}{}
		<-h.out
	}
	return true, "", nil
}

// TestNoSeatIs429: what finds no seat in a level without queues is told so in upstream's
// words and headers, and served once there is one.
func TestNoSeatIs429(t *testing.T) {
	h := held{in: make(chan struct{}), out: make(chan struct{})}
	w := newWorld(t, func(c *Config) { c.Authorizer, c.Flow = h, flow.New(flow.Config{Seats: 1}) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.do(t, "GET", configMaps+"/held", "")
	}()
	<-h.in
	resp, data := w.do(t, "GET", configMaps, "")
	if resp.StatusCode != 429 || string(data) != "Too many requests, please try again later.\n" || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%s %q, retry after %q", resp.Status, data, resp.Header.Get("Retry-After"))
	}
	for _, name := range []string{"X-Kubernetes-PF-FlowSchema-UID", "X-Kubernetes-PF-PriorityLevel-UID"} {
		if _, has := resp.Header[http.CanonicalHeaderKey(name)]; !has {
			t.Errorf("no %s", name)
		}
	}
	close(h.out)
	<-done
	if resp, _ := w.do(t, "GET", configMaps, ""); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}

// TestSlowSenderIsCutOff: a body that does not come gives its place back when the
// request's time is over.
func TestSlowSenderIsCutOff(t *testing.T) {
	w := newWorld(t, nil)
	c, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "POST %s?timeout=200ms HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", configMaps)
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 504 || !strings.Contains(string(data), `"reason":"Timeout"`) {
		t.Errorf("%s %s", resp.Status, data)
	}
}

// TestRapidResetIsCalmedDown: a client that opens and resets streams as fast as it can
// is told ENHANCE_YOUR_CALM and loses its connection.
func TestRapidResetIsCalmedDown(t *testing.T) {
	w := newWorld(t, nil)
	url, client := w.serveTLS(t)
	roots := client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	c, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{RootCAs: roots, ServerName: "example.com", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	_ = f.WriteSettings()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	go func() {
		for id := uint32(1); ; id += 2 {
			b.Reset()
			for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "h"}, {":path", configMaps + "?watch=1"}} {
				_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
			}
			if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndStream: true, EndHeaders: true}) != nil || f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	for {
		frame, err := f.ReadFrame()
		if g, is := frame.(*http2.GoAwayFrame); is && g.ErrCode == http2.ErrCodeEnhanceYourCalm {
			return
		}
		if err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Fatal("a minute of resets was borne")
			}
			return // closed while it was writing a frame
		}
	}
}

func TestWatchesAreBounded(t *testing.T) {
	var l watchLimit
	var ends []func()
	for range maxUserWatches {
		end, err := l.enter("a")
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if _, err := l.enter("a"); err == nil || !strings.Contains(err.Error(), "too many watches") {
		t.Errorf("one more: %v", err)
	}
	if _, err := l.enter("b"); err != nil {
		t.Errorf("another user: %v", err)
	}
	ends[0]()
	if _, err := l.enter("a"); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

// TestOneWatchTooMany: a user with as many watches as there may be is told to come again.
func TestOneWatchTooMany(t *testing.T) {
	w := newWorld(t, nil)
	for range maxUserWatches - 1 {
		if _, err := w.server.watches.enter("admin"); err != nil {
			t.Fatal(err)
		}
	}
	last, err := http.Get(w.http.URL + configMaps + "?watch=1")
	if err != nil || last.StatusCode != 200 {
		t.Fatal(last, err)
	}
	defer last.Body.Close()
	resp, data := w.do(t, "GET", configMaps+"?watch=1", "")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "5" || !strings.Contains(string(data), `"reason":"TooManyRequests"`) || !strings.Contains(string(data), "too many watches are open") {
		t.Errorf("%s %v %s", resp.Status, resp.Header, data)
	}
	last.Body.Close()
	for end := time.Now().Add(time.Minute); ; {
		resp, data := w.do(t, "GET", configMaps+"?watch=1&timeoutSeconds=1", "")
		if resp.StatusCode == 200 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after one has ended: %s %s", resp.Status, data)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bounded{Listener: l, max: 1}
	defer b.Close()
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dial()
	defer first.Close()
	server := <-accepted
	second := dial()
	defer second.Close()
	_ = second.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := second.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second stays open: %v", err)
	}
	_ = server.Close()
	_ = server.Close() // counts once
	third := dial()
	defer third.Close()
	select {
	case c := <-accepted:
		_ = c.Close()
	case <-time.After(time.Minute):
		t.Error("no room after one has ended")
	}
}
