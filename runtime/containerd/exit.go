package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"orch/runtime/engine"
	"orch/runtime/oci"
)

const (
	// unknownExit is reported for a process whose end nobody saw, lostExit for
	// one that was killed because its shim had died.
	unknownExit = 255
	lostExit    = 137
	// drainTime is how long output may still come after the end: a process
	// elsewhere may hold the pipe open.
	drainTime   = 2 * time.Second
	deleteTries = 5
)

// watch waits for the end of the container's process; one goroutine per
// container from Create (or load) until then.
func (e *Engine) watch(c *container) {
	task := c.taskIfAlive()
	exit, err := task.Wait(e.life)
	if e.life.Err() != nil {
		return // closing; the next New watches on
	}
	if err != nil {
		exit = e.lost(c, err)
	}
	oom := oomKills(c.meta.CgroupPath) > 0
	select {
	case <-c.out.done:
	case <-time.After(drainTime):
		c.out.letGo()
	case <-e.life.Done():
		return
	}
	c.op.Lock()
	c.mu.Lock()
	c.st.State, c.st.PID = engine.Exited, 0
	c.st.ExitCode, c.st.FinishedAt, c.st.OOMKilled = int(exit.Status), exit.Timestamp, c.st.OOMKilled || oom
	if c.first != nil {
		_ = c.first.Release()
		c.first = nil
	}
	c.mu.Unlock()
	e.save(c)
	close(c.exited)
	c.op.Unlock()
	e.hub.publish(engine.Event{ID: c.id, Pod: c.meta.Pod, Kind: "exit", ExitCode: int(exit.Status), Time: exit.Timestamp})
	e.deleteTask(c)
}

// lost is the exit of a task whose shim went away.
func (e *Engine) lost(c *container, err error) *runtime.Exit {
	e.log.Warn("lost sight of a container", "container", c.id, "err", err)
	return &runtime.Exit{Status: lostExit, Timestamp: time.Now()}
}

// deleteTask takes the ended task away, so that the shim can end and the root
// is unmounted; the container's record and layer stay until Remove.
func (e *Engine) deleteTask(c *container) {
	for try := range deleteTries {
		ctx, cancel := context.WithTimeout(e.life, rollbackTime)
		_, err := e.srv.shims.Delete(ctx, c.id)
		cancel()
		if err == nil || errdefs.IsNotFound(err) {
			break
		}
		if e.life.Err() != nil {
			return
		}
		e.log.Warn("deleting an ended container's task failed", "container", c.id, "try", try+1, "err", err)
		select {
		case <-time.After(time.Duration(try+1) * time.Second):
		case <-e.life.Done():
			return
		}
	}
	_ = os.RemoveAll(e.pipesDir(c.id))
	c.mu.Lock()
	c.task, c.out = nil, nil
	c.mu.Unlock()
	close(c.gone)
}

// Signal sends to the first process, or to all; 0 is the stop signal.
func (e *Engine) Signal(ctx context.Context, id string, signal int, all bool) error {
	c, err := e.find(id)
	if err != nil {
		return err
	}
	if signal == 0 {
		signal = cmp.Or(c.meta.StopSignal, int(syscall.SIGTERM))
	}
	c.mu.Lock()
	st, task, first := c.st.State, c.task, c.first
	c.mu.Unlock()
	if st == engine.Exited || task == nil {
		return fmt.Errorf("signalling container %s: %w", id, engine.ErrNotRunning)
	}
	if !all && first != nil {
		// Straight to the process: a runc less to start.
		err := first.Signal(syscall.Signal(signal))
		if errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signalling container %s: %w", id, engine.ErrNotRunning)
		}
		if err != nil {
			return fmt.Errorf("signalling container %s: %w", id, err)
		}
		return nil
	}
	if err := task.Kill(e.scope(ctx), uint32(signal), all); err != nil {
		if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("signalling container %s: %w", id, engine.ErrNotRunning)
		}
		return fmt.Errorf("signalling container %s: %w", id, err)
	}
	return nil
}

// Update changes the limits of a running container.
func (e *Engine) Update(ctx context.Context, id string, r engine.Resources) error {
	c, err := e.find(id)
	if err != nil {
		return err
	}
	task := c.taskIfAlive()
	if task == nil {
		return fmt.Errorf("updating container %s: %w", id, engine.ErrNotRunning)
	}
	limits, err := typeurl.MarshalAny(oci.Limits(r, e.host.SwapLimit))
	if err != nil {
		return fmt.Errorf("updating container %s: %w", id, err)
	}
	if err := task.Update(e.scope(ctx), &anypb.Any{TypeUrl: limits.GetTypeUrl(), Value: limits.GetValue()}, nil); err != nil {
		return fmt.Errorf("updating container %s: %w", id, err)
	}
	return nil
}

// watchOOM passes on what the shims see of the kernel's out-of-memory killer.
func (e *Engine) watchOOM() {
	events, errs := e.srv.events.Subscribe(e.life, `topic=="`+runtime.TaskOOMEventTopic+`"`)
	for {
		select {
		case <-e.life.Done():
			return
		case err := <-errs:
			if err != nil && e.life.Err() == nil {
				e.log.Error("watching for out-of-memory kills failed", "err", err)
			}
			return
		case env := <-events:
			if env == nil || env.Namespace != Namespace {
				continue
			}
			v, err := typeurl.UnmarshalAny(env.Event)
			if err != nil {
				continue
			}
			if oom, ok := v.(*eventstypes.TaskOOM); ok {
				e.markOOM(oom.ContainerID, env.Timestamp)
			}
		}
	}
}

func (e *Engine) markOOM(id string, at time.Time) {
	c, err := e.find(id)
	if err != nil {
		return
	}
	c.mu.Lock()
	running := c.st.State == engine.Running
	if running {
		c.st.OOMKilled = true
	}
	c.mu.Unlock()
	if running {
		e.hub.publish(engine.Event{ID: id, Pod: c.meta.Pod, Kind: "oom", Time: at})
	}
}
