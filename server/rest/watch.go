package rest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"orch/server/registry"
	"orch/server/rest/tally"
	"orch/server/rest/wire"
)

// A watch without timeoutSeconds lasts this long, and as much again at most, so
// that the watches of one moment do not all come back at one moment.
const watchSeconds = 30 * 60

// watch answers with a stream of changes, over HTTP or over a WebSocket.
func (s *Server) watch(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	if m.Format == wire.YAML {
		return wire.NotAcceptable(wire.JSON.ContentType() + ", " + wire.Protobuf.ContentType())
	}
	m.Pretty = false
	o, err := listOptions(q.query)
	if err != nil {
		return err
	}
	o.Watch = true
	if o.TimeoutSeconds == nil || *o.TimeoutSeconds <= 0 {
		o.TimeoutSeconds = new(int64(watchSeconds * (1 + rand.Float64())))
	}
	// The watch ends with the client's connection and with the server's drain.
	ctx, cancel := context.WithCancel(q.Context())
	defer cancel()
	defer context.AfterFunc(s.draining, cancel)()
	w, err := s.startWatch(ctx, q, o)
	if err != nil {
		return err
	}
	defer w.Close()
	kind := tally.Kind{Group: q.group, Version: q.version, Resource: q.plural}
	f := frames{s: s, q: q, media: m, events: s.tally.Events(kind)}
	if w.Begun() {
		q.ticket.Leave() // from here on it takes no place
	}
	if websocket.IsWebSocketUpgrade(q.Request) {
		return s.watchWebSocket(ctx, w, &f)
	}
	q.warn.write(q.w.Header())
	q.w.Header().Set("Content-Type", m.StreamType())
	q.w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(q.w)
	if err := flush.Flush(); err != nil {
		return nil // the client is gone
	}
	p := buffers.Get().(*[]byte)
	buf := (*p)[:0]
	defer func() { putBuffer(p, buf) }()
	var h handling
	defer h.end()
	stalled := time.AfterFunc(s.deadlines.stall, h.whileItLasts(func() { _ = flush.SetWriteDeadline(time.Now()) }))
	defer stalled.Stop()
	for {
		stalled.Stop()
		events, err := w.Next(ctx)
		if err == nil {
			buf, err = f.append(buf[:0], events)
		}
		if err != nil {
			buf = f.appendEnd(buf[:0], ctx, err)
		}
		// One write and one flush for all that was waiting.
		stalled.Reset(s.deadlines.stall)
		if len(buf) > 0 {
			if _, writeErr := q.w.Write(buf); writeErr != nil {
				return nil
			}
			if flush.Flush() != nil {
				return nil
			}
			if f.listed {
				f.listed = false
				s.tally.Listed(tally.Listing{Kind: kind, Scope: s.labels(q).Scope}, s.now().Sub(q.began))
			}
		}
		if err != nil {
			return nil
		}
		if w.Begun() {
			q.ticket.Leave() // from here on it takes no place
		}
		if cap(buf) > maxKept {
			buf = nil // a burst has passed; do not hold its memory for an idle watch
		}
	}
}

// source is where the events of a watch come from.
type source interface {
	Next(ctx context.Context) ([]registry.Event, error)
	Begun() bool
	Close()
}

// failed is a watch that is over before its first event.
type failed struct{ err error }

func (f failed) Next(context.Context) ([]registry.Event, error) { return nil, f.err }
func (failed) Begun() bool                                      { return true }
func (failed) Close()                                           {}

func (s *Server) startWatch(ctx context.Context, q *request, o metav1.ListOptions) (source, error) {
	w, err := s.config.Registry.Watch(ctx, q.call(), o)
	switch {
	case err == nil:
		return w, nil
	case registry.InStream(err):
		return failed{err}, nil
	}
	return nil, err
}

// frames turns events into what the client wants to see.
type frames struct {
	s     *Server
	q     *request
	media wire.Media
	// headed tells that a table's columns were sent; they come once.
	headed bool
	// listed tells that the end of the initial events is among those appended.
	listed bool
	events *tally.Watched
}

func (f *frames) append(dst []byte, events []registry.Event) ([]byte, error) {
	for _, e := range events {
		var err error
		before := len(dst)
		if dst, err = f.appendOne(dst, e); err != nil {
			return dst, err
		}
		f.listed = f.listed || e.EndsInitial()
		f.events.Sizes.Observe(float64(len(dst) - before))
	}
	return dst, nil
}

func (f *frames) appendOne(dst []byte, e registry.Event) ([]byte, error) {
	if f.media.Shape != wire.Table {
		return wire.AppendEvent(dst, f.media, e)
	}
	head := metav1.ListMeta{ResourceVersion: e.Item.Object().GetResourceVersion()}
	t, err := f.s.tableOf(f.q, f.media, []*registry.Item{e.Item}, head)
	if err != nil {
		return dst, err
	}
	if f.headed {
		t.ColumnDefinitions = nil
	}
	f.headed = true
	return wire.AppendObjectEvent(dst, f.media, e.Type, t, tableGVK(f.media))
}

// appendEnd appends the ERROR event that tells why a watch ends before its time;
// nothing for an end in good order.
func (f *frames) appendEnd(dst []byte, ctx context.Context, err error) []byte {
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return dst
	}
	status := wire.StatusOf(registry.WatchError(err))
	out, encodeErr := wire.AppendObjectEvent(dst, f.media, watch.Error, &status, wire.StatusGVK())
	if encodeErr != nil {
		return dst
	}
	return out
}

// watchWebSocket sends each event as one message: text for JSON, binary for protobuf.
func (s *Server) watchWebSocket(ctx context.Context, w source, f *frames) error {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }} // authentication is by token or certificate, never by cookie
	c, err := upgrader.Upgrade(f.q.w, f.q.Request, nil)
	if err != nil {
		return nil // the upgrader has answered
	}
	defer c.Close()
	kind := websocket.TextMessage
	if f.media.Format == wire.Protobuf {
		kind = websocket.BinaryMessage
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends when the connection does, which Close above makes sure of
		defer cancel()
		for {
			if _, _, err := c.NextReader(); err != nil {
				return
			}
		}
	}()
	var buf []byte
	for {
		events, err := w.Next(ctx)
		for _, e := range events {
			if buf, err = f.appendOne(buf[:0], e); err != nil {
				break
			}
			if c.WriteMessage(kind, buf) != nil {
				return nil
			}
		}
		if err != nil {
			if buf = f.appendEnd(buf[:0], ctx, err); len(buf) > 0 {
				_ = c.WriteMessage(kind, buf)
			}
			_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
			return nil
		}
	}
}
