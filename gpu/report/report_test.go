package report

import (
	"encoding/json"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
)

// TestEveryMachine: the report of any machine names every card and device once, has a JSON
// form that reads back, and the doctor has no complaint about a machine that is well.
func TestEveryMachine(t *testing.T) {
	for _, name := range fakenvml.Names() {
		rec, err := fakenvml.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		r := Of(Input{Node: name, Machine: rec.Machine, Figures: rec.Figures})
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range rec.Machine.GPUs {
			if n := strings.Count(string(b), `"`+g.UUID+`"`); n != 1 {
				t.Errorf("%s: %s is named %d times", name, g.UUID, n)
			}
			for _, d := range g.MIGDevices() {
				if !strings.Contains(string(b), d.UUID) {
					t.Errorf("%s: %s is missing", name, d.UUID)
				}
			}
		}
		n := Node{Object: &core.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, Report: &r}
		if c := ExamineAlone(n); c.Failing() {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestTroubleOfACardIsItsParts: what ails a card ails its MIG devices, and what ails one
// device not the others.
func TestTroubleOfACardIsItsParts(t *testing.T) {
	rec, err := fakenvml.Load("h200-mig")
	if err != nil {
		t.Fatal(err)
	}
	g := rec.Machine.GPUs[0]
	first := g.MIGDevices()[0]
	r := Of(Input{Machine: rec.Machine, Troubles: []Trouble{{UUID: g.UUID, GI: first.GI, State: "Suspect", Sentence: "a doubt"}}})
	for _, d := range r.Cards[0].Devices {
		if ill := d.UUID == first.UUID; (d.Health == "Suspect") != ill {
			t.Errorf("%s is %s", d.UUID, d.Health)
		}
	}
	r = Of(Input{Machine: rec.Machine, Troubles: []Trouble{{UUID: g.UUID, GI: -1, State: "Failed", Sentence: "worn out"}}})
	for _, d := range r.Cards[0].Devices {
		if d.Health != "Failed" || d.Sentence != "worn out" {
			t.Errorf("%s is %s", d.UUID, d.Health)
		}
	}
	c := ExamineAlone(Node{Object: &core.Node{}, Report: &r})
	if n := len(c.Links); !c.Failing() || n != 3 {
		t.Errorf("one failing card makes %d links: %+v", n, c.Links)
	}
}

func TestDriverFindingsSplitIntoWhatAndAct(t *testing.T) {
	r := Of(Input{Findings: []Finding{{"ModuleNotLoaded", `the module is not loaded: run "modprobe nvidia"`, true}}, Machine: device.Machine{GPUs: []device.GPU{{UUID: "GPU-1"}}},
		Holders: map[string][]Holder{"GPU-2": {{Namespace: "a", Pod: "b", Device: "GPU-2"}}}})
	c := ExamineAlone(Node{Object: &core.Node{}, Report: &r})
	if l := c.Links[0]; l.State != Bad || l.Text != "ModuleNotLoaded: the module is not loaded" || l.Act != `run "modprobe nvidia"` {
		t.Errorf("%+v", l)
	}
	if l := c.Links[len(c.Links)-1]; l.Name != "ledger" || l.State != Bad || !strings.Contains(l.Text, "does not have any more") {
		t.Errorf("%+v", l)
	}
}

// TestAdviceForPodsThatWait: a pod whose claim or part of a card is short was told to look
// at nodes, of which none were shown.
func TestAdviceForPodsThatWait(t *testing.T) {
	rec, err := fakenvml.Load("h100")
	if err != nil {
		t.Fatal(err)
	}
	r := Of(Input{Node: "n", Machine: rec.Machine, Figures: rec.Figures})
	nodes := []Node{{Object: &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: core.NodeStatus{Allocatable: core.ResourceList{"nvidia.com/gpumem": resource.MustParse("81559")}}}, Report: &r}}
	limits := func(name string) core.PodSpec {
		return core.PodSpec{Containers: []core.Container{{Resources: core.ResourceRequirements{Limits: core.ResourceList{core.ResourceName(name): resource.MustParse("99")}}}}}
	}
	for want, spec := range map[string]core.PodSpec{
		"kubectl describe resourceclaim": {ResourceClaims: []core.PodResourceClaim{{Name: "c", ResourceClaimName: new("big")}}},
		"ask for less of a card":         limits("nvidia.com/gpumem"),
		"look at the nodes below":        limits("nvidia.com/gpu"),
		"the nodes below":                limits("nvidia.com/gpucores"), // which the node does not have
	} {
		c := ExaminePod(&core.Pod{Spec: spec}, nodes)
		if len(c.Links) < 2 || !strings.Contains(c.Links[1].Act, want) {
			t.Errorf("want %q: %+v", want, c.Links)
		}
		if below := len(c.Links) > 2; below != strings.Contains(want, "below") {
			t.Errorf("%q, but the nodes are %+v", want, c.Links)
		}
	}
}
