package placement

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

var rewrite = flag.Bool("rewrite", false, "write what the commands print into the transcripts")

// TestTranscripts runs testdata/*.txt: a command line, indented YAML under it (a
// part of the object), and what it prints behind "> ". Commands:
//
//	node NAME [cpu=4] [memory=8Gi] [pods=110] [RESOURCE=N] [label.K=V] [taint=K=V:EFFECT] [image=NAME:BYTES]
//	pod NAME [on=NODE] [cpu=1] [memory=1Gi] [RESOURCE=N] [priority=N] [port=N] [label.K=V]   (YAML: the spec)
//	remove NAME         (a pod)
//	gpus NODE MACHINE [strategy=mixed] [dynamic=yes] [taint=CARD]   publishes a machine of the catalogue
//	slice NAME, rule NAME, claim NAME   (YAML: the spec)
//	class NAME EXPRESSION...    [resource=NAME]
//	free NAME           (a claim's devices)
//	place NAME          decides and binds
//	preempt NAME        names victims
func TestTranscripts(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no transcripts")
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(in))
			if *rewrite {
				os.WriteFile(f, []byte(got), 0o644)
			} else if got != string(in) {
				t.Errorf("the transcript differs; run with -rewrite and read the diff. Got:\n%s", got)
			}
		})
	}
}

type player struct {
	*testing.T
	c    *Cluster
	pods map[string]*core.Pod
	// places of GPUs on their machines, by UUID
	places map[string]string
	out    strings.Builder
}

func play(t *testing.T, in string) string {
	p := &player{T: t, c: NewCluster(), pods: map[string]*core.Pod{}, places: map[string]string{}}
	p.c.SetNamespace("default", labels.Set{"kubernetes.io/metadata.name": "default"})
	lines := strings.Split(strings.TrimSuffix(in, "\n"), "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		i++
		if strings.HasPrefix(line, "> ") {
			continue
		}
		p.out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var body []string
		for ; i < len(lines) && strings.HasPrefix(lines[i], "  "); i++ {
			body = append(body, lines[i])
			p.out.WriteString(lines[i] + "\n")
		}
		words := strings.Fields(line)
		p.do(words[0], words[1], words[2:], strings.Join(body, "\n"))
	}
	return p.out.String()
}

func (p *player) printf(format string, args ...any) { fmt.Fprintf(&p.out, "> "+format+"\n", args...) }

func (p *player) do(verb, name string, args []string, body string) {
	switch verb {
	case "node":
		p.c.SetNode(p.node(name, args, body))
	case "pod":
		pod, on := p.pod(name, args, body)
		p.pods[name] = pod
		if on != "" {
			p.c.AddPod(NewPod(pod), on)
		}
	case "remove":
		p.c.RemovePod(types.UID(name))
	case "gpus", "slice", "rule", "claim", "class", "free":
		p.devices(verb, name, args, body)
	case "place":
		pod := NewPod(p.pods[name])
		d := p.c.Place(pod, func(int) int { return 0 })
		for _, s := range d.Scores {
			p.printf("%s %d", s.Node, s.Total)
		}
		if d.Node == "" {
			p.printf("%s helpless %d", d.Message(), d.Helpless)
			for _, c := range d.Unavailable {
				p.printf("unavailable %s", c.Name)
			}
			return
		}
		p.printf("-> %s", d.Node)
		p.granted(pod, d)
		p.c.AddPod(pod.With(d.Units), d.Node)
	case "preempt":
		d := p.c.Preempt(NewPod(p.pods[name]), func(v *Pod) bool { return v.Labels["protected"] != "" })
		var victims []string
		for _, v := range d.Victims {
			victims = append(victims, v.Name)
		}
		p.printf("on %q victims %v", d.Node, victims)
	default:
		p.Fatalf("unknown command %s", verb)
	}
}

func (p *player) node(name string, args []string, body string) *core.Node {
	n := &core.Node{}
	if err := yaml.UnmarshalStrict([]byte(body), n); err != nil {
		p.Fatal(err)
	}
	n.Name = name
	n.Labels = map[string]string{"kubernetes.io/hostname": name}
	n.Status.Allocatable = core.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("110")}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		switch {
		case strings.HasPrefix(k, "label."):
			n.Labels[k[len("label."):]] = v
		case k == "taint":
			kv, effect, _ := strings.Cut(v, ":")
			tk, tv, _ := strings.Cut(kv, "=")
			n.Spec.Taints = append(n.Spec.Taints, core.Taint{Key: tk, Value: tv, Effect: core.TaintEffect(effect)})
		case k == "image":
			i := strings.LastIndex(v, ":")
			size := resource.MustParse(v[i+1:])
			n.Status.Images = append(n.Status.Images, core.ContainerImage{Names: []string{v[:i]}, SizeBytes: size.Value()})
		default:
			n.Status.Allocatable[core.ResourceName(k)] = resource.MustParse(v)
		}
	}
	return n
}

func (p *player) pod(name string, args []string, body string) (*core.Pod, string) {
	pod := &core.Pod{}
	if err := yaml.UnmarshalStrict([]byte(body), &pod.Spec); err != nil {
		p.Fatal(err)
	}
	pod.Name, pod.Namespace, pod.UID, pod.Labels = name, "default", types.UID(name), map[string]string{}
	container := core.Container{Name: "c", Image: "app:1", Resources: core.ResourceRequirements{Requests: core.ResourceList{}}}
	on := ""
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		switch {
		case strings.HasPrefix(k, "label."):
			pod.Labels[k[len("label."):]] = v
		case k == "on":
			on = v
			pod.Spec.NodeName = v
		case k == "claim":
			pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, core.PodResourceClaim{Name: v, ResourceClaimName: &v})
		case strings.HasPrefix(k, "nvidia.com/"):
			if container.Resources.Limits == nil {
				container.Resources.Limits = core.ResourceList{}
			}
			container.Resources.Limits[core.ResourceName(k)] = resource.MustParse(v)
			container.Resources.Requests[core.ResourceName(k)] = resource.MustParse(v)
		case k == "ns":
			pod.Namespace = v
		case k == "priority":
			q := resource.MustParse(v)
			pod.Spec.Priority = new(int32(q.Value()))
		case k == "port":
			q := resource.MustParse(v)
			container.Ports = append(container.Ports, core.ContainerPort{HostPort: int32(q.Value())})
		default:
			container.Resources.Requests[core.ResourceName(k)] = resource.MustParse(v)
		}
	}
	pod.Spec.Containers = slices.Concat(pod.Spec.Containers, []core.Container{container})
	return pod, on
}
