package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"orch/runtime/engine"
)

// maxResizes bounds what comes on the stream of terminal sizes in all.
const maxResizes = 1 << 20

// spdySession is a remote over SPDY: a stream per channel.
type spdySession struct {
	conn    httpstream.Connection
	link    *link
	streams engine.IO
	stdin   httpstream.Stream
	outputs []httpstream.Stream // the error stream is the last
	resize  sizes
	status  bool // v4: the outcome goes out as a Status
}

// opened is a stream that a client has opened; sent is closed when it may be used.
type opened struct {
	httpstream.Stream
	sent <-chan struct{}
}

func (h *Handler) openSPDY(w http.ResponseWriter, r *http.Request, want wanted) (remote, error) {
	protocol, err := httpstream.Handshake(r, w, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return nil, nil // it has answered
	}
	l := h.newLink(r)
	streams := make(chan opened, 8)
	conn := spdy.NewResponseUpgraderWithPings(h.Ping).UpgradeResponse(watched{w, l, true}, r, func(s httpstream.Stream, sent <-chan struct{}) error {
		select {
		case streams <- opened{s, sent}:
			return nil
		default:
			l.cancel()
			return errors.New("more streams than a remote command has")
		}
	})
	if conn == nil {
		l.cancel()
		return nil, nil // it has answered
	}
	go follow(conn, l)
	s := &spdySession{conn: conn, link: l, resize: newSizes(), status: protocol == remotecommand.StreamProtocolV4Name}
	resizes := want.tty && (protocol == remotecommand.StreamProtocolV3Name || s.status)
	if err := s.collect(streams, expected(want, resizes), h.SetupTimeout); err != nil {
		l.cancel()
		conn.Close()
		return nil, nil
	}
	return s, nil
}

// follow ends the link with the connection.
func follow(conn httpstream.Connection, l *link) {
	select {
	case <-conn.CloseChan():
	case <-l.ctx.Done():
	}
	l.cancel()
}

// expected names the streams that the client must open.
func expected(want wanted, resize bool) map[string]bool {
	out := map[string]bool{core.StreamTypeError: true}
	for name, yes := range map[string]bool{core.StreamTypeStdin: want.stdin, core.StreamTypeStdout: want.stdout,
		core.StreamTypeStderr: want.stderr, core.StreamTypeResize: resize} {
		if yes {
			out[name] = true
		}
	}
	return out
}

func (s *spdySession) collect(streams <-chan opened, expected map[string]bool, patience time.Duration) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	taken := map[string]bool{}
	for len(expected) > 0 {
		select {
		case o := <-streams:
			<-o.sent
			name := o.Headers().Get(core.StreamType)
			if taken[name] || !s.take(name, o.Stream) {
				return fmt.Errorf("the stream type %q is unknown or there already", name)
			}
			taken[name] = true
			delete(expected, name)
		case <-timeout.C:
			return errors.New("streams are missing")
		case <-s.link.ctx.Done():
			return s.link.ctx.Err()
		}
	}
	return nil
}

func (s *spdySession) take(name string, stream httpstream.Stream) (known bool) {
	switch name {
	case core.StreamTypeError:
		s.outputs = append(s.outputs, stream)
	case core.StreamTypeStdin:
		s.stdin, s.streams.Stdin = stream, countedReader{stream, s.link}
	case core.StreamTypeStdout:
		s.outputs = append([]httpstream.Stream{stream}, s.outputs...)
		s.streams.Stdout = counted{stream, s.link}
	case core.StreamTypeStderr:
		s.outputs = append([]httpstream.Stream{stream}, s.outputs...)
		s.streams.Stderr = counted{stream, s.link}
	case core.StreamTypeResize:
		s.streams.Resize = s.resize
		go func() { // ends with the connection
			for d := json.NewDecoder(io.LimitReader(stream, maxResizes)); ; {
				var size engine.Size
				if d.Decode(&size) != nil {
					_, _ = io.Copy(io.Discard, stream)
					return
				}
				s.link.touch()
				s.resize.push(size)
			}
		}()
	default:
		return false
	}
	return true
}

func (s *spdySession) io() engine.IO         { return s.streams }
func (s *spdySession) gone() context.Context { return s.link.ctx }

func (s *spdySession) finish(status metav1.Status) {
	if s.stdin != nil {
		_ = s.stdin.Reset() // input that still comes is dropped
	}
	said := s.outputs[len(s.outputs)-1]
	if s.status {
		_ = json.NewEncoder(said).Encode(status) // a client that is gone needs no outcome
	} else if status.Status != metav1.StatusSuccess {
		_, _ = io.WriteString(said, status.Message)
	}
	for _, out := range s.outputs {
		_ = out.Close()
	}
	s.link.leave()
	_ = s.conn.Close() // frees what the library holds; the connection is closed
}

// countedReader notes on the link what goes through.
type countedReader struct {
	io.Reader
	link *link
}

func (c countedReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.link.touch()
	return n, err
}
