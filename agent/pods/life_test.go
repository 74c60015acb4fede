package pods_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/runtime/engine"
	"orch/runtime/fakeengine"
)

const plainPod = `
metadata: {name: web}
spec:
  containers: [{name: a, image: "x:1"}, {name: b, image: "y:1"}]
`

func TestRunsAndGoes(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	r.create(plainPod)
	p := r.await("web", "ready", ready)
	if p.Status.Phase != core.PodRunning || p.Status.PodIP == "" || p.Status.HostIP != "192.0.2.1" || p.Status.StartTime == nil || p.Status.QOSClass != core.PodQOSBestEffort {
		t.Errorf("status: %+v", p.Status)
	}
	for _, c := range p.Status.ContainerStatuses {
		if !strings.HasPrefix(c.ContainerID, "fake://") || c.State.Running == nil || !c.Ready || c.ImageID == "" {
			t.Errorf("container status: %+v", c)
		}
	}
	s, ok := r.pods.Lookup("default", "web")
	if !ok || len(s.Containers) != 2 || s.NetNS == "" || s.Containers[0].State != engine.Running {
		t.Errorf("lookup: %+v", s)
	}
	began := time.Now()
	r.delete("web")
	r.awaitGone("web")
	if d := time.Since(began); d > 15*time.Second { // of a grace period of 30
		t.Errorf("deletion took %v", d)
	}
	if _, ok := r.pods.Lookup("default", "web"); ok {
		t.Log("the worker ends after the object is gone") // it may take a moment
	}
	for _, want := range []string{"Pulled: Container image \"x:1\" already present on machine and can be accessed by the pod", "Created: Container created", "Started: Container started", "Killing: Stopping container a"} {
		if !strings.Contains(r.events.all(), want) {
			t.Errorf("no event %q in\n%s", want, r.events.all())
		}
	}
}

func TestOneStatusWriteToReady(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	var writes atomic.Int32
	if err := r.client.Subscribe(t.Context(), api.Pods.Facts, func(c client.Change) {
		if c.Old != nil && c.New != nil {
			writes.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	r.create(plainPod)
	r.await("web", "ready", ready)
	if n := writes.Load(); n > 2 {
		t.Errorf("%d writes until the pod was ready", n)
	}
}

func TestCrashLoop(t *testing.T) {
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script { return fakeengine.Script{Exits: true, Code: 3} }})
	r.create(`
metadata: {name: crash}
spec: {containers: [{name: a, image: "x:1"}]}`)
	p := r.await("crash", "in CrashLoopBackOff", waitsFor("CrashLoopBackOff"))
	c := p.Status.ContainerStatuses[0]
	if c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 3 || c.LastTerminationState.Terminated.Reason != "Error" || p.Status.Phase != core.PodRunning {
		t.Errorf("status: %+v", c)
	}
	if want := "back-off 10s restarting failed container=a pod=crash_default(" + string(p.UID) + ")"; c.State.Waiting.Message != want {
		t.Errorf("message: %s, want %s", c.State.Waiting.Message, want)
	}
}

// TestProgramThatIsMissing: the runtime finds out while it makes the container; it
// counts as one that was started and ended with 128.
func TestProgramThatIsMissing(t *testing.T) {
	said := fmt.Errorf("failed to create containerd task: no such file: %w", engine.ErrProcess)
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script { return fakeengine.Script{CreateErr: said} }})
	r.create(`
metadata: {name: nothing}
spec: {restartPolicy: Never, containers: [{name: a, image: "x:1"}]}`)
	p := r.await("nothing", "failed", func(p *core.Pod) bool { return p.Status.Phase == core.PodFailed })
	if end := p.Status.ContainerStatuses[0].State.Terminated; end == nil || end.Reason != "StartError" || end.ExitCode != 128 || !strings.Contains(end.Message, said.Error()) {
		t.Errorf("end: %+v", p.Status.ContainerStatuses[0].State)
	}
}

