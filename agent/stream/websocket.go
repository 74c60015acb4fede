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

// Subprotocols of remote commands over WebSocket, the preferred first. The first
// byte of each message names the channel; v5 adds the signal that a channel
// ended; v4 and v5 report the outcome as a Status on the error channel.
const (
	protocolV5     = "v5.channel.k8s.io"
	protocolV4     = "v4.channel.k8s.io"
	protocolV4Text = "v4.base64.channel.k8s.io"
	protocolV1     = "channel.k8s.io"
	protocolV1Text = "base64.channel.k8s.io"
)

const (
	// maxMessage bounds what a client sends in one message.
	maxMessage = 1 << 20
	// closeTimeout is how long a client has to take the last messages.
	closeTimeout = 5 * time.Second
)

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// upgrader lets every origin in: requests come through the API server, which
// has asked who they are.
func upgrader(protocols ...string) *websocket.Upgrader {
	return &websocket.Upgrader{Subprotocols: protocols, CheckOrigin: func(*http.Request) bool { return true }, ReadBufferSize: 32 << 10, WriteBufferSize: 32 << 10}
}

// webSocket is a session over one WebSocket.
type webSocket struct {
	conn    *websocket.Conn
	text    bool // base64 subprotocols
	status  bool // the outcome goes out as a Status
	ctx     context.Context
	cancel  context.CancelFunc
	streams engine.IO
	stdin   *io.PipeWriter
	resize  sizes

	mu sync.Mutex // one writer at a time on conn
}

func openWebSocket(w http.ResponseWriter, r *http.Request, want wanted) (session, error) {
	conn, err := upgrader(protocolV5, protocolV4, protocolV4Text, protocolV1, protocolV1Text).Upgrade(w, r, nil)
	if err != nil {
		return nil, nil // the upgrader has answered
	}
	p := conn.Subprotocol()
	s := &webSocket{conn: conn, text: strings.Contains(p, "base64"), status: p == protocolV5 || p == protocolV4 || p == protocolV4Text, resize: newSizes()}
	s.ctx, s.cancel = context.WithCancel(r.Context())
	conn.SetReadLimit(maxMessage)
	if want.stdin {
		s.streams.Stdin, s.stdin = io.Pipe()
	}
	if want.stdout {
		s.streams.Stdout = channelWriter{s, remotecommand.StreamStdOut}
	}
	if want.stderr {
		s.streams.Stderr = channelWriter{s, remotecommand.StreamStdErr}
	}
	if want.tty {
		s.streams.Resize = s.resize
	}
	if p == "" || !s.status { // old clients want to see each channel open
		for _, c := range []byte{remotecommand.StreamStdOut, remotecommand.StreamStdErr, remotecommand.StreamErr} {
			s.send(c, nil)
		}
	}
	go s.read()
	return s, nil
}

func (s *webSocket) io() engine.IO         { return s.streams }
func (s *webSocket) gone() context.Context { return s.ctx }

// read hands incoming messages on until the client is gone. The server's own
// closing ends it too, since it closes the connection.
func (s *webSocket) read() {
	defer s.cancel()
	for {
		_, message, err := s.conn.ReadMessage()
		if err != nil {
			s.closeStdin()
			return
		}
		channel, data, err := s.decode(message)
		if err != nil {
			s.closeStdin()
			return
		}
		switch channel {
		case remotecommand.StreamStdIn:
			if s.stdin != nil {
				s.stdin.Write(data) // fails once the process reads no more: the rest is dropped
			}
		case remotecommand.StreamResize:
			var size engine.Size
			if json.Unmarshal(data, &size) == nil {
				s.resize.push(size)
			}
		case remotecommand.StreamClose:
			if len(data) > 0 && data[0] == remotecommand.StreamStdIn {
				s.closeStdin()
			}
		}
	}
}

func (s *webSocket) closeStdin() {
	if s.stdin != nil {
		s.stdin.CloseWithError(io.EOF)
	}
}

func (s *webSocket) decode(message []byte) (channel byte, data []byte, err error) {
	if len(message) == 0 {
		return 0, nil, fmt.Errorf("an empty message")
	}
	if !s.text {
		return message[0], message[1:], nil
	}
	data, err = base64.StdEncoding.DecodeString(string(message[1:]))
	return message[0] - '0', data, err
}

func (s *webSocket) send(channel byte, data []byte) error {
	kind := websocket.BinaryMessage
	message := append([]byte{channel}, data...)
	if s.text {
		kind = websocket.TextMessage
		message = base64.StdEncoding.AppendEncode([]byte{channel + '0'}, data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.WriteMessage(kind, message)
}

func (s *webSocket) finish(status metav1.Status) {
	var message []byte
	if s.status {
		message, _ = json.Marshal(status)
	} else if status.Status != metav1.StatusSuccess {
		message = []byte(status.Message)
	}
	s.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	if message != nil {
		s.send(remotecommand.StreamErr, message)
	}
	s.mu.Lock()
	s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(closeTimeout))
	s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.CloseWithError(io.ErrClosedPipe)
		s.streams.Stdin.(*io.PipeReader).Close()
	}
	s.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	<-s.ctx.Done() // the client closes, or the deadline ends read
	s.conn.Close()
}

// channelWriter sends what a process writes; a slow client slows the process.
type channelWriter struct {
	s       *webSocket
	channel byte
}

func (w channelWriter) Write(b []byte) (int, error) {
	if err := w.s.send(w.channel, b); err != nil {
		return 0, err
	}
	return len(b), nil
}
