package pods

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	core "k8s.io/api/core/v1"

	"orch/agent/pods/plan"
	"orch/agent/pods/spec"
	"orch/agent/pods/status"
	"orch/runtime/engine"
	"orch/runtime/logfile"
)

// end is how a container ended.
type end struct {
	id              string
	exitCode        int
	started, at     time.Time
	reason, message string
}

// Limits of termination messages, as upstream's.
const (
	maxMessageBytes  = 4 << 10
	maxFallbackBytes = 2 << 10
	maxFallbackLines = 80
)

// inspectEnd turns an exit event into an end.
func (p *Pods) inspectEnd(ctx context.Context, e engine.Event) end {
	c, err := p.Engine.Inspect(ctx, e.ID)
	if err != nil || c.State != engine.Exited {
		return end{id: e.ID, exitCode: e.ExitCode, at: e.Time, reason: reason(e.ExitCode, false)}
	}
	return p.endOf(c)
}

// endOf describes a container that has exited, with its last words.
func (p *Pods) endOf(c engine.Container) end {
	out := end{id: c.ID, exitCode: c.ExitCode, started: c.StartedAt, at: c.FinishedAt, reason: reason(c.ExitCode, c.OOMKilled)}
	if out.at.IsZero() {
		out.at = time.Now()
	}
	out.message = p.lastWords(c)
	return out
}

func reason(exitCode int, oom bool) string {
	switch {
	case oom:
		return status.OOMKilled
	case exitCode == 0:
		return status.Completed
	}
	return status.Error
}

// lastWords reads the termination message. Whether the log may stand in for an
// empty one is the pod's to say; see exited.
func (p *Pods) lastWords(c engine.Container) string {
	pod := &core.Pod{}
	pod.UID = typesUID(c.Labels[spec.LabelPodUID])
	f, err := os.Open(p.messageFile(pod, c.Labels[spec.LabelContainer], c.ID))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMessageBytes))
	if err != nil {
		return ""
	}
	return string(b)
}

// fallback reads the end of the log.
func (p *Pods) fallback(path string) string {
	var out bytes.Buffer
	tail := int64(maxFallbackLines)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := logfile.Read(ctx, path, logfile.Options{Tail: &tail}, &out, &out); err != nil && !errors.Is(err, os.ErrNotExist) {
		return ""
	}
	b := out.Bytes()
	return strings.ToValidUTF8(string(b[max(0, len(b)-maxFallbackBytes):]), "")
}

// exited takes up the end of a container.
func (w *worker) exited(e end) {
	for name, c := range w.containers {
		if c.Current == nil || c.Current.ID != e.id {
			continue
		}
		if c.Current.State == engine.Exited {
			return
		}
		i := *c.Current
		i.State, i.PID, i.ExitCode, i.Reason, i.FinishedAt = engine.Exited, 0, e.exitCode, e.reason, e.at
		if i.Message = e.message; i.StartedAt.IsZero() {
			i.StartedAt = e.started
		}
		if why, ok := w.felled[e.id]; ok {
			i.Reason, i.Message = why.reason, why.message
			delete(w.felled, e.id)
		}
		if n, ok := plan.Find(w.pod, name); ok && i.Message == "" && e.exitCode != 0 && n.TerminationMessagePolicy == core.TerminationMessageFallbackToLogsOnError {
			i.Message = w.p.fallback(w.p.logPath(w.pod, name, i.Attempt))
		}
		c.Current = &i
		c.Startup, c.Liveness, c.Readiness = plan.Unknown, plan.Unknown, plan.Unknown
		if c.Busy == plan.Idle {
			c.Waiting = plan.Waiting{}
		}
		if done, ok := w.ends[e.id]; ok {
			close(done)
			delete(w.ends, e.id)
		}
		return
	}
}

// ending is closed once the end of that container was taken up.
func (w *worker) ending(id string) <-chan struct{} {
	if w.ends[id] == nil {
		w.ends[id] = make(chan struct{})
	}
	return w.ends[id]
}
