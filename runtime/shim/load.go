package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Load connects to the shims that a former process left and finds their tasks.
// Shims without a task are ended; what a dead shim left is cleaned up. Called once, before the first Create.
func (r *Runtime) Load(ctx context.Context) error {
	pods, err := r.loadPods()
	if err != nil {
		return err
	}
	spaces, err := os.ReadDir(r.cfg.State)
	if err != nil {
		return fmt.Errorf("loading tasks: %w", err)
	}
	for _, ns := range spaces {
		if !ns.IsDir() || ns.Name() == podsDir || ns.Name() == filepath.Base(r.runcRoot()) || ns.Name() == filepath.Base(r.cfg.SocketDir) {
			continue
		}
		bundles, err := os.ReadDir(filepath.Join(r.cfg.State, ns.Name()))
		if err != nil {
			return fmt.Errorf("loading tasks: %w", err)
		}
		for _, b := range bundles {
			r.loadTask(ctx, pods, ns.Name(), b.Name())
		}
	}
	for _, p := range pods {
		r.endIfUnused(p)
	}
	return nil
}

// loadPods connects to every shim that still serves; by key.
func (r *Runtime) loadPods() (map[string]*pod, error) {
	dirs, err := os.ReadDir(filepath.Join(r.cfg.State, podsDir))
	if err != nil {
		return nil, fmt.Errorf("loading shims: %w", err)
	}
	pods := map[string]*pod{}
	for _, d := range dirs {
		p := &pod{key: d.Name(), dir: filepath.Join(r.cfg.State, podsDir, d.Name()), ready: make(chan struct{}), dead: make(chan struct{})}
		close(p.ready)
		group, err1 := os.ReadFile(filepath.Join(p.dir, "group"))
		ns, err2 := os.ReadFile(filepath.Join(p.dir, "namespace"))
		p.group, p.ns = string(group), string(ns)
		socket := filepath.Join(r.cfg.SocketDir, p.key)
		if err := errors.Join(err1, err2); err == nil {
			err = p.connect(r, socket)
			if err == nil {
				if p.pipes, err = findKeeper(p.dir); err != nil {
					r.cfg.Log.Warn("a shim does not give its pipes; output of containers of this pod that end while orch is away may be lost", "pod", p.group, "err", err)
				}
				pods[p.key] = p
				r.mu.Lock()
				r.pods[p.ns+"/"+p.group] = p
				r.mu.Unlock()
				continue
			}
		}
		// No shim behind it (died while we were away, or never started).
		_ = os.Remove(socket)
		_ = os.RemoveAll(p.dir)
	}
	return pods, nil
}

// loadTask takes one bundle over, or cleans it up if its shim is gone.
func (r *Runtime) loadTask(ctx context.Context, pods map[string]*pod, ns, id string) {
	t := &Task{rt: r, ns: ns, id: id, bundle: filepath.Join(r.cfg.State, ns, id)}
	key, err := os.ReadFile(filepath.Join(t.bundle, "pod"))
	if p := pods[string(key)]; err == nil && p != nil {
		t.pod = p
		st, err := t.State(t.withNamespace(ctx))
		if err == nil {
			t.pid = st.Pid
			r.mu.Lock()
			r.tasks[ns+"/"+id] = t
			p.users++
			r.mu.Unlock()
			return
		}
		r.cfg.Log.Warn("a shim does not know its container; cleaning up", "task", id, "err", err)
	}
	r.cleanUp(ctx, t)
}

// podDied runs when the connection to a shim has ended. If that was not asked
// for, its containers have nobody who watches them: they are ended and reported.
func (r *Runtime) podDied(p *pod) {
	r.mu.Lock()
	if r.closed || r.pods[p.ns+"/"+p.group] != p {
		r.mu.Unlock()
		return
	}
	delete(r.pods, p.ns+"/"+p.group)
	var lost []*Task
	for key, t := range r.tasks {
		if t.pod == p {
			lost = append(lost, t)
			delete(r.tasks, key)
		}
	}
	r.mu.Unlock()
	if len(lost) > 0 {
		r.cfg.Log.Warn("a shim died; ending its containers", "pod", p.group, "containers", len(lost))
	}
	for _, t := range lost {
		exit := r.exitOnRecord(t)
		r.cleanUp(context.Background(), t)
		r.publishExit(t, exit)
	}
	_ = os.Remove(filepath.Join(r.cfg.SocketDir, p.key))
	_ = os.RemoveAll(p.dir)
}

// exitOnRecord is what is known of the end of a task whose shim is gone.
func (r *Runtime) exitOnRecord(t *Task) runtime.Exit {
	exit := lostExit(t.pid)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.exit == nil {
		t.exit = &exit
	}
	return *t.exit
}

// cleanUp ends what runs of a container without a shim and removes its traces.
func (r *Runtime) cleanUp(ctx context.Context, t *Task) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	runc := r.cfg.Runc
	if b, err := os.ReadFile(filepath.Join(t.bundle, "runtime")); err == nil && len(b) > 0 {
		runc = string(b) // the shim notes which one it used
	}
	root := filepath.Join(r.runcRoot(), t.ns)
	if _, err := os.Stat(filepath.Join(root, t.id)); err == nil {
		out, err := exec.CommandContext(ctx, runc, "--root", root, "delete", "--force", t.id).CombinedOutput()
		if err != nil {
			r.cfg.Log.Warn("ending a container without a shim failed", "task", t.id, "err", err, "output", strings.TrimSpace(string(out)))
		}
	}
	t.removeBundle(r.cfg.Log)
}

// Lost reports whether the task's shim is gone.
func (t *Task) Lost() bool {
	select {
	case <-t.pod.dead:
		return true
	default:
		return false
	}
}

// ShimPID is the process that looks after the task.
func (t *Task) ShimPID(ctx context.Context) (int, error) {
	res, err := t.pod.api.Connect(namespaces.WithNamespace(ctx, t.ns), &taskapi.ConnectRequest{ID: t.id})
	if err != nil {
		return 0, native(err)
	}
	return int(res.ShimPid), nil
}