func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		name, policy string
		code         int
		oom          bool
		phase        core.PodPhase
		reason       string
	}{
		{"succeeds", "Never", 0, false, core.PodSucceeded, "Completed"},
		{"fails", "Never", 2, false, core.PodFailed, "Error"},
		{"out of memory", "Never", 137, true, core.PodFailed, "OOMKilled"},
		{"on failure, well", "OnFailure", 0, false, core.PodSucceeded, "Completed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script {
				return fakeengine.Script{Exits: true, Code: tt.code, OOM: tt.oom}
			}})
			r.create(`
metadata: {name: job}
spec: {restartPolicy: ` + tt.policy + `, containers: [{name: a, image: "x:1"}]}`)
			p := r.await("job", string(tt.phase), func(p *core.Pod) bool { return p.Status.Phase == tt.phase })
			end := p.Status.ContainerStatuses[0].State.Terminated
			if end == nil || end.Reason != tt.reason || int(end.ExitCode) != tt.code {
				t.Errorf("end: %+v", p.Status.ContainerStatuses[0].State)
			}
			r.delete("job")
			r.awaitGone("job")
		})
	}
}

func TestInitAndSidecar(t *testing.T) {
	r := newRig(t, fakeengine.Options{Script: fakeengine.ByCommand(map[string]fakeengine.Script{"init": {Exits: true}})})
	r.create(`
metadata: {name: p}
spec:
  initContainers: [{name: i, image: "x:1", command: [init]}, {name: side, image: "x:1", restartPolicy: Always}]
  containers: [{name: a, image: "x:1"}]`)
	p := r.await("p", "ready", ready)
	if i := p.Status.InitContainerStatuses; i[0].State.Terminated == nil || !i[0].Ready || i[1].State.Running == nil || i[1].Started == nil || !*i[1].Started {
		t.Errorf("init: %+v", i)
	}
	r.delete("p")
	r.awaitGone("p")
	var order []string
	for _, l := range strings.Split(r.events.all(), "\n") {
		if _, name, ok := strings.Cut(l, "Stopping container "); ok {
			order = append(order, name)
		}
	}
	if d := cmp.Diff([]string{"a", "side"}, order); d != "" {
		t.Error(d)
	}
}

