package plan

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"orch/runtime/engine"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected output in testdata")

// TestTranscripts plays testdata/*.txt: a pod, then steps; the text behind "->"
// is what the plan says after each step. `go test -rewrite` renews it.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

func play(t *testing.T, text string) string {
	head, steps, ok := strings.Cut(text, "\n----\n")
	if !ok {
		t.Fatal("no ---- between pod and steps")
	}
	env := newEnv(t, head)
	var out bytes.Buffer
	out.WriteString(head + "\n----\n")
	for line := range strings.Lines(steps) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  -> ") {
			continue
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		env.step(strings.Fields(line))
		for _, a := range env.plan() {
			out.WriteString("  -> " + a.String() + "\n")
		}
	}
	return out.String()
}

type env struct {
	t *testing.T
	v View
}

func newEnv(t *testing.T, head string) *env {
	pod := &core.Pod{}
	if err := yaml.UnmarshalStrict([]byte(head), pod); err != nil {
		t.Fatal(err)
	}
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = core.RestartPolicyAlways
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &env{t, View{Pod: pod, Now: now, StartTime: now, Containers: map[string]*Container{}}}
}

func (e *env) container(name string) *Container {
	if _, ok := Find(e.v.Pod, name); !ok {
		e.t.Fatalf("no container %q", name)
	}
	if e.v.Containers[name] == nil {
		e.v.Containers[name] = &Container{}
	}
	return e.v.Containers[name]
}

func (e *env) step(w []string) {
	arg := func(i int) string {
		if i >= len(w) {
			e.t.Fatalf("step %v: too few words", w)
		}
		return w[i]
	}
	switch w[0] {
	case "begin":
	case "advance":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			e.t.Fatal(err)
		}
		e.v.Now = e.v.Now.Add(d)
	case "running":
		c := e.container(arg(1))
		c.Busy, c.Current.State, c.Current.StartedAt, c.Current.Hooked = Idle, engine.Running, e.v.Now, true
	case "exit":
		code, err := strconv.Atoi(arg(2))
		if err != nil {
			e.t.Fatal(err)
		}
		c := e.container(arg(1))
		c.Busy, c.Current.State, c.Current.FinishedAt, c.Current.ExitCode = Idle, engine.Exited, e.v.Now, code
	case "failed":
		c := e.container(arg(1))
		c.Busy, c.Current, c.StartDelay = Idle, nil, Grow(c.StartDelay)
		c.NotBefore = e.v.Now.Add(c.StartDelay)
	case "probe":
		c := e.container(arg(1))
		switch r := Result(arg(3)); arg(2) {
		case "startup":
			c.Startup = r
		case "liveness":
			c.Liveness = r
		case "readiness":
			c.Readiness = r
		}
	case "image":
		for i := range e.v.Pod.Spec.Containers {
			if c := &e.v.Pod.Spec.Containers[i]; c.Name == arg(1) {
				c.Image = arg(2)
			}
		}
	case "stop":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			e.t.Fatal(err)
		}
		e.v.Stop = &Stop{Deadline: e.v.Now.Add(d)}
	default:
		e.t.Fatalf("unknown step %q", w[0])
	}
}

// plan asks, and takes the actions as begun, as the worker does.
func (e *env) plan() []Action {
	acts := Plan(e.v)
	for _, a := range acts {
		switch a.Verb {
		case Start:
			c := e.container(a.Container)
			if c.Ended() {
				c.Crash = c.Crash.Next(e.v.Now)
				c.Last = c.Current
			}
			n, _ := Find(e.v.Pod, a.Container)
			c.Current = &Instance{ID: fmt.Sprint(a.Container, a.Attempt), Attempt: a.Attempt, State: engine.Created, Hash: Hash(n.Container)}
			c.Busy, c.Restart, c.NextAttempt = Starting, false, a.Attempt+1
			c.Startup, c.Liveness, c.Readiness = Unknown, Unknown, Unknown
		case Kill:
			c := e.container(a.Container)
			c.Busy, c.Restart = Killing, a.Restart
		case End:
			e.v.Stop = &Stop{Deadline: e.v.Now.Add(30 * time.Second), Reason: a.Reason}
		}
	}
	return acts
}
