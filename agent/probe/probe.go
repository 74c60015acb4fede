// Package probe asks containers how they are: exec, httpGet, tcpSocket and grpc,
// and decides by thresholds when the answer has changed. A probe is a goroutine
// that sleeps exactly until its next attempt; it refuses to know pods or
// statuses. Start reading at Run, then Once.
package probe

import (
	"context"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/pods/plan"
)

// Kind of a probe.
type Kind string

const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Outcome of one attempt.
type Outcome string

const (
	Passed  Outcome = "passed"
	Warned  Outcome = "warned" // it passed, and there is something to say of it
	Failed  Outcome = "failed"
	Errored Outcome = "errored" // the probe itself did not work: the result stays as it is
)

// Config is one probe of one running container.
type Config struct {
	Kind Kind
	Spec *core.Probe
	// Started is when the container was started.
	Started time.Time
	// Initial is the result so far: nothing is reported until it changes.
	Initial plan.Result
	// Attempt asks once, within ctx, and returns what to say of it.
	Attempt func(ctx context.Context) (Outcome, string)
	// Report is called for every change of the result.
	Report func(plan.Result)
	// Unhealthy is called for every failed attempt that counts.
	Unhealthy func(message string)
	// Warn is called for every attempt that counts and passed with a warning.
	Warn func(message string)
}

// First steps of the early attempts; see Run.
const (
	earlyStep     = 10 * time.Millisecond
	earlyExecStep = 250 * time.Millisecond
)

// Run probes until ctx ends, or until a liveness or startup probe has failed: its
// container is to be ended then.
//
// Attempts that count are made once per period. A container that comes up is
// not made to wait for them: within the first period, readiness and startup are
// also asked at once and then at doubled intervals; of these early attempts only
// a success counts. Upstream asks at a random point of the period instead.
func Run(ctx context.Context, c Config) {
	t := tally{config: c, result: c.Initial}
	period := seconds(c.Spec.PeriodSeconds, 10)
	next := c.Started.Add(seconds(c.Spec.InitialDelaySeconds, 0))
	if !sleep(ctx, next) {
		return
	}
	if c.Kind != Liveness && t.result != plan.Success && t.early(ctx, next, period) {
		if c.Kind == Startup {
			return
		}
	} else if c.Kind == Liveness && c.Spec.InitialDelaySeconds > 0 && t.attempt(ctx) {
		return
	}
	for {
		// Attempts that took longer than a period, and a clock that jumped, skip.
		if next = next.Add(period); time.Now().After(next.Add(period)) {
			next = time.Now().Add(period)
		}
		if !sleep(ctx, next) || t.attempt(ctx) {
			return
		}
	}
}

func seconds(n, otherwise int32) time.Duration {
	if n <= 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}

func sleep(ctx context.Context, until time.Time) bool {
	d := time.Until(until)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// tally counts outcomes towards the thresholds.
type tally struct {
	config Config
	result plan.Result
	last   Outcome
	run    int32
}

// early makes the attempts of the first period and tells whether one passed.
func (t *tally) early(ctx context.Context, from time.Time, period time.Duration) bool {
	if t.config.Spec.SuccessThreshold > 1 {
		return false
	}
	step := earlyStep
	if t.config.Spec.Exec != nil {
		step = earlyExecStep
	}
	end := from.Add(period)
	for {
		if outcome, _ := t.once(ctx); outcome == Passed || outcome == Warned {
			t.set(plan.Success)
			return true
		}
		at := time.Now().Add(step)
		if !at.Before(end) || !sleep(ctx, at) {
			return false
		}
		step *= 2
	}
}

// attempt counts one attempt and tells whether the probe is over.
func (t *tally) attempt(ctx context.Context) (over bool) {
	outcome, message := t.once(ctx)
	if ctx.Err() != nil {
		return true
	}
	if outcome == Warned {
		outcome = Passed
		if t.config.Warn != nil {
			t.config.Warn(string(t.config.Kind) + " probe warning: " + message)
		}
	}
	if outcome != Passed && t.config.Unhealthy != nil {
		verb := " probe failed: "
		if outcome == Errored {
			verb = " probe errored and resulted in unknown state: "
		}
		t.config.Unhealthy(string(t.config.Kind) + verb + message)
	}
	if outcome == Errored {
		return false
	}
	if outcome != t.last {
		t.last, t.run = outcome, 0
	}
	t.run++
	switch {
	case outcome == Passed && t.run >= max(1, t.config.Spec.SuccessThreshold):
		t.set(plan.Success)
		return t.config.Kind == Startup
	case outcome == Failed && t.run >= threshold(t.config.Spec):
		t.set(plan.Failure)
		return t.config.Kind != Readiness
	}
	return false
}

func threshold(p *core.Probe) int32 {
	if p.FailureThreshold <= 0 {
		return 3
	}
	return p.FailureThreshold
}

func (t *tally) once(ctx context.Context) (Outcome, string) {
	ctx, cancel := context.WithTimeout(ctx, seconds(t.config.Spec.TimeoutSeconds, 1))
	defer cancel()
	return t.config.Attempt(ctx)
}

func (t *tally) set(r plan.Result) {
	if t.result != r {
		t.result = r
		t.config.Report(r)
	}
}
