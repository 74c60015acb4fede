// Package nvml is the driver's management library as the agent sees it: a Client whose
// calls go to a helper process (helper/, the only code with cgo), one at a time and each
// with a limit. It owns that process: starts it from memory when something is asked,
// kills it when a call hangs, starts it again with what it has learned to do without,
// and stops it to free the device nodes. It decides nothing about GPUs and keeps
// nothing about them.
//
// What fails is isolated: a card whose call hung or crashed is not asked again for a
// while and answers with its Problem at once, the others go on. A helper that does not
// even start is tried again with back-off. Every error is a *device.Problem.
//
// Start reading at Client.call; process.go is the child, search.go where libraries lie.
package nvml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"orch/gpu/device"
	"orch/gpu/nvml/wire"
)

// Config of a Client. Only Program is needed.
type Config struct {
	// Program opens the helper's program, which is executed through its descriptor.
	Program func() (*os.File, error)
	// Root is where the driver lies if not in "/": a driver container, Talos, NixOS.
	Root string
	// Loader is a dynamic loader to start the helper with, for hosts whose own does not
	// fit the driver's library or which have none; Chroot enters Root instead.
	Loader string
	Chroot bool
	// Env is added to the helper's environment, which is otherwise empty.
	Env []string
	// Limits of single operations; those not named have the default of their kind.
	Limits map[wire.Op]time.Duration
	Log    *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Limits of operations, much longer than they take (a figure is read in microseconds),
// much shorter than a hung driver holds on to them (a minute and more).
var defaultLimits = map[wire.Op]time.Duration{
	opStart:       30 * time.Second, // cards without persistence mode wake up one after the other
	wire.OpCard:   20 * time.Second,
	wire.OpCreate: 30 * time.Second, wire.OpDestroy: 30 * time.Second,
	wire.OpMIGMode: 60 * time.Second, // resets the card
}

const (
	defaultLimit = 5 * time.Second
	opStart      = wire.Op("start")
	// maxWithout bounds how many functions a driver may lack before it counts as broken.
	maxWithout = 64
	// maxStuck bounds the killed helpers that do not die because the kernel holds them.
	maxStuck = 3
)

// Client asks a driver. Its methods may be called at once; they take turns.
type Client struct {
	config Config
	// turn is held by who talks to the helper.
	turn chan struct{}

	mu       sync.Mutex // guards what follows; nothing is called while it is held
	proc     *process
	nextID   uint64
	without  []string
	penalty  map[string]penalty // by card, "" is the whole driver
	released bool
	stuck    int
	each     func(device.Event)
	library  string
	stats    Stats
}

// penalty keeps a card, or the driver, from being asked again too soon.
type penalty struct {
	count   int
	until   time.Time
	problem *device.Problem
}

// Stats are for metrics and tests.
type Stats struct {
	Starts, Kills, Crashes int
	PID                    int // 0 when no helper runs
}

// New makes a client. No process is started before the first call.
func New(config Config) (*Client, error) {
	if config.Program == nil {
		return nil, errors.New("making the NVML client: no helper program")
	}
	if config.Chroot && (config.Root == "" || config.Loader != "") {
		return nil, errors.New("making the NVML client: entering a root needs one, and takes its own loader")
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	c := &Client{config: config, turn: make(chan struct{}, 1), penalty: map[string]penalty{}}
	return c, nil
}

// Run stops the helper when ctx ends, and returns when it is gone or cannot be.
func (c *Client) Run(ctx context.Context) error {
	<-ctx.Done()
	return c.Release(context.WithoutCancel(ctx))
}

// Stats are the counts up to now.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	if c.proc != nil {
		s.PID = c.proc.pid()
	}
	return s
}

// Release stops the helper and refuses calls until Resume: no process of ours then holds
// a device node, so that the driver can be unloaded, a card reset or repartitioned.
func (c *Client) Release(ctx context.Context) error {
	c.mu.Lock()
	c.released = true
	c.mu.Unlock()
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turn }()
	if !c.stop() {
		return problem("release", device.CodeHang, "the helper does not die: the driver holds it")
	}
	return nil
}

// Resume ends what Release began. Cards and the driver get a new chance: what hung
// before may have been mended.
func (c *Client) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = false
	c.without = nil
	clear(c.penalty)
}

// Forget gives one card a new chance before its penalty is over.
func (c *Client) Forget(card string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.penalty, card)
}

// call asks the helper one thing and decodes the answer into result. about is the card
// that is blamed if the helper does not survive it.
func (c *Client) call(ctx context.Context, about string, r wire.Request, result any) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		line, err := c.once(ctx, about, r)
		if errors.Is(err, errAgain) {
			continue
		}
		if !errors.Is(err, errPending) {
			<-c.turn
		}
		if err != nil {
			if errors.Is(err, errPending) {
				return ctx.Err()
			}
			return err
		}
		if line.Problem != nil {
			return line.Problem
		}
		if err := json.Unmarshal(line.Result, result); err != nil {
			return problem(string(r.Op), device.CodeProtocol, "reading the answer: "+err.Error())
		}
		return nil
	}
}

var (
	// errAgain: the helper ended for want of a function and runs again without it.
	errAgain = errors.New("again")
	// errPending: the caller left; the turn is given back when the helper has answered.
	errPending = errors.New("pending")
)

