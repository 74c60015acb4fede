package validate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// The objects that are good and broken, kind by kind, stand in
// server/registry/testdata/kinds; here is what needs two states or more.

func pod(edit func(*core.Pod)) *core.Pod {
	p := &core.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"},
		Spec: core.PodSpec{
			Containers: []core.Container{{Name: "a", Image: "a", ImagePullPolicy: core.PullAlways, TerminationMessagePolicy: core.TerminationMessageReadFile,
				Resources: core.ResourceRequirements{Requests: core.ResourceList{"cpu": resource.MustParse("1")}}}},
			RestartPolicy: core.RestartPolicyNever, DNSPolicy: core.DNSDefault, TerminationGracePeriodSeconds: new(int64(30)),
		},
	}
	if edit != nil {
		edit(p)
	}
	return p
}

func texts(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		line, _, _ := strings.Cut(e.Error(), "\n")
		out = append(out, line)
	}
	return out
}

func TestPodSubresources(t *testing.T) {
	debug := core.EphemeralContainer{EphemeralContainerCommon: core.EphemeralContainerCommon{Name: "debug", Image: "busybox", ImagePullPolicy: core.PullAlways,
		TerminationMessagePolicy: core.TerminationMessageReadFile}, TargetContainerName: "a"}
	with := func(edit func(*core.EphemeralContainer)) func(*core.Pod) {
		return func(p *core.Pod) {
			c := *debug.DeepCopy()
			if edit != nil {
				edit(&c)
			}
			p.Spec.EphemeralContainers = []core.EphemeralContainer{c}
		}
	}
	cpu := func(n string) func(*core.Pod) {
		return func(p *core.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse(n) }
	}
	ended := func(p *core.Pod) {
		p.Status.ContainerStatuses = []core.ContainerStatus{{Name: "a", State: core.ContainerState{Terminated: &core.ContainerStateTerminated{}}}}
	}
	gate := func(p *core.Pod) { p.Spec.SchedulingGates = []core.PodSchedulingGate{{Name: "example.com/g"}} }
	for _, c := range []struct {
		name    string
		check   func(o, old *core.Pod) Errors
		o, old  *core.Pod
		contain []string
	}{
		{"ephemeral container added", PodEphemeralContainers, pod(with(nil)), pod(nil), nil},
		{"ephemeral container gone", PodEphemeralContainers, pod(nil), pod(with(nil)), []string{`existing ephemeral containers "debug" may not be removed`}},
		{"ephemeral container changed", PodEphemeralContainers, pod(with(func(c *core.EphemeralContainer) { c.Image = "x" })), pod(with(nil)), []string{`existing ephemeral containers "debug" may not be changed`}},
		{"ephemeral container with ports", PodEphemeralContainers, pod(with(func(c *core.EphemeralContainer) {
			c.Ports = []core.ContainerPort{{ContainerPort: 1, Protocol: "TCP"}}
		})), pod(nil), []string{"spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"}},
		{"ephemeral container beside nothing", PodEphemeralContainers, pod(with(func(c *core.EphemeralContainer) { c.TargetContainerName = "x" })), pod(nil), []string{`spec.ephemeralContainers[0].targetContainerName: Not found: "x"`}},
		{"update of resources", PodUpdate, pod(cpu("2")), pod(nil), []string{"pod updates may not change fields other than"}},
		{"container comes back", PodStatus, pod(func(p *core.Pod) { ended(p); p.Status.ContainerStatuses[0].State = core.ContainerState{} }), pod(ended), []string{"may not be transitioned to non-terminated state"}},
		{"gate opened", PodUpdate, pod(nil), pod(gate), nil},
		{"gate added", PodUpdate, pod(gate), pod(nil), []string{"only deletion is allowed, but found new scheduling gate 'example.com/g'"}},
		{"gated pod narrowed", PodUpdate, pod(func(p *core.Pod) { gate(p); p.Spec.NodeSelector = map[string]string{"a": "b"} }), pod(gate), nil},
		{"pod narrowed too late", PodUpdate, pod(func(p *core.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }), pod(nil), []string{"pod updates may not change fields other than"}},
		{"deadline made longer", PodUpdate, pod(func(p *core.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(9)) }), pod(func(p *core.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(5)) }), []string{"must be less than or equal to previous value"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := texts(c.check(c.o, c.old))
			if len(got) != len(c.contain) {
				t.Fatalf("got %q, want %q", got, c.contain)
			}
			for i := range got {
				if !strings.Contains(got[i], c.contain[i]) {
					t.Errorf("got %q, want %q", got[i], c.contain[i])
				}
			}
		})
	}
}

func TestSuspendedJobMayMove(t *testing.T) {
	job := func(edit func(*batch.Job)) *batch.Job {
		j := &batch.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batch.JobSpec{ManualSelector: new(true), Suspend: new(true),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: core.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod(nil).Spec}}}
		if edit != nil {
			edit(j)
		}
		return j
	}
	move := func(j *batch.Job) { j.Spec.Template.Spec.NodeSelector = map[string]string{"zone": "z"} }
	if errs := JobUpdate(job(move), job(nil)); len(errs) > 0 {
		t.Errorf("a suspended job may be moved: %v", errs)
	}
	errs := JobUpdate(job(move), job(func(j *batch.Job) { j.Spec.Suspend = nil }))
	if len(errs) != 1 || errs[0].Field != "spec.template" {
		t.Errorf("a running job may not be moved: %v", errs)
	}
}

