package hostile

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Sender sends requests over connections that dial makes, one after another, keeping
// a connection as long as the server does. It is used by one goroutine.
type Sender struct {
	Dial func() (net.Conn, error)
	// Patience bounds one request, its answer included.
	Patience time.Duration
	// Answer is the beginning of the last body.
	Answer []byte

	conn net.Conn
	in   *bufio.Reader
}

// ErrSlow says that an answer did not come in time.
var ErrSlow = errors.New("no answer in time")

// Send gives the status of the answer; 0 where the server closed the connection without
// one. An answer without an end (a watch, an upgrade) is not read to it.
func (s *Sender) Send(r Request) (status int, err error) {
	kept := s.conn != nil
	if status, err = s.try(r); status == 0 && err == nil && kept {
		return s.try(r) // the server had closed the connection meanwhile
	}
	return status, err
}

func (s *Sender) try(r Request) (status int, err error) {
	if s.conn == nil {
		if s.conn, err = s.Dial(); err != nil {
			return 0, err
		}
		s.in = bufio.NewReader(s.conn)
	}
	_ = s.conn.SetDeadline(time.Now().Add(s.Patience))
	go func(c net.Conn) { // beside the reading: the server may answer before it has all
		_, _ = c.Write(r.Raw)
		if half, is := c.(interface{ CloseWrite() error }); is && r.Short {
			_ = half.CloseWrite()
		}
	}(s.conn)
	resp, err := http.ReadResponse(s.in, &http.Request{Method: methodOf(r.Raw)})
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(s.in, &http.Request{Method: methodOf(r.Raw)})
	}
	if err != nil {
		s.Close()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return 0, ErrSlow
		}
		return 0, nil
	}
	if resp.StatusCode == http.StatusSwitchingProtocols || resp.ContentLength < 0 && len(resp.TransferEncoding) > 0 {
		_ = s.conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = io.Copy(s.answer(), resp.Body)
	} else {
		_, err = io.Copy(s.answer(), resp.Body)
	}
	if err != nil || resp.Close || r.Short || resp.StatusCode == http.StatusSwitchingProtocols {
		s.Close()
	}
	return resp.StatusCode, nil
}

// answer keeps the first of what is written to it.
func (s *Sender) answer() io.Writer {
	s.Answer = nil
	return keeper{s}
}

type keeper struct{ *Sender }

func (k keeper) Write(p []byte) (int, error) {
	const most = 400
	k.Answer = append(k.Answer, p[:min(len(p), most-len(k.Answer))]...)
	return len(p), nil
}

// Close ends the connection.
func (s *Sender) Close() {
	if s.conn != nil {
		_ = s.conn.Close() // nothing is owed to it
		s.conn = nil
	}
}

func methodOf(raw []byte) string {
	for i, b := range raw {
		if b == ' ' {
			return string(raw[:i])
		}
	}
	return ""
}