// once sends the request to a running helper. The caller has the turn.
func (c *Client) once(ctx context.Context, about string, r wire.Request) (wire.Line, error) {
	if bad := c.refused(about); bad != nil {
		return wire.Line{}, bad
	}
	p, err := c.running()
	if err != nil {
		return wire.Line{}, err
	}
	c.mu.Lock()
	c.nextID++
	r.ID = c.nextID
	c.mu.Unlock()
	if err := p.send(r); err != nil {
		return wire.Line{}, c.ended(p, about, r.Op)
	}
	limit := time.NewTimer(c.limit(r.Op))
	select {
	case line, ok := <-p.replies:
		limit.Stop()
		if !ok {
			return wire.Line{}, c.ended(p, about, r.Op)
		}
		c.fine(about)
		return line, nil
	case <-limit.C:
		return wire.Line{}, c.hung(p, about, r.Op)
	case <-ctx.Done():
		go func() {
			select {
			case _, ok := <-p.replies:
				if !ok {
					_ = c.ended(p, about, r.Op) // it is remembered; nobody waits for the answer
				}
			case <-limit.C:
				_ = c.hung(p, about, r.Op)
			}
			<-c.turn
		}()
		return wire.Line{}, errPending
	}
}

func (c *Client) limit(op wire.Op) time.Duration {
	if d, ok := c.config.Limits[op]; ok {
		return d
	}
	if d, ok := defaultLimits[op]; ok {
		return d
	}
	return defaultLimit
}

// refused says why the card is not asked now; nil if it is.
func (c *Client) refused(about string) *device.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released {
		return problem("", device.CodeStopped, "the helper is stopped")
	}
	if c.stuck >= maxStuck {
		return problem("", device.CodeHang, fmt.Sprintf("%d helpers that were killed do not end: the driver hangs", c.stuck))
	}
	now := c.config.Now()
	for _, key := range []string{"", about} {
		if p, ok := c.penalty[key]; ok && now.Before(p.until) {
			return p.problem
		}
	}
	return nil
}

// blame notes what about did to the helper: half a second first, doubled each time, ten
// minutes at most.
func (c *Client) blame(about string, bad *device.Problem) *device.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.penalty[about]
	p.count++
	p.until = c.config.Now().Add(min(500*time.Millisecond<<min(p.count-1, 12), 10*time.Minute))
	p.problem = bad
	c.penalty[about] = p
	return bad
}

// fine: an answer came.
func (c *Client) fine(about string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.penalty, about)
	delete(c.penalty, "")
}

// hung kills a helper whose call passed its limit.
func (c *Client) hung(p *process, about string, op wire.Op) error {
	c.config.Log.Error("the NVIDIA driver does not answer; the helper is killed", "op", op, "gpu", about, "limit", c.limit(op))
	c.mu.Lock()
	c.stats.Kills++
	c.mu.Unlock()
	c.stop()
	return c.blame(about, problem(string(op), device.CodeHang, fmt.Sprintf("the driver did not answer within %s", c.limit(op))))
}

// ended is for a helper that is gone in the middle of a call.
func (c *Client) ended(p *process, about string, op wire.Op) error {
	c.stop()
	how, symbol := p.how()
	c.mu.Lock()
	c.stats.Crashes++
	learned := symbol != "" && len(c.without) < maxWithout && !slices.Contains(c.without, symbol)
	if learned {
		c.without = append(c.without, symbol)
	}
	c.mu.Unlock()
	if learned {
		c.config.Log.Warn("the NVIDIA driver lacks a function; going on without it", "function", symbol)
		return errAgain
	}
	c.config.Log.Error("the NVML helper ended during a call", "op", op, "gpu", about, "how", how)
	return c.blame(about, problem(string(op), device.CodeCrash, "the helper ended during the call: "+how))
}

// running returns the helper, starting it if need be. The caller has the turn.
func (c *Client) running() (*process, error) {
	c.mu.Lock()
	p, without := c.proc, strings.Join(c.without, ",")
	c.mu.Unlock()
	if p != nil {
		select {
		case <-p.done: // it ended while nobody asked
			c.stop()
		default:
			return p, nil
		}
	}
	p, err := start(c.config, without, c.deliver)
	if err != nil {
		return nil, c.blame("", problem("start", device.CodeNoHelper, err.Error()))
	}
	c.mu.Lock()
	c.proc = p
	c.stats.Starts++
	c.mu.Unlock()
	select {
	case line, ok := <-p.replies:
		switch {
		case !ok:
			return nil, c.ended(p, "", opStart)
		case line.Hello == nil || line.Hello.Version != wire.Version:
			c.stop()
			return nil, c.blame("", problem("start", device.CodeProtocol, "the helper is of another version"))
		case line.Hello.Problem != nil:
			c.stop()
			return nil, c.blame("", line.Hello.Problem)
		}
		c.mu.Lock()
		c.library = line.Hello.Library
		c.mu.Unlock()
		return p, nil
	case <-time.After(c.limit(opStart)):
		return nil, c.hung(p, "", opStart)
	}
}

// deliver hands an event to who watches.
func (c *Client) deliver(e device.Event) {
	c.mu.Lock()
	each := c.each
	c.mu.Unlock()
	if each != nil {
		each(e)
	}
}

// stop ends the helper, if one runs, and tells whether it is gone. The caller has the turn.
func (c *Client) stop() bool {
	c.mu.Lock()
	p := c.proc
	c.proc = nil
	c.mu.Unlock()
	if p == nil || p.kill() {
		return true
	}
	c.mu.Lock()
	c.stuck++
	c.mu.Unlock()
	go func() { // ends when the kernel lets go of the process
		<-p.done
		c.mu.Lock()
		c.stuck--
		c.mu.Unlock()
	}()
	return false
}

func problem(op string, code int, text string) *device.Problem {
	return &device.Problem{Op: op, Code: code, Text: text}
}
