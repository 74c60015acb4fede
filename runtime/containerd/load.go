package containerd

import (
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"context"

	"orch/runtime/engine"
)

// load finds the containers that a former process made, and takes over those
// that live: their output is collected on, their end is awaited.
func (e *Engine) load() error {
	recs, err := e.srv.client.ContainerService().List(e.life)
	if err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	for _, rec := range recs {
		m, ok := decodeMeta(rec)
		if !ok {
			continue
		}
		c := newContainer(rec.ID)
		c.meta, c.ready = m, true
		e.containers[rec.ID] = c
		if err := e.takeOver(c); err != nil {
			return fmt.Errorf("taking over container %s: %w", rec.ID, err)
		}
	}
	return e.dropLayers()
}

// takeOver finds out what became of a container.
func (e *Engine) takeOver(c *container) error {
	st, err := e.loadStatus(c.id)
	known := err == nil
	task, err := e.srv.shims.Get(e.life, c.id)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if task == nil || err != nil {
		e.bury(c, st, known)
		return nil
	}
	ts, err := task.State(e.life)
	if err != nil {
		return fmt.Errorf("asking its shim: %w", err)
	}
	if !known {
		st = status{State: engine.Created}
	}
	if st.State == engine.Created && ts.Status != runtime.CreatedStatus {
		// Started in the moment when the former process ended.
		st.State, st.StartedAt = engine.Running, time.Now()
	}
	if st.State == engine.Exited {
		// Only the deletion of its task is left to do.
		c.st, c.task = st, task
		close(c.exited)
		e.work.Go(func() { e.deleteTask(c) })
		return nil
	}
	st.PID = int(ts.Pid)
	c.st, c.task = st, task
	c.first, _ = os.FindProcess(st.PID)
	if c.out, err = e.openOutput(c, false); err != nil {
		return err
	}
	c.out.start()
	e.work.Go(func() { e.watch(c) })
	return nil
}

// bury settles a container that has no task: it has ended, seen or unseen.
func (e *Engine) bury(c *container, st status, known bool) {
	if !known || st.State != engine.Exited {
		st.State, st.PID, st.ExitCode = engine.Exited, 0, unknownExit
		st.FinishedAt = time.Now()
	}
	c.st = st
	e.save(c)
	close(c.exited)
	close(c.gone)
}

// dropLayers removes layers that a Create, cut short by a crash, left without a container.
func (e *Engine) dropLayers() error {
	var orphans []string
	err := e.snapshots().Walk(e.life, func(_ context.Context, i snapshots.Info) error {
		if id := i.Labels[ownerLabel]; id != "" && e.containers[id] == nil {
			orphans = append(orphans, i.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for left-over layers: %w", err)
	}
	for _, name := range orphans {
		if err := e.snapshots().Remove(e.life, name); err != nil && !errdefs.IsNotFound(err) {
			e.log.Warn("removing a left-over layer failed", "snapshot", name, "err", err)
		}
	}
	return nil
}
