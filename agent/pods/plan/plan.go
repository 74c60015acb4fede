package plan

import (
	"fmt"
	"slices"
	"time"

	core "k8s.io/api/core/v1"

	"orch/runtime/engine"
)

// Verb of an action.
type Verb string

const (
	// Start makes and starts the next attempt of a container.
	Start Verb = "start"
	// Kill ends a running container: preStop, stop signal, SIGKILL after Grace.
	Kill Verb = "kill"
	// Resize changes the limits of a running container.
	Resize Verb = "resize"
	// Wait asks for another look at Until; Reason is what the status says meanwhile.
	Wait Verb = "wait"
	// End makes Stop: the pod is over its deadline.
	End Verb = "end"
	// Finish says that nothing runs and nothing will: the sandbox may go.
	Finish Verb = "finish"
)

// Reasons of kills and waits.
const (
	ReasonLiveness  = "Liveness"
	ReasonStartup   = "Startup"
	ReasonChanged   = "Changed"
	ReasonResize    = "Resize"
	ReasonStopping  = "Stopping"
	ReasonCrashLoop = "CrashLoopBackOff"
	ReasonRetry     = "Retry"
	ReasonDeadline  = "DeadlineExceeded"
	deadlineText    = "Pod was active on the node longer than the specified deadline"
	defaultGrace    = 30 * time.Second
)

// Action is one thing to do.
type Action struct {
	Verb      Verb
	Container string
	Attempt   int
	Reason    string
	Message   string
	Grace     time.Duration
	Until     time.Time
	// Restart: the container shall start again whatever its exit code is.
	Restart bool
}

// Plan lists what is to be done now. Containers with an operation under way get
// no action; the worker asks again when it is through.
//
//	not begun -> init containers one by one; a sidecar counts once it has started
//	          -> main containers together -> (all ended for good) -> sidecars end,
//	             last first -> finish
//	Stop at any time -> main containers end together -> sidecars, last first -> finish
func Plan(v View) []Action {
	if v.Stop != nil {
		return v.stopping()
	}
	if at, ok := deadline(v.Pod, v.StartTime); ok && !v.Now.Before(at) {
		return []Action{{Verb: End, Reason: ReasonDeadline, Message: deadlineText}}
	}
	if v.completed() {
		return v.finishing(grace(v.Pod))
	}
	acts := v.unhealthy()
	if len(acts) == 0 {
		acts = v.resizing()
	}
	initialized, more := v.initializing()
	acts = append(acts, more...)
	if initialized {
		for _, n := range Specs(v.Pod) {
			if n.Role == Main || n.Role == Ephemeral {
				acts = append(acts, v.keep(n)...)
			}
		}
	}
	if at, ok := deadline(v.Pod, v.StartTime); ok {
		acts = append(acts, Action{Verb: Wait, Until: at, Reason: ReasonDeadline})
	}
	return acts
}

func deadline(pod *core.Pod, start time.Time) (time.Time, bool) {
	s := pod.Spec.ActiveDeadlineSeconds
	if s == nil || start.IsZero() {
		return time.Time{}, false
	}
	return start.Add(time.Duration(*s) * time.Second), true
}

func grace(pod *core.Pod) time.Duration {
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return defaultGrace
}

// initializing walks the init containers up to the first that has to be waited
// for. Once a main container has run in this sandbox, only sidecars are kept.
func (v View) initializing() (initialized bool, acts []Action) {
	over := v.begun()
	for _, n := range Specs(v.Pod) {
		c := v.Containers[n.Name]
		switch n.Role {
		case Sidecar:
			acts = append(acts, v.keep(n)...)
			if !over && !c.Started(n.Container) {
				return false, acts
			}
		case Init:
			if over || Passed(c) {
				continue
			}
			return false, append(acts, v.keep(n)...)
		}
	}
	return true, acts
}

// Passed tells whether an init container ended well.
func Passed(c *Container) bool { return c.Ended() && c.Busy == Idle && c.Current.ExitCode == 0 }

// begun tells whether a main container was started in this sandbox.
func (v View) begun() bool {
	return slices.ContainsFunc(v.Pod.Spec.Containers, func(s core.Container) bool {
		c := v.Containers[s.Name]
		return c != nil && c.Current != nil
	})
}

// Initialized tells whether all init containers are through and sidecars started.
func Initialized(v View) bool {
	done, _ := v.initializing()
	return done
}

// keep brings one container to run, if it shall.
func (v View) keep(n Named) []Action {
	c := v.Containers[n.Name]
	if c == nil {
		c = &Container{}
	}
	switch {
	case c.Busy != Idle || c.Running() || c.Stopped:
		return nil
	case c.NotBefore.After(v.Now):
		return []Action{{Verb: Wait, Container: n.Name, Until: c.NotBefore, Reason: ReasonRetry}}
	case !c.Ended():
		return []Action{{Verb: Start, Container: n.Name, Attempt: c.NextAttempt}}
	case !c.Restart && !Restarts(v.Pod, n, c.Current.ExitCode):
		return nil
	}
	if at := c.Crash.Until(c.Current.FinishedAt); at.After(v.Now) {
		return []Action{{Verb: Wait, Container: n.Name, Until: at, Reason: ReasonCrashLoop, Message: crashText(v.Pod, n.Name, c.Crash.Delay)}}
	}
	return []Action{{Verb: Start, Container: n.Name, Attempt: c.NextAttempt}}
}

