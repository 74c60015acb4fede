package containerd

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"orch/runtime/engine"
)

func benchSpec(b *testing.B, e *Engine, id string) engine.Spec {
	return engine.Spec{
		ID: id, Pod: "pod-" + id, Image: "busybox:test", Command: []string{"sh", "-c", polite + `sleep 1000 & wait`},
		LogPath: filepath.Join(e.cfg.Root, "log", id), CgroupPath: cgroupOf(e.cfg.Root, id),
		Security: engine.Security{Seccomp: "RuntimeDefault"}, Namespaces: podNamespaces(b),
	}
}

// podNamespaces are namespaces that exist already, as the agent hands them over.
func podNamespaces(b *testing.B) engine.Namespaces {
	b.Helper()
	benchPod.Do(func() {
		cmd := exec.Command("/bin/busybox", "sleep", "3600")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL,
		}
		must(b, cmd.Start())
		benchPodPID = cmd.Process.Pid
	})
	path := func(ns string) string { return fmt.Sprintf("/proc/%d/ns/%s", benchPodPID, ns) }
	return engine.Namespaces{Network: path("net"), IPC: path("ipc"), UTS: path("uts")}
}

var (
	benchPod    sync.Once
	benchPodPID int
)

func benchEngine(b *testing.B) *Engine {
	e := open(b, testConfig(b))
	busybox(b, e)
	return e
}

// BenchmarkPod is one pod of one container, from Create to gone; what each step
// takes is reported beside.
func BenchmarkPod(b *testing.B) {
	for _, ahead := range []bool{false, true} {
		b.Run(fmt.Sprintf("prepared=%v", ahead), func(b *testing.B) {
			e := benchEngine(b)
			ctx := context.Background()
			var create, start, stop, remove time.Duration
			n := 0
			for b.Loop() {
				n++
				s := benchSpec(b, e, fmt.Sprintf("bench-%v-%d", ahead, n))
				if ahead {
					b.StopTimer()
					if err := e.PreparePod(ctx, s.Pod); err != nil {
						b.Fatal(err)
					}
					time.Sleep(15 * time.Millisecond) // the network is being set up
					b.StartTimer()
				}
				t0 := time.Now()
				must(b, e.Create(ctx, s))
				t1 := time.Now()
				_, err := e.Start(ctx, s.ID)
				must(b, err)
				t2 := time.Now()
				b.StopTimer()
				time.Sleep(20 * time.Millisecond) // the shell sets its trap
				c, err := e.find(s.ID)
				must(b, err)
				b.StartTimer()
				t3 := time.Now()
				must(b, e.Signal(ctx, s.ID, 15, false))
				<-c.exited
				t4 := time.Now()
				must(b, e.Remove(ctx, s.ID))
				t5 := time.Now()
				create, start, stop, remove = create+t1.Sub(t0), start+t2.Sub(t1), stop+t4.Sub(t3), remove+t5.Sub(t4)
			}
			for name, d := range map[string]time.Duration{"create": create, "start": start, "stop": stop, "remove": remove} {
				b.ReportMetric(float64(d.Microseconds())/1000/float64(n), "ms-"+name)
			}
		})
	}
}

// BenchmarkThirtyPods is thirty pods at once, until all run.
func BenchmarkThirtyPods(b *testing.B) {
	e := benchEngine(b)
	ctx := context.Background()
	round := 0
	for b.Loop() {
		round++
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				s := benchSpec(b, e, fmt.Sprintf("thirty-%d-%d", round, i))
				if err := e.Create(ctx, s); err != nil {
					b.Error(err)
					return
				}
				if _, err := e.Start(ctx, s.ID); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		b.StopTimer()
		for i := range 30 {
			wg.Go(func() {
				id := fmt.Sprintf("thirty-%d-%d", round, i)
				c, err := e.find(id)
				if err != nil {
					return
				}
				_ = e.Signal(ctx, id, 9, false)
				<-c.exited
				if err := e.Remove(ctx, id); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		b.StartTimer()
	}
}

// BenchmarkBoot is containerd's start over a store that is there.
func BenchmarkBoot(b *testing.B) {
	c := testConfig(b)
	for b.Loop() {
		e, err := New(c)
		must(b, err)
		b.StopTimer()
		must(b, e.Close())
		b.StartTimer()
	}
}

// BenchmarkExec is `true` in a running container.
func BenchmarkExec(b *testing.B) {
	e := benchEngine(b)
	ctx := context.Background()
	s := benchSpec(b, e, "bench-exec")
	must(b, e.Create(ctx, s))
	_, err := e.Start(ctx, s.ID)
	must(b, err)
	for b.Loop() {
		_, err := e.Exec(ctx, s.ID, engine.ExecSpec{Command: []string{"true"}}, engine.IO{})
		must(b, err)
	}
	c, err := e.find(s.ID)
	must(b, err)
	must(b, e.Signal(ctx, s.ID, 9, false))
	<-c.exited
	must(b, e.Remove(ctx, s.ID))
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