// TestRestingJobMayBeResized: resources of a suspended job could not be changed, and one that had run could not be moved either.
func TestRestingJobMayBeResized(t *testing.T) {
	job := func(edit func(*batch.Job)) *batch.Job {
		now := metav1.Now()
		j := &batch.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batch.JobSpec{ManualSelector: new(true), Suspend: new(true),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: core.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod(nil).Spec}},
			Status: batch.JobStatus{StartTime: &now, Conditions: []batch.JobCondition{{Type: batch.JobSuspended, Status: core.ConditionTrue}}}}
		edit(j)
		return j
	}
	as := func(*batch.Job) {}
	resize := func(j *batch.Job) {
		j.Spec.Template.Spec.Containers[0].Resources.Requests = core.ResourceList{"cpu": resource.MustParse("2")}
	}
	if errs := JobUpdate(job(resize), job(as)); len(errs) > 0 {
		t.Errorf("a job that rests: %v", errs)
	}
	for name, busy := range map[string]func(*batch.Job){"pods": func(j *batch.Job) { j.Status.Active = 1 }, "not yet suspended": func(j *batch.Job) { j.Status.Conditions = nil }} {
		if errs := JobUpdate(job(resize), job(busy)); len(errs) != 1 {
			t.Errorf("%s: %v", name, errs)
		}
	}
	image := func(j *batch.Job) { j.Spec.Template.Spec.Containers[0].Image = "other:1" }
	if errs := JobUpdate(job(image), job(as)); len(errs) != 1 {
		t.Errorf("another image: %v", errs)
	}
}

func TestPodWarnings(t *testing.T) {
	p := pod(func(p *core.Pod) {
		p.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}
		p.Spec.NodeSelector = map[string]string{"beta.kubernetes.io/os": "linux"}
		p.Spec.Containers[0].Env = []core.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}
		p.Spec.Containers[0].Resources.Limits = core.ResourceList{"memory": resource.MustParse("100m")}
		p.Spec.Volumes = []core.Volume{{Name: "g", VolumeSource: core.VolumeSource{GitRepo: &core.GitRepoVolumeSource{}}}}
	})
	want := []string{
		`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		"spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
		`spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`,
		`spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer`,
		`metadata.annotations[container.apparmor.security.beta.kubernetes.io/a]: deprecated since v1.30; use the "appArmorProfile" field instead`,
	}
	if diff := cmp.Diff(want, PodWarnings(p, nil)); diff != "" {
		t.Error(diff)
	}
	if w := PodWarnings(pod(nil), nil); len(w) > 0 {
		t.Errorf("an ordinary pod warns %q", w)
	}
}

func TestObjectMeta(t *testing.T) {
	big := strings.Repeat("x", 256*1024)
	for _, c := range []struct {
		name string
		meta metav1.ObjectMeta
		want []string
	}{
		{"good", metav1.ObjectMeta{Name: "a", Namespace: "b", Finalizers: []string{"example.com/f", "foregroundDeletion"}}, nil},
		{"no name", metav1.ObjectMeta{Namespace: "b"}, []string{"metadata.name: Required value: name or generateName is required"}},
		{"no namespace", metav1.ObjectMeta{Name: "a"}, []string{"metadata.namespace: Required value"}},
		{"large annotations", metav1.ObjectMeta{Name: "a", Namespace: "b", Annotations: map[string]string{"k": big}}, []string{"metadata.annotations: Too long: may not be more than 262144 bytes"}},
		{"two controllers", metav1.ObjectMeta{Name: "a", Namespace: "b", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "A", Name: "x", UID: "1", Controller: new(true)}, {APIVersion: "v1", Kind: "B", Name: "y", UID: "2", Controller: new(true)}}},
			[]string{"metadata.ownerReferences: Invalid value"}},
	} {
		got := texts(ObjectMeta(&c.meta, true, nil, field.NewPath("metadata")))
		if len(got) != len(c.want) || len(got) == 1 && !strings.HasPrefix(got[0], c.want[0]) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	old := &metav1.ObjectMeta{Name: "a", Namespace: "b", UID: "1", ResourceVersion: "1", Generation: 2}
	is := old.DeepCopy()
	is.Generation, is.ResourceVersion = 1, ""
	got := texts(ObjectMetaUpdate(is, old, field.NewPath("metadata")))
	want := []string{`metadata.resourceVersion: Invalid value: "": must be specified for an update`, "metadata.generation: Invalid value: 1: must not be decremented"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestResourceNames(t *testing.T) {
	for _, c := range []struct {
		name                         core.ResourceName
		native, extended, overcommit bool
	}{
		{"cpu", true, false, true},
		{"hugepages-2Mi", true, false, false},
		{"nvidia.com/gpu", false, true, false},
		{"kubernetes.io/batch", true, false, true},
		{"requests.nvidia.com/gpu", false, false, false},
	} {
		if rule.Native(c.name) != c.native || rule.Extended(c.name) != c.extended || rule.Overcommit(c.name) != c.overcommit {
			t.Errorf("%s: native %v, extended %v, overcommit %v", c.name, rule.Native(c.name), rule.Extended(c.name), rule.Overcommit(c.name))
		}
	}
}

func BenchmarkPod(b *testing.B) {
	p := pod(nil)
	b.ReportAllocs()
	for b.Loop() {
		Pod(p)
	}
}
