package deployment

import (
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"orch/api/reconcile/plantest"
)

// setIn is a set in short: template is the image.
type setIn struct {
	Name, Image                 string
	Replicas, Actual, Available int32
	Revision, Desired, Max      string
	Age                         string // how long ago it was made
	Terminating                 int32
	ReplicaFailure              string
}

type input struct {
	Spec struct {
		Image                         string
		Replicas                      int32
		MaxSurge, MaxUnavailable      intstr.IntOrString
		Recreate, Paused, Deleting    bool
		HistoryLimit, DeadlineSeconds *int32
		Annotations                   map[string]string
	}
	Status  apps.DeploymentStatus
	Sets    []setIn
	OldPods bool
}

type output struct {
	Create   map[string]any    `json:"create,omitempty"`
	Changes  []map[string]any  `json:"changes,omitempty"`
	Remove   []string          `json:"remove,omitempty"`
	Revision string            `json:"revision,omitempty"`
	Status   map[string]int32  `json:"status"`
	Says     map[string]string `json:"says"`
	After    string            `json:"after,omitempty"`
}

func at(t *testing.T) time.Time {
	now, err := time.Parse(time.RFC3339, "2026-01-02T03:04:05Z")
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func template(image string) core.PodTemplateSpec {
	return core.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       core.PodSpec{Containers: []core.Container{{Name: "c", Image: image}}},
	}
}

func (in input) deployment(now time.Time) *apps.Deployment {
	d := &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "d", Generation: 1, Annotations: in.Spec.Annotations}, Status: in.Status}
	d.Spec = apps.DeploymentSpec{
		Replicas: &in.Spec.Replicas, Template: template(in.Spec.Image), Paused: in.Spec.Paused,
		Selector:             &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		RevisionHistoryLimit: in.Spec.HistoryLimit, ProgressDeadlineSeconds: in.Spec.DeadlineSeconds,
		Strategy: apps.DeploymentStrategy{Type: apps.RollingUpdateDeploymentStrategyType, RollingUpdate: &apps.RollingUpdateDeployment{MaxSurge: &in.Spec.MaxSurge, MaxUnavailable: &in.Spec.MaxUnavailable}},
	}
	if in.Spec.Recreate {
		d.Spec.Strategy = apps.DeploymentStrategy{Type: apps.RecreateDeploymentStrategyType}
	}
	if in.Spec.Deleting {
		d.DeletionTimestamp = &metav1.Time{Time: now}
	}
	return d
}

func (s setIn) set(now time.Time) *apps.ReplicaSet {
	rs := &apps.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: s.Name, Annotations: map[string]string{}}}
	rs.Spec = apps.ReplicaSetSpec{Replicas: &s.Replicas, Template: template(s.Image)}
	rs.Spec.Template.Labels[hashLabel] = "x"
	rs.Status = apps.ReplicaSetStatus{Replicas: s.Actual, ReadyReplicas: s.Available, AvailableReplicas: s.Available, TerminatingReplicas: &s.Terminating}
	if s.ReplicaFailure != "" {
		rs.Status.Conditions = []apps.ReplicaSetCondition{{Type: apps.ReplicaSetReplicaFailure, Status: core.ConditionTrue, Reason: "FailedCreate", Message: s.ReplicaFailure}}
	}
	for k, v := range map[string]string{revisionAnnotation: s.Revision, desiredAnnotation: s.Desired, maxAnnotation: s.Max} {
		if v != "" {
			rs.Annotations[k] = v
		}
	}
	age, _ := time.ParseDuration(s.Age)
	rs.CreationTimestamp = metav1.NewTime(now.Add(-age))
	return rs
}

func TestPlan(t *testing.T) {
	now := at(t)
	plantest.Run(t, func(in input) any {
		o := observed{deployment: in.deployment(now), now: now, oldPods: func(*apps.ReplicaSet) bool { return in.OldPods }}
		for _, s := range in.Sets {
			o.sets = append(o.sets, s.set(now))
		}
		return show(makePlan(o))
	})
}

func show(p plan) output {
	s := p.status
	out := output{Revision: p.revision, Says: map[string]string{}, Status: map[string]int32{
		"replicas": s.Replicas, "updated": s.UpdatedReplicas, "ready": s.ReadyReplicas, "available": s.AvailableReplicas, "unavailable": s.UnavailableReplicas}}
	for _, c := range s.Conditions {
		out.Says[string(c.Type)] = string(c.Status) + " " + c.Reason + ": " + c.Message
	}
	if p.create != nil {
		out.Create = map[string]any{"name": p.create.Name, "replicas": *p.create.Spec.Replicas, "annotations": p.create.Annotations,
			"labels": p.create.Labels, "selector": p.create.Spec.Selector.MatchLabels}
	}
	for _, c := range p.changes {
		if c.differs() {
			m := map[string]any{"set": c.set.Name, "from": size(c.set), "to": c.replicas}
			if len(c.annotations) > 0 {
				m["annotations"] = c.annotations
			}
			out.Changes = append(out.Changes, m)
		}
	}
	for _, r := range p.remove {
		out.Remove = append(out.Remove, r.Name)
	}
	if p.after > 0 {
		out.After = p.after.String()
	}
	return out
}

func TestFenceposts(t *testing.T) {
	cases := []struct {
		surge, unavailable string
		replicas           int32
		want, wantUn       int32
	}{
		{"25%", "25%", 10, 3, 2},
		{"25%", "25%", 1, 1, 0},
		{"0", "0", 4, 0, 1},
		{"0", "10%", 4, 0, 1},
		{"2", "50%", 3, 2, 1},
	}
	for _, c := range cases {
		in := input{}
		in.Spec.Replicas, in.Spec.MaxSurge, in.Spec.MaxUnavailable = c.replicas, intstr.Parse(c.surge), intstr.Parse(c.unavailable)
		surge, unavailable := fenceposts(in.deployment(at(t)))
		if surge != c.want || unavailable != c.wantUn {
			t.Errorf("%s, %s of %d: %d, %d; want %d, %d", c.surge, c.unavailable, c.replicas, surge, unavailable, c.want, c.wantUn)
		}
	}
}

func TestHistoryStaysShort(t *testing.T) {
	list := ""
	for range 3000 {
		list = history(list, "1234")
	}
	if len(list) > historyLimit || len(list) < historyLimit-10 {
		t.Errorf("history is %d long", len(list))
	}
}
