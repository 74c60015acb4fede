package stream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"

	"orch/runtime/engine"
)

// Subprotocols of remote commands over WebSocket. The first byte of each message
// names the channel; v5 adds the signal that a channel ended; v4 and v5 report
// the outcome as a Status on the error channel.
const (
	protocolV5     = "v5.channel.k8s.io"
	protocolV4     = "v4.channel.k8s.io"
	protocolV4Text = "v4.base64.channel.k8s.io"
	protocolV1     = "channel.k8s.io"
	protocolV1Text = "base64.channel.k8s.io"
)

const (
	// maxMessage bounds what a client sends in one message, as upstream does. None
	// is held in memory whole.
	maxMessage = 32 << 20
	// maxResize bounds a message with a terminal's size.
	maxResize = 1 << 10
	// A read of a process's pipe is at most 32 KiB: with the channel and the frame's
	// head it fits the buffer, and goes out as one frame.
	writeBuffer = 33 << 10
	readBuffer  = 4 << 10
)

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// upgrade makes a WebSocket with one of the protocols (or none, if the client
// names none). It returns nil without an error where the client was answered. Every
// origin is let in: requests come through the API server, which has asked who they are.
func (h *Handler) upgrade(w http.ResponseWriter, r *http.Request, l *link, protocols ...string) (*websocket.Conn, error) {
	asked := websocket.Subprotocols(r)
	known := len(asked) == 0
	for _, a := range asked {
		for _, p := range protocols {
			known = known || a == p
		}
	}
	if !known {
		return nil, refusef(http.StatusForbidden, "requested protocol(s) are not supported: %v; supports %v", asked, protocols)
	}
	u := websocket.Upgrader{Subprotocols: protocols, CheckOrigin: func(*http.Request) bool { return true },
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &h.buffers}
	conn, err := u.Upgrade(watched{ResponseWriter: w, link: l}, r, nil)
	if err != nil {
		return nil, nil // the upgrader has answered
	}
	conn.SetReadLimit(maxMessage)
	keepAlive(conn, l, h.Ping)
	return conn, nil
}

// keepAlive pings, and answers pings, until the link ends. A client may be busy
// with what it has got (a pager waits for its reader): it has all the time it
// wants to take a control message, unlike with the library's own handler.
func keepAlive(conn *websocket.Conn, l *link, period time.Duration) {
	pings := make(chan string, 1)
	conn.SetPingHandler(func(text string) error {
		select {
		case pings <- text:
		default: // one waits already
		}
		return nil
	})
	go func() {
		t := time.NewTicker(period)
		defer t.Stop()
		for {
			kind, text := websocket.PingMessage, ""
			select {
			case <-l.ctx.Done():
				return
			case <-t.C:
			case text = <-pings:
				kind = websocket.PongMessage
			}
			if conn.WriteControl(kind, []byte(text), time.Time{}) != nil {
				return
			}
		}
	}()
}

// channels sends and receives messages that begin with the number of a channel.
type channels struct {
	conn *websocket.Conn
	link *link
	text bool       // base64 subprotocols
	mu   sync.Mutex // one message at a time on conn
}

// receive hands each message's content to take until the client is gone or take
// fails. What take leaves unread is skipped.
func (c *channels) receive(take func(channel byte, content io.Reader) error) error {
	for {
		_, message, err := c.conn.NextReader()
		if err != nil {
			return err
		}
		var channel [1]byte
		if _, err := io.ReadFull(message, channel[:]); err == io.EOF {
			continue // an empty message says nothing
		} else if err != nil {
			return err
		}
		c.link.touch()
		if c.text {
			channel[0] -= '0'
			message = base64.NewDecoder(base64.StdEncoding, message)
		}
		if err := take(channel[0], message); err != nil {
			return err
		}
	}
}

func (c *channels) send(channel byte, data []byte) error {
	c.link.touch()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.text {
		return c.conn.WriteMessage(websocket.TextMessage, base64.StdEncoding.AppendEncode([]byte{channel + '0'}, data))
	}
	w, err := c.conn.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte{channel}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Close()
}

