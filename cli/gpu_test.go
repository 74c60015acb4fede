package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/gpu/device"
	"orch/gpu/fakenvml"
	"orch/gpu/report"
)

// gpuCluster is a server with two nodes: gpubox has the cards of a recording, plain has
// none, and a third one that does not answer.
type gpuCluster struct {
	rec  device.Recording
	pods []core.Pod
}

func (g gpuCluster) report() report.Report {
	card := g.rec.Machine.GPUs[0].UUID
	in := report.Input{Node: "gpubox", Machine: g.rec.Machine, Figures: g.rec.Figures, Holders: map[string][]report.Holder{}, Offers: map[string]report.Offer{}}
	in.Holders[card] = []report.Holder{{Namespace: "ml", Pod: "train", UID: "u1", Container: "main", Resource: "nvidia.com/gpu", Device: card}}
	in.Troubles = []report.Trouble{{UUID: g.rec.Machine.GPUs[1].UUID, GI: -1, State: "Draining", Sentence: "GPU 1 has XID 79: reboot the node"}}
	in.Resources = []report.Resource{{Name: "nvidia.com/gpu", Capacity: 8, Allocatable: 7, Held: 1}}
	return report.Of(in)
}

func (g gpuCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node := func(name string) core.Node {
		n := core.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Conditions = []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue}}
		if name == "gpubox" {
			n.Status.Allocatable = core.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(7, resource.DecimalSI)}
		}
		return n
	}
	var answer any
	switch r.URL.Path {
	case "/api/v1/nodes":
		answer = core.NodeList{Items: []core.Node{node("gpubox"), node("plain"), node("silent")}}
	case "/api/v1/pods":
		answer = core.PodList{Items: g.pods}
	case "/api/v1/nodes/gpubox/proxy" + report.Path:
		answer = g.report()
	case "/api/v1/nodes/plain/proxy" + report.Path:
		answer = report.Of(report.Input{Node: "plain"})
	case "/api/v1/nodes/gpubox/proxy" + report.RecordPath:
		_, _ = g.rec.WriteTo(w)
		return
	default:
		for _, p := range g.pods {
			if r.URL.Path == "/api/v1/namespaces/"+p.Namespace+"/pods/"+p.Name {
				answer = p
			}
		}
	}
	if answer == nil {
		w.WriteHeader(http.StatusNotFound)
		answer = metav1.Status{Message: r.URL.Path + " is not there"}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// gpuRun runs a command against the cluster.
func gpuRun(t *testing.T, g http.Handler, args ...string) (out string, code int) {
	t.Helper()
	s := httptest.NewServer(g)
	defer s.Close()
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text := "current-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: '" + s.URL + "'}}]\nusers: [{name: u, user: {token: t}}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return gpuMain(t, append(args, "--kubeconfig", config)...)
}

func gpuMain(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var b bytes.Buffer
	p := Program{Stdout: &b, Stderr: &b, Server: func() Part { return noPart{} }, Agent: func() Part { return noPart{} }}
	code := Main(t.Context(), p, append([]string{"orch"}, args...))
	return b.String(), code
}

func newGPUCluster(t *testing.T) gpuCluster {
	t.Helper()
	rec, err := fakenvml.Load("h100-8")
	if err != nil {
		t.Fatal(err)
	}
	return gpuCluster{rec: rec}
}

func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in:\n%s", p, text)
		}
	}
}

func TestGPUStatusAndTop(t *testing.T) {
	g := newGPUCluster(t)
	out, code := gpuRun(t, g, "gpu", "status", "-o", "wide")
	if code != 0 {
		t.Errorf("code %d", code)
	}
	says(t, out, "NODE", "HELD BY", "ml/train/main", "Draining", "GPU 1 has XID 79: reboot the node", g.rec.Machine.GPUs[7].UUID, "node silent does not say: /api/v1/nodes/silent/proxy/gpu/status is not there")
	out, _ = gpuRun(t, g, "gpu", "status", "gpubox", "-o", "json")
	var list struct{ Nodes []report.Report }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Nodes) != 1 || len(list.Nodes[0].Cards) != 8 {
		t.Errorf("%v: %s", err, out)
	}
	out, code = gpuRun(t, g, "top", "gpu", "gpubox", "--sort-by", "memory")
	if code != 0 || strings.Count(out, "\n") != 9 {
		t.Errorf("code %d:\n%s", code, out)
	}
	says(t, out, "MEMORY%", "POWER")
	for name, c := range map[string]struct {
		args []string
		want string
		code int
	}{
		"no card":    {[]string{"gpu", "status", "plain"}, "there is no NVIDIA GPU on the node", 0},
		"no node":    {[]string{"gpu", "status", "other"}, `there is no node "other"`, 1},
		"no answer":  {[]string{"gpu", "status", "silent"}, "no node answers", 1},
		"format":     {[]string{"gpu", "status", "-o", "xml"}, "--output \"xml\": it may be wide, json, yaml", 2},
		"sort":       {[]string{"top", "gpu", "--sort-by", "name"}, "it may be utilization or memory", 2},
		"which node": {[]string{"gpu", "record"}, "there are 3 nodes: name the one to record", 2},
	} {
		out, code := gpuRun(t, g, c.args...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: code %d: %s", name, code, out)
		}
	}
}

