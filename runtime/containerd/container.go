package containerd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/runtime"
	"google.golang.org/protobuf/types/known/anypb"

	"orch/runtime/deviceguard"
	"orch/runtime/engine"
)

// metaName is the extension of a containerd container record that holds meta.
const (
	metaName = "orch"
	metaType = "orch/container.v1+json"
)

// meta is what is known of a container from Create on; it does not change.
type meta struct {
	Pod         string            `json:"pod"`
	Labels      map[string]string `json:"labels,omitempty"`
	Image       string            `json:"image"`
	ImageID     string            `json:"imageID"`
	CreatedAt   time.Time         `json:"createdAt"`
	LogPath     string            `json:"logPath,omitempty"`
	LogMaxBytes int64             `json:"logMaxBytes,omitempty"`
	LogMaxFiles int               `json:"logMaxFiles,omitempty"`
	TTY         bool              `json:"tty,omitempty"`
	Stdin       bool              `json:"stdin,omitempty"`
	StdinOnce   bool              `json:"stdinOnce,omitempty"`
	CgroupPath  string            `json:"cgroupPath,omitempty"`
	StopSignal  int               `json:"stopSignal,omitempty"`
	// Devices are those that it may use beside the usual ones.
	Devices []deviceguard.Rule `json:"devices,omitempty"`
}

// status is what changes; kept in a file so that it outlives us and the machine.
type status struct {
	State      engine.State `json:"state"`
	PID        int          `json:"pid,omitempty"`
	StartedAt  time.Time    `json:"startedAt,omitzero"`
	FinishedAt time.Time    `json:"finishedAt,omitzero"`
	ExitCode   int          `json:"exitCode,omitempty"`
	OOMKilled  bool         `json:"oomKilled,omitempty"`
}

// container is one container of the engine.
//
// op is held by whoever changes its state (create, start, the end of its
// process, remove), so those come one after the other. mu guards the fields below it and
// is held for moments only. Order: op before mu.
type container struct {
	id   string
	meta meta
	// exited is closed when the process has ended and its status is stored;
	// gone when its task is deleted too.
	exited, gone chan struct{}

	op sync.Mutex

	mu    sync.Mutex
	ready bool // false while Create runs: not shown, not found
	st    status
	task  runtime.Task // nil before Create has made it and after it is deleted
	first *os.Process  // for signals; nil without a task of ours
	out   *output      // nil without a process
}

func newContainer(id string) *container {
	return &container{id: id, exited: make(chan struct{}), gone: make(chan struct{})}
}

// view is the container as callers see it; false while it is being made.
func (c *container) view() (engine.Container, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := engine.Container{
		ID: c.id, Pod: c.meta.Pod, Labels: c.meta.Labels, Image: c.meta.Image, ImageID: c.meta.ImageID,
		State: c.st.State, PID: c.st.PID, CreatedAt: c.meta.CreatedAt, StartedAt: c.st.StartedAt,
		FinishedAt: c.st.FinishedAt, ExitCode: c.st.ExitCode, OOMKilled: c.st.OOMKilled, LogPath: c.meta.LogPath,
	}
	return v, c.ready
}

func (c *container) state() engine.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.st.State
}

func (c *container) taskIfAlive() runtime.Task {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.task
}

// running returns the task of a container whose process runs.
func (c *container) running() (runtime.Task, *output, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st.State != engine.Running || c.task == nil {
		return nil, nil, fmt.Errorf("container %s is %s: %w", c.id, c.st.State, engine.ErrNotRunning)
	}
	return c.task, c.out, nil
}

func (c *container) letGo() {
	c.mu.Lock()
	out := c.out
	c.mu.Unlock()
	if out != nil {
		out.letGo()
	}
}

// save stores the status by rename. No sync: after a power cut the process is
// gone anyway, and a status that is missing or torn reads as an unknown end.
func (e *Engine) save(c *container) {
	c.mu.Lock()
	b, err := json.Marshal(c.st)
	c.mu.Unlock()
	path := e.statusPath(c.id)
	if err == nil {
		err = os.WriteFile(path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		e.log.Error("storing the status of a container failed", "container", c.id, "err", err)
	}
}

func (e *Engine) statusPath(id string) string { return filepath.Join(e.statusDir(), id+".json") }

func (e *Engine) loadStatus(id string) (status, error) {
	b, err := os.ReadFile(e.statusPath(id))
	if err != nil {
		return status{}, err
	}
	var st status
	return st, json.Unmarshal(b, &st)
}

// encodeMeta puts meta into a container record.
func encodeMeta(m meta) (*anypb.Any, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing container record: %w", err)
	}
	return &anypb.Any{TypeUrl: metaType, Value: b}, nil
}

// decodeMeta reads it back; ok is false for containers that others made (ctr, nerdctl).
func decodeMeta(rec containers.Container) (m meta, ok bool) {
	ext := rec.Extensions[metaName]
	if ext == nil {
		return meta{}, false
	}
	return m, json.Unmarshal(ext.GetValue(), &m) == nil
}