func TestReadinessAndLiveness(t *testing.T) {
	healthy := make(chan struct{})
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script {
		return fakeengine.Script{Exec: func(_ context.Context, s engine.ExecSpec, _ engine.IO) (int, error) {
			select {
			case <-healthy:
				return 0, nil
			default:
				return 1, nil
			}
		}}
	}})
	r.create(`
metadata: {name: p}
spec:
  containers: [{name: a, image: "x:1", readinessProbe: {exec: {command: [check]}, periodSeconds: 1}}]`)
	r.await("p", "running", func(p *core.Pod) bool { return p.Status.Phase == core.PodRunning && !ready(p) })
	close(healthy)
	r.await("p", "ready", ready)
	r.create(`
metadata: {name: dying}
spec:
  containers: [{name: a, image: "x:1", livenessProbe: {tcpSocket: {port: 1, host: 127.0.0.1}, periodSeconds: 1, failureThreshold: 1}}]`)
	p := r.await("dying", "restarted", func(p *core.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if p.Status.ContainerStatuses[0].LastTerminationState.Terminated == nil {
		t.Error("no last state")
	}
	if want := "Killing: Container a failed liveness probe, will be restarted"; !strings.Contains(r.events.all(), want) {
		t.Errorf("no event %q in %s", want, r.events.all())
	}
}

func TestImageErrors(t *testing.T) {
	r := newRig(t, fakeengine.Options{OnlyImages: true, Pull: func(string, []engine.Auth) error { return errors.New("manifest unknown") }})
	for name, want := range map[string]string{"pull": "ErrImagePull", "never": "ErrImageNeverPull", "bad": "InvalidImageName"} {
		img := map[string]string{"pull": "x:1", "never": "x:1", "bad": "X/Y:1"}[name]
		policy := map[string]string{"pull": "IfNotPresent", "never": "Never", "bad": "IfNotPresent"}[name]
		r.create(`
metadata: {name: ` + name + `}
spec: {containers: [{name: a, image: "` + img + `", imagePullPolicy: ` + policy + `}]}`)
		r.await(name, want, waitsFor(want))
	}
	r.await("pull", "ImagePullBackOff", waitsFor("ImagePullBackOff"))
	r.delete("pull")
	r.awaitGone("pull")
}

// TestImageComesWithoutAPull: a pod whose image lay in the node's folder and was just being
// imported asked a registry, failed, and looked again after ten seconds.
func TestImageComesWithoutAPull(t *testing.T) {
	pulls := make(chan string, 8)
	r := newRig(t, fakeengine.Options{OnlyImages: true, Pull: func(ref string, _ []engine.Auth) error {
		pulls <- ref
		return errors.New("no route to host")
	}})
	came := func(ref string) {
		if _, err := r.engine.Images().Import(context.Background(), strings.NewReader(ref), true); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	step := make(chan struct{})
	r.deps.Puller.Arrivals = func(ctx context.Context, enough func() bool) {
		select {
		case <-step:
		case <-ctx.Done():
		}
		if !enough() {
			t.Error("the image is there")
		}
	}
	r.start()
	r.create("metadata: {name: early}\nspec: {containers: [{name: a, image: 'x:1'}]}")
	came("x:1")
	close(step)
	r.await("early", "ready", ready)
	r.stop()
	r.deps.Puller.Arrivals = nil
	r.start()
	r.create("metadata: {name: late}\nspec: {containers: [{name: a, image: 'y:1'}]}")
	r.await("late", "ImagePullBackOff", waitsFor("ImagePullBackOff"))
	came("y:1")
	r.pods.ImagesCame()
	r.await("late", "ready", ready) // long before the ten seconds are over
	if got := <-pulls; got != "y:1" || len(pulls) > 0 {
		t.Errorf("pulled %s and %d more", got, len(pulls))
	}
}

// TestImageVolumes: volumes of type image stopped a pod before its first container.
func TestImageVolumes(t *testing.T) {
	r := newRig(t, fakeengine.Options{Images: []string{"x:1", "data:1"}, Pull: func(string, []engine.Auth) error { return errors.New("manifest unknown") }})
	mount := func(name, image, mount string) {
		r.create(`
metadata: {name: ` + name + `}
spec:
  containers: [{name: a, image: "x:1", volumeMounts: [` + mount + `]}]
  volumes: [{name: v, image: {reference: "` + image + `"}}]`)
	}
	mount("good", "data:1", "{name: v, mountPath: /v, subPath: etc}")
	p := r.await("good", "ready", ready)
	s, _ := r.engine.Spec(strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "fake://"))
	img, err := r.engine.Images().Resolve(t.Context(), "data:1")
	if i := slices.IndexFunc(s.Mounts, func(m engine.Mount) bool { return m.Target == "/v" }); err != nil || i < 0 || !s.Mounts[i].ReadOnly || s.Mounts[i].Source != "/images/"+img.ID+"/etc" {
		t.Errorf("mounts: %v %v", s.Mounts, err)
	}
	mount("unused", "none:1", "")
	r.await("unused", "ready", ready)
	mount("missing", "none:1", "{name: v, mountPath: /v}")
	p = r.await("missing", "ImagePullBackOff", waitsFor("ImagePullBackOff"))
	if m := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(m, `"none:1"`) {
		t.Errorf("it waits for %q", m)
	}
	if told := r.events.all(); !strings.Contains(told, `missing  Warning Failed: Failed to pull image "none:1"`) {
		t.Errorf("events:\n%s", told)
	}
	mount("part", "data:1", "{name: v, mountPath: /v, subPath: absent}")
	r.await("part", "CreateContainerError", waitsFor("CreateContainerError"))
}

func TestConfigComesLate(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	r.create(`
metadata: {name: p}
spec: {containers: [{name: a, image: "x:1", envFrom: [{configMapRef: {name: c}}]}]}`)
	p := r.await("p", "CreateContainerConfigError", waitsFor("CreateContainerConfigError"))
	if m := p.Status.ContainerStatuses[0].State.Waiting.Message; m != `configmap "c" not found` {
		t.Errorf("message %q", m)
	}
	must(t, client.Create[core.ConfigMap], t.Context(), r.client, api.ConfigMaps, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}, Data: map[string]string{"K": "v"}})
	p = r.await("p", "ready", ready)
	s, _ := r.engine.Spec(strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "fake://"))
	if len(s.Env) == 0 || s.Env[0] != "K=v" {
		t.Errorf("env: %v", s.Env)
	}
}

