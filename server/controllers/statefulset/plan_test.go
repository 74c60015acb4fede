package statefulset

import (
	"fmt"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api/reconcile/plantest"
)

type input struct {
	Now             metav1.Time
	Set             apps.StatefulSet
	Pods            []core.Pod
	Claims          []core.PersistentVolumeClaim
	Current, Update string
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) any {
		o := observed{set: &in.Set, now: in.Now.Time, current: revision{in.Current, &in.Set.Spec.Template}, update: revision{in.Update, &in.Set.Spec.Template},
			claim: func(name string) *core.PersistentVolumeClaim {
				for i := range in.Claims {
					if in.Claims[i].Name == name {
						return &in.Claims[i]
					}
				}
				return nil
			}}
		for i := range in.Pods {
			o.pods = append(o.pods, &in.Pods[i])
		}
		p := makePlan(o)
		out := map[string]any{"status": p.status}
		for what, pods := range map[string][]*core.Pod{"create": p.create, "claims": p.claims, "repair": p.repair, "release": p.release, "remove": p.remove} {
			var names []string
			for _, pod := range pods {
				names = append(names, fmt.Sprintf("%s of %s", pod.Name, revisionOf(pod)))
			}
			if len(names) > 0 {
				out[what] = names
			}
		}
		if p.after > 0 {
			out["after"] = p.after.Round(time.Second).String()
		}
		return out
	})
}

func TestNewPodHasItsIdentity(t *testing.T) {
	s := &apps.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u"}, Spec: apps.StatefulSetSpec{ServiceName: "svc",
		Selector:             &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		VolumeClaimTemplates: []core.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}}}
	s.Spec.Template.Spec.Volumes = []core.Volume{{Name: "data"}, {Name: "other"}}
	p := newPod(s, &s.Spec.Template, "web-1a", 3)
	if p.Name != "web-3" || p.GenerateName != "" || p.Spec.Hostname != "web-3" || p.Spec.Subdomain != "svc" {
		t.Errorf("pod = %+v", p)
	}
	want := map[string]string{"apps.kubernetes.io/pod-index": "3", "statefulset.kubernetes.io/pod-name": "web-3", "controller-revision-hash": "web-1a"}
	for k, v := range want {
		if p.Labels[k] != v {
			t.Errorf("label %s = %q, want %q", k, p.Labels[k], v)
		}
	}
	if v := p.Spec.Volumes; len(v) != 2 || v[0].PersistentVolumeClaim == nil || v[0].PersistentVolumeClaim.ClaimName != "data-web-3" || v[1].Name != "other" {
		t.Errorf("volumes = %+v", v)
	}
	if c := claimsOf(s, 3); len(c) != 1 || c[0].Name != "data-web-3" || c[0].Labels["app"] != "web" {
		t.Errorf("claims = %+v", c)
	}
}

func TestPodNamesAreRead(t *testing.T) {
	for name, want := range map[string]int{"web-0": 0, "a-b-12": 12, "web": -1, "web-": -1, "web-x": -1, "web--1": 1, "web-99999999999": -1} {
		if got := ordinal(&core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}); got != want {
			t.Errorf("ordinal of %s = %d, want %d", name, got, want)
		}
	}
}

func TestClaimOwnersFollowTheRetentionPolicy(t *testing.T) {
	const retain, remove = apps.RetainPersistentVolumeClaimRetentionPolicyType, apps.DeletePersistentVolumeClaimRetentionPolicyType
	cases := []struct {
		scaled, deleted apps.PersistentVolumeClaimRetentionPolicyType
		pod             string
		want            []string
	}{
		{retain, retain, "web-0", nil},
		{retain, remove, "web-0", []string{"StatefulSet"}},
		{retain, remove, "web-9", []string{"StatefulSet"}},
		{remove, retain, "web-0", nil},
		{remove, retain, "web-9", []string{"Pod"}},
		{remove, remove, "web-0", []string{"StatefulSet"}},
		{remove, remove, "web-9", []string{"Pod"}},
	}
	for _, c := range cases {
		s := &apps.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "s"}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &apps.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: c.scaled, WhenDeleted: c.deleted}
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: c.pod, UID: "p"}}
		claim := withOwners(&core.PersistentVolumeClaim{}, s, p)
		var got []string
		for _, r := range claim.OwnerReferences {
			got = append(got, r.Kind)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) || !ownersRight(claim, s, p) {
			t.Errorf("%s/%s of %s: %v, want %v", c.scaled, c.deleted, c.pod, got, c.want)
		}
	}
}
