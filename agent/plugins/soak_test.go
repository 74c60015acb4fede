package plugins

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"orch/agent/plugins/fakeplugin"
)

func thousand() []string {
	var ids []string
	for i := range 1000 {
		ids = append(ids, fmt.Sprintf("dev-%03d", i))
	}
	return ids
}

// held fails when a device is held twice.
func (r *rig) held() (n int) {
	r.t.Helper()
	seen := map[string]string{}
	for _, h := range r.ledger.Holdings() {
		for _, id := range h.IDs {
			if by := seen[id]; by != "" {
				r.t.Fatalf("%s is held by %s and %s", id, by, h.Pod)
			}
			seen[id] = h.Pod
			n++
		}
	}
	return n
}

func TestThousandDevices(t *testing.T) {
	r := newRig(t).start()
	r.plugin(amdLike(thousand()...))
	r.has(amdGPU, 1000, 1000)
	began := time.Now()
	for i := range 100 {
		if _, err := r.take(pod(fmt.Sprint("p", i), amdGPU, 10)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("100 pods of 10 devices each: %v", time.Since(began))
	if n := r.held(); n != 1000 {
		t.Errorf("%d are held", n)
	}
	if _, err := r.take(pod("more", amdGPU, 1)); err == nil {
		t.Error("a device too many was given")
	}
}

// TestNoDeviceTwice lives through pods, flapping health, plugins that die and come back,
// and restarts of orch at any step of a pod's start.
func TestNoDeviceTwice(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t).start()
	ids := thousand()[:12]
	p := amdLike(ids...)
	kill := r.plugin(p)
	r.has(amdGPU, 12, 12)
	live := map[types.UID]*core.Pod{}
	for i := range 150 {
		switch rnd.IntN(8) {
		case 0, 1, 2, 3:
			q := pod(fmt.Sprint("p", i), amdGPU, 1+rnd.IntN(2), rnd.IntN(2))
			if r.ledger.Admit(q) != nil {
				break
			}
			if rnd.IntN(4) == 0 { // killed before the plugin was asked
				r.again()
			}
			if r.ledger.Prepare(t.Context(), q) != nil {
				if err := r.ledger.Release(q.UID); err != nil {
					t.Fatal(err)
				}
				break
			}
			live[q.UID] = q
		case 4, 5:
			for uid := range live {
				delete(live, uid)
				if err := r.ledger.Release(uid); err != nil {
					t.Fatal(err)
				}
				break
			}
		case 6:
			list := fakeplugin.Devices(ids...)
			list[rnd.IntN(len(list))].Health = api.Unhealthy
			p.Set(list)
		case 7:
			kill()
			p = amdLike(ids...)
			kill = r.plugin(p)
			r.has(amdGPU, 12, 12)
		}
		r.held()
		for _, h := range r.ledger.Holdings() {
			if live[h.UID] == nil {
				t.Fatalf("%s is gone and holds %v", h.UID, h.IDs)
			}
		}
	}
}

// BenchmarkPodOfThousand is what devices cost a pod's start, with a plugin that has 1,000.
func BenchmarkPodOfThousand(b *testing.B) {
	r := newRig(b).start()
	r.plugin(amdLike(thousand()...))
	r.has(amdGPU, 1000, 1000)
	p := pod("a", amdGPU, 1)
	for b.Loop() {
		if _, err := r.take(p); err != nil {
			b.Fatal(err)
		}
		if err := r.ledger.Release("a"); err != nil {
			b.Fatal(err)
		}
	}
}
