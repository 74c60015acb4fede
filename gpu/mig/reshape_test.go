package mig

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"orch/gpu/alloc"
	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/share"
)

var rewrite = flag.Bool("rewrite", false, "write what the commands print into the transcript")

// node is a machine whose cards are reshaped, with who holds what.
type node struct {
	t      testing.TB
	player *fakenvml.Player
	held   Held
	ill    map[string]bool
	young  map[string]bool
}

func newNode(t testing.TB, name string, n int) *node {
	rec, err := fakenvml.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	rec = fakenvml.Take(rec, n)
	rec.Processes = nil
	return &node{t: t, player: fakenvml.New(rec), held: Held{}, ill: map[string]bool{}, young: map[string]bool{}}
}

func (n *node) machine() device.Machine { return n.player.Snapshot() }

func (n *node) idle() Idle {
	return Idle{Held: n.held, Usable: func(uuid string) bool {
		d, _ := n.machine().MIGDevice(uuid)
		return !n.ill[uuid] && !n.ill[d.Parent]
	}, Young: func(uuid string) bool { return n.young[uuid] }}
}

// free are the devices that serve a resource and that nobody holds.
func (n *node) free(resource string) (out []string) {
	units, _ := alloc.Offer(n.machine(), share.Config{MIG: share.Mixed})
	for _, u := range units {
		d, part := n.machine().MIGDevice(u.ID)
		if u.Resource == resource && n.held[u.ID] == "" && !n.ill[u.ID] && !(part && n.ill[d.Parent]) {
			out = append(out, u.ID)
		}
	}
	return out
}

// busy tells whether somebody holds the card or a part of it.
func (n *node) busy(g device.GPU) bool {
	return n.held[g.UUID] != "" || slices.ContainsFunc(g.MIGDevices(), func(d device.MIGDevice) bool { return n.held[d.UUID] != "" })
}

// reshape does what is planned, until nothing is left to do; every step must be one that the
// driver takes, on a card that nobody holds.
func (n *node) reshape(demands []Demand) (steps []string, short []Demand) {
	n.t.Helper()
	for range 6 {
		r := Reshape(n.machine(), demands, n.idle())
		if len(r.Plans) == 0 {
			return steps, r.Short
		}
		for _, p := range r.Plans {
			g, _ := n.machine().GPU(p.Card)
			if n.busy(g) || n.ill[p.Card] || n.young[p.Card] || len(r.For[p.Card]) == 0 {
				n.t.Fatalf("card %d is changed: busy %v, ill %v, for %v", g.Index, n.busy(g), n.ill[p.Card], r.For[p.Card])
			}
			for _, s := range p.Steps {
				at := ""
				if s.Op == Create {
					at = fmt.Sprintf(" %s@%d", s.Profile.Name, s.At.Start)
				} else if s.Op == Destroy {
					for _, d := range g.MIGDevices() {
						if d.GI == s.GI {
							at = fmt.Sprintf(" %s@%d", d.Profile, d.Placement.Start)
						}
					}
				}
				steps = append(steps, fmt.Sprintf("GPU %d: %s%s for %s", g.Index, s.Op, at, strings.Join(r.For[p.Card], ", ")))
				if err := do(n.player, p.Card, s); err != nil {
					n.t.Fatalf("%v: %v", steps, err)
				}
			}
		}
	}
	n.t.Fatalf("it goes on and on: %v", steps)
	return nil, nil
}

