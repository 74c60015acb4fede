package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sys/unix"

	"orch/agent/host"
	"orch/agent/pause"
	"orch/api"
	"orch/api/client"
)

const (
	endFirstRetry = 100 * time.Millisecond
	endMaxRetry   = 30 * time.Second
)

// end takes a finished pod off the host, then its object from the API if that is
// marked as deleted. Each is an operation; the worker is called again after it.
func (w *worker) end(ctx context.Context) {
	switch {
	case w.busyEnding:
	case !w.torn:
		w.busyEnding = true
		t, pod := w.teardown(), w.pod
		w.p.wg.Go(func() {
			if retry(ctx, w.p, "taking a pod off the host", pod, t.run) {
				w.box.post(func() { w.torn, w.busyEnding = true, false })
			}
		})
	case w.orphan || w.deleting && w.pod.DeletionTimestamp == nil:
		w.leave()
	case w.pod.DeletionTimestamp != nil && !w.deleting:
		w.busyEnding, w.deleting = true, true
		pod := w.pod
		w.p.wg.Go(func() {
			w.p.writer.Wait(ctx, pod.UID)
			if retry(ctx, w.p, "deleting a pod that has ended", pod, func(ctx context.Context) error { return w.p.deleteObject(ctx, pod) }) {
				w.box.post(func() { w.busyEnding = false })
			}
		})
	}
}

// leave removes what was kept for readers of logs, and ends the worker.
func (w *worker) leave() {
	w.gone = true
	for _, dir := range []string{w.p.logDir(w.pod), w.p.podDir(string(w.pod.UID))} {
		if err := os.RemoveAll(dir); err != nil {
			w.p.Log.Warn("removing a directory of a pod that is gone failed", "err", err)
		}
	}
	if w.p.config.LinkDir == "" {
		return
	}
	for name, c := range w.containers {
		for _, id := range ids(c) {
			_ = os.Remove(filepath.Join(w.p.config.LinkDir, w.p.linkName(&w.pod.ObjectMeta, name, id))) // a dangling link at worst
		}
	}
}

func (p *Pods) deleteObject(ctx context.Context, pod *core.Pod) error {
	err := client.Delete(ctx, p.Client, api.Pods, pod.Namespace, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another pod by now
		return nil
	}
	return err
}

// retry does something until it succeeds; false when ctx ended first.
func retry(ctx context.Context, p *Pods, what string, pod *core.Pod, do func(context.Context) error) bool {
	for wait := endFirstRetry; ; wait = min(2*wait, endMaxRetry) {
		err := do(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		p.Log.Warn(what+" failed", "namespace", pod.Namespace, "pod", pod.Name, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// takedown is all that a pod has on the host.
type takedown struct {
	p          *Pods
	uid        types.UID
	sandbox    host.Sandbox
	containers []string
	strays     []string // these may run
	made       func()   // waits for what still makes the sandbox
}

func (w *worker) teardown() *takedown {
	t := &takedown{p: w.p, uid: w.pod.UID, made: func() {}}
	if w.sandbox != nil {
		w.sandbox.cancel()
		t.sandbox, t.made = w.sandbox.Sandbox, w.sandbox.parts.Wait
	} else {
		t.sandbox = newSandbox(w.p.config, w.pod).Sandbox
	}
	for _, c := range w.containers {
		t.containers = append(t.containers, ids(c)...)
	}
	t.strays, w.strays = w.strays, nil
	return t
}

// run takes the parts down side by side; all of it may be done again.
func (t *takedown) run(ctx context.Context) error {
	t.made()
	parts := []func() error{
		func() error { return t.removeContainers(ctx) },
		func() error { return t.leaveNetwork(ctx) },
		func() error {
			if err := t.p.Volumes.Unmount(ctx, t.uid); err != nil {
				return fmt.Errorf("unmounting volumes: %w", err)
			}
			return nil
		},
	}
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, f := range parts {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if t.p.Devices != nil {
		if err := t.p.Devices.Release(t.uid); err != nil {
			return fmt.Errorf("releasing devices: %w", err)
		}
		if err := t.p.Devices.ReleaseClaims(ctx, t.uid); err != nil {
			return fmt.Errorf("releasing claims: %w", err)
		}
	}
	// Processes may linger for a moment; what stays busy is left to the next start.
	if err := t.p.Cgroups.RemovePod(t.uid); err != nil {
		t.p.Log.Warn("removing a pod's control group failed", "pod", t.uid, "err", err)
	}
	return t.removeFiles()
}

func (t *takedown) removeContainers(ctx context.Context) error {
	for _, id := range t.strays {
		t.p.removeStray(ctx, id)
	}
	for _, id := range t.containers {
		if err := t.p.Engine.Remove(ctx, id); err != nil {
			return fmt.Errorf("removing container %s: %w", id, err)
		}
	}
	return nil
}

func (t *takedown) leaveNetwork(ctx context.Context) error {
	if t.sandbox.NetNS != "" {
		if err := t.p.Network.Teardown(ctx, t.sandbox); err != nil {
			return fmt.Errorf("leaving the network: %w", err)
		}
	}
	if err := pause.Stop(t.p.pausePin(t.uid)); err != nil {
		return err
	}
	if err := t.p.Namespaces.Remove(ctx, t.sandbox); err != nil {
		return fmt.Errorf("removing namespaces: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(t.p.config.RunDir, "ns", string(t.uid))); err != nil {
		return fmt.Errorf("removing the directory of namespaces: %w", err)
	}
	return nil
}

func (t *takedown) removeFiles() error {
	dir := t.p.podRunDir(string(t.uid))
	if err := unix.Unmount(filepath.Join(dir, "shm"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting the pod's shm: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the pod's run directory: %w", err)
	}
	return nil
}