// close begins the closing handshake and waits for the client's part of it.
func (c *channels) close() {
	_ = c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Time{})
	c.link.leave()
}

// to writes to one channel; a slow client slows the writer.
func (c *channels) to(channel byte) io.Writer { return channelWriter{c, channel} }

type channelWriter struct {
	c       *channels
	channel byte
}

func (w channelWriter) Write(b []byte) (int, error) {
	if err := w.c.send(w.channel, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// webSocket is a remote over one WebSocket.
type webSocket struct {
	channels
	status  bool // the outcome goes out as a Status
	streams engine.IO
	stdin   *io.PipeWriter
	resize  sizes
}

func (h *Handler) openWebSocket(w http.ResponseWriter, r *http.Request, want wanted) (remote, error) {
	l := h.newLink(r)
	conn, err := h.upgrade(w, r, l, protocolV5, protocolV4, protocolV4Text, protocolV1, protocolV1Text)
	if conn == nil {
		l.cancel()
		return nil, err
	}
	p := conn.Subprotocol()
	s := &webSocket{channels: channels{conn: conn, link: l, text: strings.Contains(p, "base64")},
		status: p == protocolV5 || p == protocolV4 || p == protocolV4Text, resize: newSizes()}
	first := byte(remotecommand.StreamErr)
	if want.stdin {
		s.streams.Stdin, s.stdin = io.Pipe()
	}
	if want.stderr {
		s.streams.Stderr, first = s.to(remotecommand.StreamStdErr), remotecommand.StreamStdErr
	}
	if want.stdout {
		s.streams.Stdout, first = s.to(remotecommand.StreamStdOut), remotecommand.StreamStdOut
	}
	if want.tty {
		s.streams.Resize = s.resize
	}
	go s.read()
	if p != protocolV5 { // older clients learn by this that the connection stands
		_ = s.send(first, nil) // a client that is gone already ends read
	}
	return s, nil
}

func (s *webSocket) io() engine.IO         { return s.streams }
func (s *webSocket) gone() context.Context { return s.link.ctx }

// read hands incoming messages on until the client is gone.
func (s *webSocket) read() {
	_ = s.receive(s.take) // however it ended, the client is gone
	s.closeStdin()
	s.link.cancel()
}

func (s *webSocket) take(channel byte, content io.Reader) error {
	switch channel {
	case remotecommand.StreamStdIn:
		if s.stdin != nil {
			if err := s.feed(content); err != nil {
				return err
			}
		}
	case remotecommand.StreamResize:
		var size engine.Size
		if json.NewDecoder(io.LimitReader(content, maxResize)).Decode(&size) == nil {
			s.resize.push(size)
		}
	case remotecommand.StreamClose:
		var ended [1]byte
		if _, err := io.ReadFull(content, ended[:]); err == nil && ended[0] == remotecommand.StreamStdIn {
			s.closeStdin()
		}
	}
	return nil
}

// feed copies to the process; what it does not want any more is dropped.
func (s *webSocket) feed(content io.Reader) error {
	buf := make([]byte, readBuffer)
	for {
		n, err := content.Read(buf)
		if n > 0 {
			_, _ = s.stdin.Write(buf[:n])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading input: %w", err)
		}
	}
}

func (s *webSocket) closeStdin() {
	if s.stdin != nil {
		s.stdin.Close()
	}
}

func (s *webSocket) finish(status metav1.Status) {
	var message []byte
	if s.status {
		message, _ = json.Marshal(status) // a Status has nothing that cannot be encoded
	} else if status.Status != metav1.StatusSuccess {
		message = []byte(status.Message)
	}
	if message != nil {
		_ = s.send(remotecommand.StreamErr, message)
	}
	if in, ok := s.streams.Stdin.(*io.PipeReader); ok {
		in.Close() // read goes on, dropping input, until the client closes
	}
	s.close()
}