// TestReshapeProperties: whatever the machine, its holders and the pods that wait: busy cards
// are left alone, the driver takes every step, it ends, what is not short is there, and
// asking again changes nothing.
func TestReshapeProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, name := range []string{"h200-8", "a100-40", "h200-mig", "mixed", "t4"} {
		for range 60 {
			n := newNode(t, name, 1+rng.IntN(4))
			var names []string
			for r := range Potential(n.machine(), n.idle()) {
				names = append(names, r)
			}
			names = append(names, share.GPU, "nvidia.com/mig-9g.999gb")
			slices.Sort(names)
			for round := range 4 {
				for _, g := range n.machine().GPUs {
					n.ill[g.UUID] = rng.IntN(8) == 0
				}
				var demands []Demand
				for i := range rng.IntN(5) {
					demands = append(demands, Demand{Pod: fmt.Sprintf("p%d-%d", round, i), Resource: names[rng.IntN(len(names))], Count: 1 + rng.IntN(3)})
				}
				potential := Potential(n.machine(), n.idle())
				_, short := n.reshape(demands)
				if again, _ := n.reshape(demands); len(again) > 0 {
					t.Fatalf("%s: asked again it did %v", name, again)
				}
				for i, d := range demands {
					if slices.Contains(short, d) {
						if i == 0 && potential[d.Resource] >= d.Count {
							t.Fatalf("%s: %v is short, %v were said to be possible", name, d, potential)
						}
						continue
					}
					free := n.free(d.Resource)
					if len(free) < d.Count {
						t.Fatalf("%s: %v was to be met, %d are free", name, d, len(free))
					}
					for _, id := range free[:d.Count] { // it is bound
						n.held[id] = d.Pod
					}
				}
				for id := range n.held { // some end
					if rng.IntN(3) == 0 {
						delete(n.held, id)
					}
				}
			}
		}
	}
}

// TestReshapeTranscript tells a story; see testdata/reshape.txt.
func TestReshapeTranscript(t *testing.T) {
	const path = "testdata/reshape.txt"
	script, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var n *node
	var out strings.Builder
	waits := []Demand{}
	for line := range strings.Lines(string(script)) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "> ")
		if !ok {
			if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
				out.WriteString(line)
			}
			continue
		}
		fmt.Fprintln(&out, "> "+command)
		f := strings.Fields(command)
		switch f[0] {
		case "machine":
			n = newNode(t, f[1], int(f[2][0]-'0'))
		case "waits": // pod resource count
			waits = append(waits, Demand{f[1], "nvidia.com/" + f[2], int(f[3][0] - '0')})
		case "runs": // what it asks for is there
			i := slices.IndexFunc(waits, func(d Demand) bool { return d.Pod == f[1] })
			for _, id := range n.free(waits[i].Resource)[:waits[i].Count] {
				n.held[id] = f[1]
			}
			waits = slices.Delete(waits, i, i+1)
		case "ends":
			for id, pod := range n.held {
				if pod == f[1] {
					delete(n.held, id)
				}
			}
		case "ill", "well", "young", "old":
			uuid := n.machine().GPUs[f[1][0]-'0'].UUID
			map[string]map[string]bool{"ill": n.ill, "well": n.ill, "young": n.young, "old": n.young}[f[0]][uuid] = f[0] == "ill" || f[0] == "young"
		case "potential":
			fmt.Fprintf(&out, "  %v\n", Potential(n.machine(), n.idle()))
		}
		if f[0] == "machine" || f[0] == "potential" {
			continue
		}
		steps, short := n.reshape(waits)
		for _, s := range steps {
			fmt.Fprintln(&out, "  "+s)
		}
		for _, s := range short {
			fmt.Fprintf(&out, "  short: %s for %s\n", s, s.Pod)
		}
	}
	if out.String() == string(script) {
		return
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the transcript differs; run with -rewrite and read the diff. Got:\n%s", out.String())
}

func BenchmarkPotential(b *testing.B) {
	n := newNode(b, "h200-8", 8)
	for _, g := range n.machine().GPUs { // the dearest case: seven idle instances everywhere
		if _, err := n.player.SetMIGMode(context.Background(), g.UUID, true); err != nil {
			b.Fatal(err)
		}
		for range 7 {
			if _, err := n.player.CreateInstance(context.Background(), g.UUID, 19, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	m := n.machine()
	for b.Loop() {
		Potential(m, n.idle())
	}
}
