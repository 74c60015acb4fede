package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/pods/plan"
	"orch/agent/probe"
	"orch/runtime/engine"
)

// hooks runs lifecycle handlers of one container.
type hooks struct {
	p       *Pods
	pod     *core.Pod
	named   plan.Named
	id      string
	sandbox *sandbox
}

func (w *worker) hooksFor(n plan.Named, id string) *hooks {
	return &hooks{p: w.p, pod: w.pod, named: n, id: id, sandbox: w.sandbox}
}

func (h *hooks) target() probe.Target {
	t := probe.Target{Container: h.named.Container, Exec: func(ctx context.Context, command []string, out io.Writer) (int, error) {
		return h.p.Engine.Exec(ctx, h.id, engine.ExecSpec{Command: command}, engine.IO{Stdout: out, Stderr: out})
	}}
	if h.sandbox != nil {
		if _, ips := h.sandbox.state(); len(ips) > 0 {
			t.IP = ips[0]
		}
	}
	return t
}

// run performs one handler; an error says why it failed.
func (h *hooks) run(ctx context.Context, l *core.LifecycleHandler) error {
	switch {
	case l.Exec != nil:
		var out probe.Output
		code, err := h.target().Exec(ctx, l.Exec.Command, &out)
		if err != nil {
			return fmt.Errorf("running the hook: %w", err)
		}
		if code != 0 {
			return fmt.Errorf("hook exited with %d: %s", code, out.String())
		}
		return nil
	case l.HTTPGet != nil:
		r, err := probe.Request(ctx, l.HTTPGet, h.target())
		if err != nil {
			return fmt.Errorf("making the hook's request: %w", err)
		}
		answer, err := probe.Client().Do(r)
		if err != nil {
			return fmt.Errorf("sending the hook's request: %w", err)
		}
		return answer.Body.Close()
	case l.TCPSocket != nil:
		if outcome, text := probe.Once(ctx, core.ProbeHandler{TCPSocket: l.TCPSocket}, h.target()); outcome != probe.Passed {
			return errors.New(text)
		}
		return nil
	case l.Sleep != nil:
		t := time.NewTimer(time.Duration(l.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		return nil
	}
	return errors.New("the hook has no handler")
}

// watchProbes starts the probes that are due and ends those that are not.
func (w *worker) watchProbes(ctx context.Context) {
	for _, n := range plan.Specs(w.pod) {
		if n.Role == plan.Init || n.Role == plan.Ephemeral {
			continue
		}
		c := w.containers[n.Name]
		id := ""
		if c.Running() {
			id = c.Current.ID
		}
		for _, k := range []struct {
			kind   probe.Kind
			spec   *core.Probe
			due    bool
			result func() *plan.Result
		}{
			{probe.Startup, n.StartupProbe, c.Running() && c.Current.Hooked && c.Startup == plan.Unknown && w.stop == nil, func() *plan.Result { return &c.Startup }},
			{probe.Liveness, n.LivenessProbe, c.Started(n.Container) && c.Liveness != plan.Failure && w.stop == nil, func() *plan.Result { return &c.Liveness }},
			{probe.Readiness, n.ReadinessProbe, c.Started(n.Container), func() *plan.Result { return &c.Readiness }},
		} {
			if k.spec == nil {
				continue
			}
			key := n.Name + "/" + string(k.kind)
			end, on := w.probes[key]
			if on && !k.due {
				end()
				delete(w.probes, key)
			}
			if !on && k.due {
				w.probes[key] = w.probe(ctx, n, c, probeRun{k.kind, k.spec, id, k.result()})
			}
		}
	}
}

type probeRun struct {
	kind   probe.Kind
	spec   *core.Probe
	id     string
	result *plan.Result // owned by the worker
}

// probe runs one probe until the returned function is called.
func (w *worker) probe(ctx context.Context, n plan.Named, c *plan.Container, r probeRun) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	target := w.hooksFor(n, r.id)
	say := func(reason, message string) {
		w.box.post(func() {
			if c.Running() && c.Current.ID == r.id {
				w.containerEvent(n.Name, core.EventTypeWarning, reason, message)
			}
		})
	}
	// The worker's own: the container may be another one before the probe's turn comes.
	started, initial := c.Current.StartedAt, *r.result
	w.p.wg.Go(func() {
		probe.Run(ctx, probe.Config{
			Kind: r.kind, Spec: r.spec, Started: started, Initial: initial,
			Attempt: func(ctx context.Context) (probe.Outcome, string) {
				return probe.Once(ctx, r.spec.ProbeHandler, target.target())
			},
			Report: func(result plan.Result) {
				w.box.post(func() {
					if c.Running() && c.Current.ID == r.id {
						*r.result = result
					}
				})
			},
			Unhealthy: func(message string) { say("Unhealthy", message) },
			Warn:      func(message string) { say("ProbeWarning", message) },
		})
	})
	return cancel
}
