package connect

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Subprotocols in which output can be read over a WebSocket; without one it is binary.
const (
	socketBinary = "binary.k8s.io"
	socketText   = "base64.binary.k8s.io"
)

// socketWrite bounds how long a client may take to accept a message.
const socketWrite = 30 * time.Second

// readable serves what answers writes as messages where the client asks for a WebSocket,
// as upstream does for logs. An answer that is no success stays plain HTTP.
func readable(w http.ResponseWriter, r *http.Request, answer func(http.ResponseWriter, *http.Request) error) error {
	if !websocket.IsWebSocketUpgrade(r) {
		return answer(w, r)
	}
	asked := websocket.Subprotocols(r)
	if len(asked) > 0 && !slices.Contains(asked, socketBinary) && !slices.Contains(asked, socketText) {
		return apierrors.NewBadRequest("requested protocol(s) are not supported: " + strings.Join(asked, ",") + "; supports [ " + socketText + " " + socketBinary + "]")
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	inner := r.Clone(ctx)
	for _, h := range []string{"Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
		inner.Header.Del(h)
	}
	s := &socket{ResponseWriter: w, request: r, gone: cancel, header: http.Header{}}
	err := answer(s, inner)
	if s.conn == nil {
		return err
	}
	s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(socketWrite))
	s.conn.Close()
	return nil
}

// socket is a response that becomes a WebSocket when it turns out to be a success.
type socket struct {
	http.ResponseWriter
	request *http.Request
	gone    context.CancelFunc
	header  http.Header
	conn    *websocket.Conn // nil before, and for failures
	plain   bool
	failed  error
}

func (s *socket) Header() http.Header { return s.header }

func (s *socket) WriteHeader(code int) {
	switch {
	case s.conn != nil || s.plain || s.failed != nil:
	case code == http.StatusOK:
		s.open()
	default:
		s.plain = true
		for k, v := range s.header {
			s.ResponseWriter.Header()[k] = v
		}
		s.ResponseWriter.WriteHeader(code)
	}
}

// open greets the client with an empty message and watches for its leaving.
func (s *socket) open() {
	up := websocket.Upgrader{Subprotocols: []string{socketBinary, socketText}, CheckOrigin: func(*http.Request) bool { return true }}
	s.conn, s.failed = up.Upgrade(s.ResponseWriter, s.request, nil)
	if s.failed != nil {
		s.gone()
		return
	}
	conn := s.conn
	go func() {
		defer s.gone()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	s.failed = s.send(nil)
}

func (s *socket) send(p []byte) error {
	s.conn.SetWriteDeadline(time.Now().Add(socketWrite))
	if s.conn.Subprotocol() == socketText {
		return s.conn.WriteMessage(websocket.TextMessage, []byte(base64.StdEncoding.EncodeToString(p)))
	}
	return s.conn.WriteMessage(websocket.BinaryMessage, p)
}

func (s *socket) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	if s.plain {
		return s.ResponseWriter.Write(p)
	}
	if s.failed == nil {
		s.failed = s.send(p)
	}
	if s.failed != nil {
		return 0, s.failed
	}
	return len(p), nil
}

// Flush does nothing more: messages are on their way at once.
func (s *socket) Flush() {
	if s.plain {
		http.NewResponseController(s.ResponseWriter).Flush()
	}
}
