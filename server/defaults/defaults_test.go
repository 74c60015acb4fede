package defaults

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestImagePullPolicy(t *testing.T) {
	digest := "@sha256:0123456789012345678901234567890123456789012345678901234567890123"
	for _, c := range []struct {
		image string
		want  core.PullPolicy
	}{
		{"busybox", core.PullAlways},
		{"busybox:latest", core.PullAlways},
		{"busybox:1.36", core.PullIfNotPresent},
		{"localhost:5000/busybox", core.PullAlways},
		{"localhost:5000/busybox:1", core.PullIfNotPresent},
		{"busybox" + digest, core.PullIfNotPresent},
		{"busybox:latest" + digest, core.PullAlways},
		{"", core.PullIfNotPresent},
	} {
		if got := pullPolicy(c.image); got != c.want {
			t.Errorf("%q: got %s, want %s", c.image, got, c.want)
		}
	}
}

// TestNegativeGraceIsASecond: a pod with a negative grace period was stored as it came; templates keep it.
func TestNegativeGraceIsASecond(t *testing.T) {
	p := &core.Pod{Spec: core.PodSpec{TerminationGracePeriodSeconds: new(int64(-1))}}
	template := core.PodTemplateSpec{Spec: *p.Spec.DeepCopy()}
	Pod(p)
	PodTemplate(&template)
	if pod, kept := *p.Spec.TerminationGracePeriodSeconds, *template.Spec.TerminationGracePeriodSeconds; pod != 1 || kept != -1 {
		t.Errorf("pod %d, template %d", pod, kept)
	}
}

func TestPodRequestsFromLimits(t *testing.T) {
	p := &core.Pod{Spec: core.PodSpec{HostNetwork: true, DeprecatedServiceAccount: "robot", Containers: []core.Container{{
		Name: "a", Image: "a:1", Ports: []core.ContainerPort{{ContainerPort: 80}},
		Resources:     core.ResourceRequirements{Limits: core.ResourceList{"cpu": resource.MustParse("100u"), "memory": resource.MustParse("1Gi")}, Requests: core.ResourceList{"memory": resource.MustParse("1Mi")}},
		LivenessProbe: &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{}}},
	}}}}
	Pod(p)
	c := p.Spec.Containers[0]
	if got := c.Resources.Requests.Cpu().String(); got != "1m" {
		t.Errorf("cpu request %s, want 1m (rounded up from the limit)", got)
	}
	if got := c.Resources.Requests.Memory().String(); got != "1Mi" {
		t.Errorf("memory request %s, want 1Mi (kept)", got)
	}
	if c.Ports[0].HostPort != 80 || c.Ports[0].Protocol != core.ProtocolTCP {
		t.Errorf("port %+v, want host port 80/TCP", c.Ports[0])
	}
	if c.LivenessProbe.HTTPGet.Path != "/" || c.LivenessProbe.FailureThreshold != 3 {
		t.Errorf("probe %+v", c.LivenessProbe)
	}
	if p.Spec.ServiceAccountName != "robot" || *p.Spec.TerminationGracePeriodSeconds != 30 {
		t.Errorf("spec %+v", p.Spec)
	}
}

func TestDefaultsAreIdempotent(t *testing.T) {
	template := core.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: core.PodSpec{
		Containers: []core.Container{{Name: "a", Image: "a"}},
		Volumes:    []core.Volume{{Name: "e"}, {Name: "s", VolumeSource: core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: "s"}}}},
	}}
	d := &apps.Deployment{Spec: apps.DeploymentSpec{Template: template}}
	j := &batch.Job{Spec: batch.JobSpec{Template: template}}
	Deployment(d)
	Job(j)
	d2, j2 := d.DeepCopy(), j.DeepCopy()
	Deployment(d2)
	Job(j2)
	if diff := cmp.Diff(d, d2) + cmp.Diff(j, j2); diff != "" {
		t.Error("a second run changes more:", diff)
	}
	if *j.Spec.Completions != 1 || *j.Spec.BackoffLimit != 6 || j.Labels["a"] != "b" {
		t.Errorf("job %+v", j.Spec)
	}
	if d.Spec.Template.Spec.EnableServiceLinks != nil {
		t.Error("a template got a default that only pods get")
	}
}

func TestQOS(t *testing.T) {
	r := func(cpu, mem string) core.ResourceList {
		l := core.ResourceList{}
		if cpu != "" {
			l["cpu"] = resource.MustParse(cpu)
		}
		if mem != "" {
			l["memory"] = resource.MustParse(mem)
		}
		return l
	}
	for _, c := range []struct {
		name             string
		requests, limits core.ResourceList
		want             core.PodQOSClass
	}{
		{"none", nil, nil, core.PodQOSBestEffort},
		{"only other resources", core.ResourceList{"nvidia.com/gpu": resource.MustParse("1")}, nil, core.PodQOSBestEffort},
		{"equal", r("1", "1Gi"), r("1", "1Gi"), core.PodQOSGuaranteed},
		{"memory limit only", nil, r("", "1Gi"), core.PodQOSBurstable},
		{"less", r("1", "1Gi"), r("2", "1Gi"), core.PodQOSBurstable},
	} {
		p := &core.Pod{Spec: core.PodSpec{Containers: []core.Container{{Resources: core.ResourceRequirements{Requests: c.requests, Limits: c.limits}}}}}
		if got := QOS(p); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
