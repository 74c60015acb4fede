package audit

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// lastWords bounds how long a sink may go on delivering when the server ends.
const lastWords = 5 * time.Second

// queue hands events over to deliver in batches, from one goroutine.
type queue struct {
	cfg     Batch
	limit   *rate.Limiter // nil: none
	waiting chan []byte
	max     int64 // bytes of a batch; 0: any
	drops   atomic.Int64
	deliver func(ctx context.Context, lines [][]byte) error
	plugin  string
	log     *slog.Logger
}

func newQueue(plugin string, cfg Batch, t Truncate, log *slog.Logger, deliver func(context.Context, [][]byte) error) *queue {
	q := &queue{cfg: cfg, waiting: make(chan []byte, cfg.BufferSize), deliver: deliver, plugin: plugin, log: log}
	if cfg.Throttle && cfg.QPS > 0 {
		q.limit = rate.NewLimiter(rate.Limit(cfg.QPS), max(cfg.Burst, 1))
	}
	if t.Enabled {
		q.max = t.MaxBatchSize
	}
	return q
}

// put never waits: what finds the buffer full is lost and counted.
func (q *queue) put(line []byte) {
	select {
	case q.waiting <- line:
	default:
		if q.drops.Add(1) == 1 {
			q.log.Error("audit events are lost: the buffer is full", "plugin", q.plugin)
		}
	}
}

func (q *queue) run(ctx context.Context) error {
	for {
		batch := q.collect(ctx)
		if ctx.Err() != nil {
			q.drain(batch)
			return nil
		}
		if q.limit != nil && q.limit.Wait(ctx) != nil {
			q.drain(batch)
			return nil
		}
		q.send(ctx, batch)
	}
}

// collect waits for an event, then for more until the batch is full or its time is over.
func (q *queue) collect(ctx context.Context) (batch [][]byte) {
	var size int64
	var over <-chan time.Time
	for len(batch) < q.cfg.MaxSize && (q.max == 0 || size < q.max) {
		select {
		case line := <-q.waiting:
			batch, size = append(batch, line), size+int64(len(line))
			if over == nil && q.cfg.MaxWait > 0 {
				t := time.NewTimer(q.cfg.MaxWait)
				defer t.Stop() // once: over is nil the first time only
				over = t.C
			}
		case <-over:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// drain delivers what is left when the server ends.
func (q *queue) drain(batch [][]byte) {
	ctx, stop := context.WithTimeout(context.Background(), lastWords)
	defer stop()
	for {
		for len(batch) < q.cfg.MaxSize && len(q.waiting) > 0 {
			batch = append(batch, <-q.waiting)
		}
		if len(batch) == 0 {
			return
		}
		q.send(ctx, batch)
		batch = nil
	}
}

func (q *queue) send(ctx context.Context, batch [][]byte) {
	if err := q.deliver(ctx, batch); err != nil {
		q.drops.Add(int64(len(batch)))
		q.log.Error("audit events are lost", "plugin", q.plugin, "events", len(batch), "err", err)
	}
}

// delivery puts events into lines and brings them on their way as the mode says.
type delivery struct {
	mode  string
	trunc Truncate
	queue *queue
}

func (d *delivery) take(ev *auditv1.Event) bool {
	line, err := encode(ev, d.trunc)
	if err != nil {
		d.queue.drops.Add(1)
		d.queue.log.Error("an audit event is lost", "plugin", d.queue.plugin, "auditID", ev.AuditID, "err", err)
		return d.mode != modeStrict
	}
	if d.mode == modeBatch {
		d.queue.put(line)
		return true
	}
	err = d.queue.deliver(context.Background(), [][]byte{line})
	if err == nil {
		return true
	}
	d.queue.drops.Add(1)
	d.queue.log.Error("an audit event is lost", "plugin", d.queue.plugin, "auditID", ev.AuditID, "err", err)
	return d.mode != modeStrict || ev.Stage != auditv1.StageRequestReceived
}

func (d *delivery) run(ctx context.Context) error { return d.queue.run(ctx) }
func (d *delivery) name() string                  { return d.queue.plugin }
func (d *delivery) lost() int64                   { return d.queue.drops.Load() }
