package mps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

type state string

const (
	starting state = "starting"
	ready    state = "ready"
)

// notYet is why a daemon is not ready that has not failed.
const notYet = "it is being started"

// Back-off of daemons that end; one that lived for calm begins anew.
const (
	firstAgain = time.Second
	lastAgain  = time.Minute
	calm       = time.Minute
)

// daemon is one control daemon. Its goroutine (run) owns the process.
type daemon struct {
	config Config
	places Places
	key    string
	cancel context.CancelFunc
	poke   chan struct{} // has something in it when service or dropped are others

	mu      sync.Mutex // guards what follows
	service Service
	dropped bool
	state   state
	why     string
	changed chan struct{}
}

func newDaemon(c Config, s Service, cancel context.CancelFunc) *daemon {
	return &daemon{config: c, places: c.places(s.Key), key: s.Key, cancel: cancel, service: s,
		poke: make(chan struct{}, 1), state: starting, why: notYet, changed: make(chan struct{})}
}

func (d *daemon) want(s Service) {
	d.mu.Lock()
	same := !d.dropped && slices.Equal(s.Devices, d.service.Devices) && s.ThreadPercent == d.service.ThreadPercent && slices.Equal(s.MemoryMiB, d.service.MemoryMiB)
	d.service, d.dropped = s, false
	d.mu.Unlock()
	if !same {
		d.wake()
	}
}

func (d *daemon) drop() {
	d.mu.Lock()
	d.dropped = true
	d.mu.Unlock()
	d.wake()
}

func (d *daemon) wake() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

func (d *daemon) wanted() (Service, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.service, !d.dropped
}

// over tells that nobody wants it; asked while nobody can come to want it.
func (d *daemon) over() bool {
	_, wanted := d.wanted()
	return !wanted
}

func (d *daemon) look() (state, string, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, d.why, d.changed
}

func (d *daemon) set(s state, why string) {
	d.mu.Lock()
	same := d.state == s && d.why == why
	d.state, d.why = s, why
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	if !same && d.config.Changed != nil {
		d.config.Changed()
	}
}

// run keeps the daemon up while it is wanted, then stops it. It is false when ctx ended
// before: the process goes on then.
func (d *daemon) run(ctx context.Context) bool {
	again := firstAgain
	for ctx.Err() == nil {
		s, wanted := d.wanted()
		if !wanted {
			d.set(starting, notYet)
			if err := d.stop(ctx); err != nil {
				d.config.Log.Warn("stopping an MPS daemon failed", "key", d.key, "err", err)
			}
			return ctx.Err() == nil
		}
		began := time.Now()
		lived, err := d.live(ctx, s)
		if ctx.Err() != nil {
			return false
		}
		if err == nil { // it is not wanted any more, or for other devices
			continue
		}
		d.set(starting, err.Error())
		d.config.Log.Warn("an MPS daemon ended", "key", d.key, "devices", s.Devices, "err", err, "again", again)
		if lived && d.config.Lost != nil {
			d.config.Lost(s, err.Error())
		}
		if lived && time.Since(began) > calm {
			again = firstAgain
		}
		if !d.pause(ctx, again) {
			continue
		}
		again = min(2*again, lastAgain)
	}
	return false
}

// pause waits; false: something else is wanted before that.
func (d *daemon) pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-d.poke:
		_, wanted := d.wanted()
		return wanted
	case <-t.C:
	}
	return true
}

// live finds or starts the process and follows it. It returns without an error when
// something else is wanted, and with one when the process ended or never became ready;
// lived tells whether it was ready.
func (d *daemon) live(ctx context.Context, s Service) (lived bool, err error) {
	p, err := d.find(s)
	if err != nil {
		return false, err
	}
	if p == nil {
		if err := d.exclusive(ctx, s, true); err != nil {
			return false, err
		}
		if p, err = d.start(s); err != nil {
			return false, err
		}
	}
	defer p.close()
	for {
		if err := d.prepare(ctx, p, s); err != nil {
			if ctx.Err() == nil {
				err = errors.Join(err, p.kill())
			}
			return lived, err
		}
		lived = true
		d.set(ready, "")
		select {
		case <-ctx.Done():
			return true, nil
		case <-p.ended:
			return true, fmt.Errorf("it ended (%s)", p.how())
		case <-d.poke:
		}
		now, wanted := d.wanted()
		if !wanted {
			return true, nil
		}
		if !slices.Equal(now.Devices, s.Devices) {
			return true, d.stop(ctx)
		}
		s = now
	}
}

// prepare waits for the daemon's first answer, sets its limits and reads them back.
func (d *daemon) prepare(ctx context.Context, p *process, s Service) error {
	if err := d.firstAnswer(ctx, p); err != nil {
		return err
	}
	for _, c := range commands(s) {
		if err := d.obey(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// askAgain is how soon a daemon that does not answer yet is asked again.
const askAgain = 50 * time.Millisecond

func (d *daemon) firstAnswer(ctx context.Context, p *process) error {
	deadline := time.NewTimer(readyWait)
	defer deadline.Stop()
	for {
		err := d.ping(ctx)
		if err == nil {
			return nil
		}
		t := time.NewTimer(askAgain)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-p.ended:
			t.Stop()
			return fmt.Errorf("it ended before it answered (%s)", p.how())
		case <-deadline.C:
			t.Stop()
			return fmt.Errorf("it does not answer after %s: %w", readyWait, err)
		case <-t.C:
		}
	}
}

// exclusive changes the mode of the devices, where that is wished for.
func (d *daemon) exclusive(ctx context.Context, s Service, on bool) error {
	if d.config.Exclusive == nil {
		return nil
	}
	for _, device := range s.Devices {
		if err := d.config.Exclusive(ctx, device, on); err != nil {
			return fmt.Errorf("setting the compute mode of %s: %w", device, err)
		}
	}
	return nil
}