func crashText(pod *core.Pod, name string, d time.Duration) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", d, name, Format(pod))
}

// Format names a pod as upstream's messages do: name_namespace(uid).
func Format(pod *core.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// Restarts applies the restart policy of the container and its pod to an exit code.
func Restarts(pod *core.Pod, n Named, exitCode int) bool {
	switch n.Role {
	case Sidecar:
		return true
	case Ephemeral:
		return false
	}
	for _, r := range n.RestartPolicyRules {
		if r.ExitCodes != nil && slices.Contains(r.ExitCodes.Values, int32(exitCode)) == (r.ExitCodes.Operator == core.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := string(pod.Spec.RestartPolicy)
	if n.RestartPolicy != nil {
		policy = string(*n.RestartPolicy)
	}
	switch policy {
	case string(core.RestartPolicyNever):
		return false
	case string(core.RestartPolicyOnFailure):
		return exitCode != 0
	}
	// An init container that ended well is done, whatever the policy says.
	return n.Role != Init || exitCode != 0
}

// unhealthy kills containers that failed a probe or whose spec has changed.
func (v View) unhealthy() []Action {
	var acts []Action
	for _, n := range Specs(v.Pod) {
		c := v.Containers[n.Name]
		if !c.Running() || c.Busy != Idle {
			continue
		}
		a := Action{Verb: Kill, Container: n.Name, Attempt: c.Current.Attempt, Grace: grace(v.Pod)}
		var probe *core.Probe
		switch {
		case c.Current.Hash != "" && c.Current.Hash != Hash(n.Container):
			a.Reason, a.Message, a.Restart = ReasonChanged, fmt.Sprintf("Container %s definition changed", n.Name), true
		case c.Startup == Failure:
			a.Reason, a.Message, probe = ReasonStartup, fmt.Sprintf("Container %s failed startup probe", n.Name), n.StartupProbe
		case c.Liveness == Failure:
			a.Reason, a.Message, probe = ReasonLiveness, fmt.Sprintf("Container %s failed liveness probe", n.Name), n.LivenessProbe
		default:
			continue
		}
		if probe != nil && probe.TerminationGracePeriodSeconds != nil {
			a.Grace = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
		}
		if a.Restart || Restarts(v.Pod, n, -1) {
			a.Restart = true
			a.Message += ", will be restarted"
		}
		acts = append(acts, a)
	}
	return acts
}

// completed tells whether the pod has ended by itself: an init container failed
// for good, or all main containers ended for good.
func (v View) completed() bool {
	over := v.begun()
	done := 0
	for _, n := range Specs(v.Pod) {
		c := v.Containers[n.Name]
		final := c.Ended() && c.Busy == Idle && !c.Restart && (c.Stopped || !Restarts(v.Pod, n, c.Current.ExitCode))
		switch {
		case n.Role == Init && !over && final && c.Current.ExitCode != 0:
			return true
		case n.Role == Main && !final:
			return false
		case n.Role == Main:
			done++
		}
	}
	return done > 0 && done == len(v.Pod.Spec.Containers)
}

func (v View) stopping() []Action {
	return v.finishing(max(0, v.Stop.Deadline.Sub(v.Now)))
}

// finishing ends what runs: the main containers together, then the sidecars,
// last first; past the deadline all at once.
func (v View) finishing(left time.Duration) []Action {
	var acts []Action
	alive := 0
	specs := Specs(v.Pod)
	for _, n := range specs {
		c := v.Containers[n.Name]
		if n.Role == Sidecar || !isAlive(c) {
			continue
		}
		// A pod that ended by itself leaves its debuggers no longer than its sidecars.
		alive++
		acts = append(acts, stop(n, c, left)...)
	}
	for _, n := range slices.Backward(specs) {
		c := v.Containers[n.Name]
		if n.Role != Sidecar || !isAlive(c) {
			continue
		}
		if alive > 0 && left > 0 {
			return acts
		}
		alive++
		acts = append(acts, stop(n, c, left)...)
	}
	if alive == 0 {
		return []Action{{Verb: Finish}}
	}
	return acts
}

func isAlive(c *Container) bool {
	return c != nil && (c.Busy != Idle || c.Current != nil && c.Current.State != engine.Exited)
}

func stop(n Named, c *Container, left time.Duration) []Action {
	if c.Busy != Idle {
		return nil
	}
	return []Action{{Verb: Kill, Container: n.Name, Attempt: c.Current.Attempt, Reason: ReasonStopping, Grace: left}}
}