func TestNetworkFailsAtFirst(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	r.net.fail(errors.New("no addresses left"))
	r.create(plainPod)
	r.await("web", "creating", waitsFor("ContainerCreating"))
	r.net.fail(nil)
	r.await("web", "ready", ready)
	if !strings.Contains(r.events.all(), "FailedCreatePodSandBox: Failed to create pod sandbox: setting up the pod's network: no addresses left") {
		t.Error(r.events.all())
	}
}

func TestPreStopAndGrace(t *testing.T) {
	var hooked bool
	r := newRig(t, fakeengine.Options{Script: func(engine.Spec) fakeengine.Script {
		return fakeengine.Script{IgnoreTerm: true, Exec: func(context.Context, engine.ExecSpec, engine.IO) (int, error) { hooked = true; return 0, nil }}
	}})
	r.create(`
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 3
  containers: [{name: a, image: "x:1", lifecycle: {preStop: {exec: {command: [bye]}}}}]`)
	r.await("p", "ready", ready)
	began := time.Now()
	r.delete("p")
	r.awaitGone("p")
	if d := time.Since(began); d < 2*time.Second || d > 20*time.Second { // 30 would be the default
		t.Errorf("took %v", d)
	}
	if !hooked {
		t.Error("preStop did not run")
	}
}

// TestRestart ends the agent under running pods: same containers, same addresses.
func TestRestart(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	r.create(plainPod)
	r.create(`
metadata: {name: gone}
spec: {containers: [{name: a, image: "x:1"}]}`)
	before := r.await("web", "ready", ready)
	r.await("gone", "ready", ready)
	calls := len(r.engine.Calls())
	r.stop()
	r.delete("gone")
	if err := client.Delete(t.Context(), r.client, api.Pods, "default", "gone", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	r.start()
	after, err := client.Get(t.Context(), r.client, api.Pods, "default", "web")
	if err != nil {
		t.Fatal(err)
	}
	// Something that happens after the take-over shows that nothing was restarted.
	r.create(`
metadata: {name: later}
spec: {containers: [{name: a, image: "x:1"}]}`)
	r.await("later", "ready", ready)
	after = r.await("web", "ready", ready)
	if d := cmp.Diff(before.Status, after.Status); d != "" {
		t.Error(d)
	}
	left := 0
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		list, err := r.engine.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if left = len(list); left == 3 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if left != 3 {
		t.Errorf("%d containers, want those of web and later; calls since: %v", left, r.engine.Calls()[calls:])
	}
}

func TestThirtyAtOnce(t *testing.T) {
	r := newRig(t, fakeengine.Options{})
	began := time.Now()
	var names []string
	for i := range 30 {
		name := "p" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		names = append(names, name)
		r.create(`
metadata: {name: ` + name + `}
spec: {containers: [{name: a, image: "x:1"}]}`)
	}
	for _, n := range names {
		r.await(n, "ready", ready)
	}
	t.Logf("30 pods ready in %v", time.Since(began))
}
