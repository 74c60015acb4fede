package client

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"orch/api"
)

// frameLimit bounds one event of a watch.
const frameLimit = 64 << 20

// stream is a watch over HTTP: frames of the body become events until the body
// ends. Its goroutine ends with the request's context or Stop.
type stream struct {
	body   io.Closer
	events chan watch.Event
	stop   chan struct{}
	once   sync.Once // closes stop and body
}

// newStream takes over the answer's body.
func newStream(resp *http.Response, f *api.Facts) (watch.Interface, error) {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var next func() (metav1.WatchEvent, error)
	in := bufio.NewReaderSize(resp.Body, 16<<10)
	switch {
	case err == nil && media == mediaProtobuf:
		next = func() (metav1.WatchEvent, error) { return protobufFrame(in) }
	case err == nil && media == mediaJSON:
		frames := json.NewDecoder(in)
		next = func() (e metav1.WatchEvent, err error) { return e, frames.Decode(&e) }
	default:
		resp.Body.Close()
		return nil, fmt.Errorf("watching %s: media type %q is not known", f.Plural, resp.Header.Get("Content-Type"))
	}
	s := &stream{body: resp.Body, events: make(chan watch.Event, 64), stop: make(chan struct{})}
	go s.run(next, media, f)
	return s, nil
}

func (s *stream) ResultChan() <-chan watch.Event { return s.events }

func (s *stream) Stop() {
	s.once.Do(func() {
		close(s.stop)
		s.body.Close()
	})
}

func (s *stream) run(next func() (metav1.WatchEvent, error), media string, f *api.Facts) {
	defer close(s.events)
	defer s.Stop()
	for {
		frame, err := next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.send(failed(err))
			}
			return
		}
		o, err := decode(frame.Object.Raw, media, object(f))
		if err != nil {
			s.send(failed(err))
			return
		}
		if !s.send(watch.Event{Type: watch.EventType(frame.Type), Object: o}) {
			return
		}
	}
}

func (s *stream) send(e watch.Event) bool {
	select {
	case <-s.stop:
		return false
	default:
	}
	select {
	case s.events <- e:
		return true
	case <-s.stop:
		return false
	}
}

// failed is the event for a stream that broke.
func failed(err error) watch.Event {
	status := apierrors.NewInternalError(fmt.Errorf("reading watch: %w", err)).Status()
	return watch.Event{Type: watch.Error, Object: &status}
}

// protobufFrame reads a frame: four bytes of length, then a bare WatchEvent.
func protobufFrame(in *bufio.Reader) (e metav1.WatchEvent, err error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return e, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > frameLimit {
		return e, fmt.Errorf("a frame of %d bytes is too large", size)
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(in, frame); err != nil {
		return e, err
	}
	return e, e.Unmarshal(frame)
}
