package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"orch/runtime/engine"
)

// streamTimeout is how long a client may take to open its streams.
const streamTimeout = 30 * time.Second

// spdySession is a session over SPDY: a stream per channel.
type spdySession struct {
	conn    httpstream.Connection
	streams engine.IO
	errors  httpstream.Stream
	resize  sizes
	status  bool // v4: the outcome goes out as a Status
	ctx     context.Context
	cancel  context.CancelFunc
}

// opened is a stream that a client has opened; sent is closed when it may be used.
type opened struct {
	httpstream.Stream
	sent <-chan struct{}
}

func openSPDY(w http.ResponseWriter, r *http.Request, want wanted) (session, error) {
	protocol, err := httpstream.Handshake(r, w, remotecommand.SupportedStreamingProtocols)
	if err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	streams := make(chan opened, 8)
	conn := spdy.NewResponseUpgraderWithPings(time.Minute).UpgradeResponse(w, r, func(s httpstream.Stream, sent <-chan struct{}) error {
		select {
		case streams <- opened{s, sent}:
			return nil
		default:
			return fmt.Errorf("too many streams")
		}
	})
	if conn == nil {
		return nil, nil // it has answered
	}
	s := &spdySession{conn: conn, resize: newSizes(), status: protocol == remotecommand.StreamProtocolV4Name}
	s.ctx, s.cancel = context.WithCancel(r.Context())
	if err := s.collect(streams, s.expected(protocol, want)); err != nil {
		s.cancel()
		conn.Close()
		return nil, nil
	}
	go func() {
		defer s.cancel()
		select {
		case <-conn.CloseChan():
		case <-s.ctx.Done():
		}
	}()
	return s, nil
}

// expected names the streams that the client must open.
func (s *spdySession) expected(protocol string, want wanted) map[string]bool {
	out := map[string]bool{core.StreamTypeError: true}
	for name, yes := range map[string]bool{core.StreamTypeStdin: want.stdin, core.StreamTypeStdout: want.stdout, core.StreamTypeStderr: want.stderr} {
		if yes {
			out[name] = true
		}
	}
	if want.tty && (protocol == remotecommand.StreamProtocolV3Name || protocol == remotecommand.StreamProtocolV4Name) {
		out[core.StreamTypeResize] = true
	}
	return out
}

func (s *spdySession) collect(streams <-chan opened, expected map[string]bool) error {
	timeout := time.NewTimer(streamTimeout)
	defer timeout.Stop()
	for len(expected) > 0 {
		select {
		case o := <-streams:
			<-o.sent
			name := o.Headers().Get(core.StreamType)
			delete(expected, name)
			s.take(name, o.Stream)
		case <-timeout.C:
			return fmt.Errorf("the client opened no stream for %v in time", expected)
		case <-s.conn.CloseChan():
			return io.EOF
		}
	}
	return nil
}

func (s *spdySession) take(name string, stream httpstream.Stream) {
	switch name {
	case core.StreamTypeError:
		s.errors = stream
	case core.StreamTypeStdin:
		s.streams.Stdin = stream
	case core.StreamTypeStdout:
		s.streams.Stdout = stream
	case core.StreamTypeStderr:
		s.streams.Stderr = stream
	case core.StreamTypeResize:
		s.streams.Resize = s.resize
		go func() {
			for d := json.NewDecoder(stream); ; {
				var size engine.Size
				if d.Decode(&size) != nil {
					return
				}
				s.resize.push(size)
			}
		}()
	}
}

func (s *spdySession) io() engine.IO         { return s.streams }
func (s *spdySession) gone() context.Context { return s.ctx }

func (s *spdySession) finish(status metav1.Status) {
	if s.errors != nil {
		if s.status {
			json.NewEncoder(s.errors).Encode(status)
		} else if status.Status != metav1.StatusSuccess {
			io.WriteString(s.errors, status.Message)
		}
	}
	for _, out := range []io.Writer{s.streams.Stdout, s.streams.Stderr, s.errors} {
		if c, ok := out.(httpstream.Stream); ok && c != nil {
			c.Close()
		}
	}
	s.conn.Close()
	s.cancel()
}