func TestGPURecord(t *testing.T) {
	g := newGPUCluster(t)
	file := filepath.Join(t.TempDir(), "machine.json")
	out, code := gpuRun(t, g, "gpu", "record", "gpubox", "-f", file)
	says(t, out, "wrote "+file, "8 cards")
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(code, err)
	}
	defer f.Close()
	if rec, err := device.ReadRecording(f); err != nil || len(rec.Machine.GPUs) != 8 {
		t.Error(err)
	}
}

func TestGPUDoctor(t *testing.T) {
	g := newGPUCluster(t)
	pod := func(name, node string, n int64) core.Pod {
		p := core.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ml", Name: name, UID: "u1"}}
		p.Spec.NodeName = node
		c := core.Container{Name: "main"}
		if n > 0 {
			c.Resources.Limits = core.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(n, resource.DecimalSI)}
		}
		p.Spec.Containers = []core.Container{c}
		p.Status.Phase = core.PodRunning
		return p
	}
	g.pods = []core.Pod{pod("train", "gpubox", 1), pod("none", "gpubox", 0), pod("seven", "", 7), pod("nine", "", 9)}
	out, code := gpuRun(t, g, "gpu", "doctor", "--node", "gpubox")
	if code != 1 {
		t.Errorf("code %d although a card is sick", code)
	}
	says(t, out, "ok       driver", "FAILED   cards        GPU 1", "-> GPU 1 has XID 79: reboot the node", "nvidia.com/gpu 7 of 8", "held: 1 of 7 nvidia.com/gpu")
	for name, want := range map[string]string{
		"ml/train": "container main holds GPU 0", "ml/none": "no container asks for a GPU",
		"ml/seven": "Insufficient nvidia.com/gpu: 6 of 7 are free, the pod asks for 7; they are held by ml/train",
		"ml/nine":  "it has 8 nvidia.com/gpu in all, the pod asks for 9",
	} {
		out, _ := gpuRun(t, g, "gpu", "doctor", name)
		says(t, out, want)
	}
	g.pods = nil
	out, _ = gpuRun(t, g, "gpu", "doctor", "--node", "gpubox")
	says(t, out, "is held for pod ml/train, which is gone")
	out, code = gpuRun(t, g, "gpu", "doctor", "--node", "plain")
	if code != 0 {
		t.Errorf("a node without cards fails: %s", out)
	}
}

// TestGPUOnTheNodeItself: a node that joined has no kubeconfig; its agent answers.
func TestGPUOnTheNodeItself(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	socket := filepath.Join(t.TempDir(), "s")
	out, code := gpuMain(t, "gpu", "status", "--socket", socket)
	if code != 1 {
		t.Error(code)
	}
	says(t, out, "no agent listens at "+socket)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := newGPUCluster(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(g.report()) })}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	out, code = gpuMain(t, "gpu", "status", "--socket", socket)
	if code != 0 {
		t.Error(code)
	}
	says(t, out, "gpubox", "ml/train/main")
	out, _ = gpuMain(t, "gpu", "doctor", "--socket", socket)
	says(t, out, "node gpubox", "FAILED   cards")
}

// noPart is a server or an agent that is not run here.
type noPart struct{}

func (noPart) AddFlags(*pflag.FlagSet)   {}
func (noPart) Run(context.Context) error { return nil }

// TestPartsAreShown: how much of a card each container has, and what keeps it within that.
func TestPartsAreShown(t *testing.T) {
	u := report.Unit{Holders: []report.Holder{
		{Namespace: "ml", Pod: "chat", Container: "main", Share: "3000 MiB", Enforced: "Watchdog"}, {Namespace: "ml", Pod: "train", Container: "main", Share: "4000 MiB", Enforced: "Watchdog"},
	}}
	if s := sharing(u); s != "parts: 2" {
		t.Error(s)
	}
	if s := sharing(report.Unit{Holders: []report.Holder{{Pod: "a", Share: "16384 MiB", Enforced: "MIG"}}}); s != "-" {
		t.Error("a MIG device, which its pod has for itself, is said to be in", s)
	}
	if s := heldBy(u, false); s != "ml/chat/main,ml/train/main" {
		t.Error(s)
	}
	if s := heldBy(u, true); s != "ml/chat/main (3000 MiB, Watchdog),ml/train/main (4000 MiB, Watchdog)" {
		t.Error(s)
	}
}
