// Package plan decides what is to be done next for one pod. It is pure: a View
// (spec, what is known of the containers, probe results, the clock) goes in, a
// list of Actions comes out; the pod's worker carries them out and asks again
// when anything has changed. It also holds the rules for back-off and restart.
// It refuses effects, clocks and goroutines. Start reading at Plan.
package plan

import (
	"slices"
	"time"

	core "k8s.io/api/core/v1"

	"orch/runtime/engine"
)

// Role is a container's part in its pod.
type Role string

const (
	Init      Role = "init"      // runs to its end before the next
	Sidecar   Role = "sidecar"   // an init container with restartPolicy Always
	Main      Role = "main"      // spec.containers
	Ephemeral Role = "ephemeral" // added to a running pod for debugging
)

// Busy says that an operation on a container is under way.
type Busy string

const (
	Idle     Busy = ""
	Starting Busy = "starting"
	Killing  Busy = "killing"
	Resizing Busy = "resizing"
)

// Result of a probe so far.
type Result string

const (
	Unknown Result = ""
	Success Result = "success"
	Failure Result = "failure"
)

// Instance is one attempt at running a container.
type Instance struct {
	ID      string
	Attempt int
	State   engine.State
	PID     int
	// Image as the spec names it, ImageRef as status.imageID shows it.
	Image, ImageRef string
	// Hash of what makes a running container outdated when the spec changes.
	Hash string
	// Resources are those that its limits were made from; nil where that is not known.
	Resources                        *core.ResourceRequirements
	CreatedAt, StartedAt, FinishedAt time.Time
	// ExitCode, Reason and Message describe the end.
	ExitCode        int
	Reason, Message string
	// Hooked is true once postStart is through (or there is none).
	Hooked bool
}

// Container is what is known of one container of the pod.
type Container struct {
	// Current is the newest attempt in this sandbox, nil before the first. Last
	// is the attempt before it (perhaps of an earlier sandbox); it has ended.
	Current, Last *Instance
	Busy          Busy
	// Waiting is why the container does not run, for the status.
	Waiting Waiting
	// NotBefore holds back the next try after a failed start.
	NotBefore time.Time
	// PullDelay and StartDelay are the back-offs of image pulls and failed starts.
	PullDelay, StartDelay time.Duration
	// Crash is the back-off of restarts.
	Crash Backoff
	// Restart makes the container start anew whatever the restart policy says of
	// its exit code: the agent itself ended it for that.
	Restart bool
	// Stopped is true once the agent ended the container for good.
	Stopped                      bool
	Startup, Liveness, Readiness Result
	// NextAttempt is the number of the attempt to come.
	NextAttempt int
}

// Waiting is a reason and a sentence.
type Waiting struct{ Reason, Message string }

// Running tells whether the newest attempt runs.
func (c *Container) Running() bool {
	return c != nil && c.Current != nil && c.Current.State == engine.Running
}

// Ended tells whether the newest attempt ran and ended.
func (c *Container) Ended() bool {
	return c != nil && c.Current != nil && c.Current.State == engine.Exited
}

// Started tells whether the newest attempt runs, has its postStart behind it
// and has passed its startup probe.
func (c *Container) Started(spec *core.Container) bool {
	return c.Running() && c.Current.Hooked && (spec.StartupProbe == nil || c.Startup == Success)
}

// Ready tells whether the container counts as ready.
func (c *Container) Ready(spec *core.Container) bool {
	return c.Started(spec) && (spec.ReadinessProbe == nil || c.Readiness == Success)
}

// Stop says that the pod has to end.
type Stop struct {
	// Deadline is when the containers that are left are killed.
	Deadline time.Time
	Reason   string
}

// View is all that Plan sees. It is not changed.
type View struct {
	Pod *core.Pod
	// Unfit: the node has no room for the pod as its spec is now; it keeps what it has.
	Unfit      bool
	Now        time.Time
	Containers map[string]*Container
	// StartTime is when the agent took the pod up.
	StartTime time.Time
	// Stop is nil while the pod shall run.
	Stop *Stop
}

// Named is a container of the spec with its role.
type Named struct {
	Role Role
	*core.Container
}

// Specs lists the containers of a pod: init containers and sidecars in order,
// then the main ones, then the ephemeral ones.
func Specs(pod *core.Pod) []Named {
	s := &pod.Spec
	out := make([]Named, 0, len(s.InitContainers)+len(s.Containers)+len(s.EphemeralContainers))
	for i := range s.InitContainers {
		out = append(out, Named{initRole(&s.InitContainers[i]), &s.InitContainers[i]})
	}
	for i := range s.Containers {
		out = append(out, Named{Main, &s.Containers[i]})
	}
	for i := range s.EphemeralContainers {
		c := core.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		out = append(out, Named{Ephemeral, &c})
	}
	return out
}

// Find returns the container of that name.
func Find(pod *core.Pod, name string) (Named, bool) {
	all := Specs(pod)
	i := slices.IndexFunc(all, func(n Named) bool { return n.Name == name })
	if i < 0 {
		return Named{}, false
	}
	return all[i], true
}

func initRole(c *core.Container) Role {
	if c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways {
		return Sidecar
	}
	return Init
}
