package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Shape of the fan-out: every watcher sees every event.
const (
	watchers     = 1000
	perConn      = 100
	eventsPerSec = 100
	fanoutTime   = 5 * time.Second
	// fanoutRounds are run alone and beside stalled watchers in turn: what a machine does
	// on the side in a few seconds moves a p99 by more than the stalled ones do.
	fanoutRounds = 5
	stalled      = 10
	// stalledBuffer is how much a stalled watcher lets itself be sent, so that the server
	// has to stop after a second or so: the transport's own would take in all of a run.
	stalledBuffer = 64 << 10
	// stamp marks the moment of the write inside the object.
	stamp = "sent-at:"
)

// fanout measures how many events reach watchers, and how late, first alone, then
// beside watchers that do not read.
func (b *bench) fanout(ctx context.Context) error {
	return b.withServer(ctx, func(s *server) error {
		c, err := s.connect(protobufType)
		if err != nil {
			return err
		}
		r, err := s.raw()
		if err != nil {
			return err
		}
		alone, beside, err := b.rounds(ctx, s, c, r)
		if err != nil {
			return err
		}
		const figure = "1,000 watchers x 100 events/s, delivered"
		b.table.add(figure, "/s", alone.rate)
		b.table.beside(figure, "of all", "%", alone.share)
		b.table.beside(figure, "server", "CPU s per 100,000", alone.cpu)
		b.table.add("1,000 watchers x 100 events/s, p99", "ms", milliseconds(alone.p99))
		b.table.add("the same beside ten stalled watchers, p99", "x", float64(beside.p99)/float64(alone.p99))
		return nil
	}, "--disable-agent")
}

// rounds gives the run of the middle p99, alone and beside stalled watchers.
func (b *bench) rounds(ctx context.Context, s *server, c *kubernetes.Clientset, r *raw) (alone, beside delivery, err error) {
	var all [2][]delivery
	for range fanoutRounds {
		d, err := b.deliver(ctx, s, c, r)
		if err != nil {
			return alone, beside, err
		}
		all[0] = append(all[0], d)
		quit, err := b.stall(ctx, r)
		if err != nil {
			return alone, beside, err
		}
		d, err = b.deliver(ctx, s, c, r)
		quit()
		if err != nil {
			return alone, beside, err
		}
		all[1] = append(all[1], d)
	}
	for _, l := range all {
		slices.SortFunc(l, func(a, b delivery) int { return cmp.Compare(a.p99, b.p99) })
	}
	return all[0][fanoutRounds/2], all[1][fanoutRounds/2], nil
}

// delivery is one run of the fan-out.
type delivery struct {
	rate, share, cpu float64
	p99              time.Duration
}

// deliver lets all watchers watch one ConfigMap that changes at a fixed rate.
func (b *bench) deliver(ctx context.Context, s *server, c *kubernetes.Clientset, r *raw) (d delivery, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := make([][]time.Duration, watchers)
	var open, all sync.WaitGroup
	errs := make(chan error, watchers)
	var h *http.Client
	for i := range watchers {
		if i%perConn == 0 {
			if h, err = r.client(); err != nil {
				return d, err
			}
		}
		open.Add(1)
		all.Go(func() {
			a, err := r.get(ctx, h, bulkPath+"?watch=true&fieldSelector=metadata.name%3Dfanout")
			open.Done()
			if err != nil {
				errs <- err
				return
			}
			defer a.Body.Close()
			late[i] = lateness(a.Body)
		})
	}
	open.Wait()
	before, err := s.usage()
	if err != nil {
		return d, err
	}
	began := time.Now()
	sent, err := change(ctx, c)
	if err != nil {
		return d, err
	}
	took := time.Since(began)
	if err := pause(ctx, time.Second); err != nil { // what is on its way arrives
		return d, err
	}
	after, err := s.usage()
	cancel()
	all.Wait()
	select {
	case err = <-errs:
		return d, err
	default:
	}
	var got []time.Duration
	for _, l := range late {
		got = append(got, l...)
	}
	d.rate, d.share = float64(len(got))/took.Seconds(), 100*float64(len(got))/float64(watchers*sent)
	d.cpu, d.p99 = (after.cpu-before.cpu).Seconds()*1e5/float64(max(1, len(got))), quantile(got, .99)
	return d, err
}

// change writes the watched object at eventsPerSec and says how often.
func change(ctx context.Context, c *kubernetes.Clientset) (int, error) {
	maps := c.CoreV1().ConfigMaps("default")
	o, err := maps.Create(ctx, &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: "fanout"}}, meta.CreateOptions{})
	if err != nil {
		return 0, err
	}
	tick := time.NewTicker(time.Second / eventsPerSec)
	defer tick.Stop()
	sent := 0
	for end := time.Now().Add(fanoutTime); time.Now().Before(end); sent++ {
		o.Data = map[string]string{"t": fmt.Sprintf("%s%020d", stamp, time.Now().UnixNano())}
		if o, err = maps.Update(ctx, o, meta.UpdateOptions{}); err != nil {
			return 0, err
		}
		<-tick.C
	}
	return sent, maps.Delete(ctx, "fanout", meta.DeleteOptions{})
}

// lateness reads frames (four bytes of length, then the event) until the watch
// ends and tells how old each stamped one was.
func lateness(body io.Reader) (late []time.Duration) {
	in := bufio.NewReaderSize(body, 4<<10)
	var head [4]byte
	var frame []byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return late
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		frame = append(frame[:0], make([]byte, n)...)
		if _, err := io.ReadFull(in, frame); err != nil {
			return late
		}
		if i := bytes.Index(frame, []byte(stamp)); i >= 0 {
			at, err := strconv.ParseInt(string(frame[i+len(stamp):i+len(stamp)+20]), 10, 64)
			if err == nil {
				late = append(late, time.Since(time.Unix(0, at)))
			}
		}
	}
}

// stall opens watches that are never read.
func (b *bench) stall(ctx context.Context, r *raw) (quit func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	for range stalled {
		h, err := r.client()
		if err == nil {
			h.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: stalledBuffer, MaxReceiveBufferPerConnection: stalledBuffer}
			_, err = r.get(ctx, h, bulkPath+"?watch=true") // the body stays open and unread until ctx ends
		}
		if err != nil {
			cancel()
			return nil, err
		}
	}
	return cancel, nil
}
