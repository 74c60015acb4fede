package containerd

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"orch/runtime/engine"
)

const (
	// guardEvery is how often device rules are compared while a container has some: nothing
	// tells when somebody writes others.
	guardEvery = time.Minute
	// systemdDir gets new generator folders whenever systemd is told to reload; guardSettle
	// later it has written its rules.
	systemdDir  = "/run/systemd"
	guardSettle = 2 * time.Second
)

// guardDevices keeps containers on their devices until the engine closes.
func (e *Engine) guardDevices() {
	var reloads chan fsnotify.Event
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer w.Close()
		if w.Add(systemdDir) == nil { // a host without systemd has nobody to reload
			reloads = w.Events
		}
	}
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-e.life.Done():
			return
		case ev, ok := <-reloads:
			if !ok {
				reloads = nil
			} else if strings.HasPrefix(filepath.Base(ev.Name), "generator") {
				due.Reset(guardSettle)
			}
		case <-e.guarded:
			due.Reset(guardEvery)
		case <-due.C:
			if e.checkDevices() > 0 {
				due.Reset(guardEvery)
			}
		}
	}
}

// checkDevices compares the rules of all that run, and counts those that have some.
func (e *Engine) checkDevices() (n int) {
	e.mu.Lock()
	var all []*container
	for _, c := range e.containers {
		all = append(all, c)
	}
	e.mu.Unlock()
	for _, c := range all {
		if len(c.meta.Devices) == 0 || c.state() != engine.Running {
			continue
		}
		n++
		switch repaired, err := e.guard.Check(c.id, c.meta.CgroupPath, c.meta.Devices); {
		case err != nil:
			e.log.Warn("checking the device rules of a container failed", "container", c.id, "err", err)
		case repaired != "":
			e.log.Warn("somebody changed the device rules of a container; they are as they were again", "container", c.id, "done", repaired)
		}
	}
	return n
}

// keepDevices remembers the rules of a container that was just made.
func (e *Engine) keepDevices(c *container) {
	if len(c.meta.Devices) == 0 {
		return
	}
	if err := e.guard.Keep(c.id, c.meta.CgroupPath); err != nil {
		e.log.Warn("the device rules of a container cannot be put back if somebody changes them", "container", c.id, "err", err)
	}
	select {
	case e.guarded <- struct{}{}:
	default:
	}
}
