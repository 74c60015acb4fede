package apply

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"orch/api"
)

// kindsCompared are filled at random and tracked by upstream's code and by ours.
var kindsCompared = []*api.Facts{
	api.ConfigMaps.Facts, api.Pods.Facts, api.Deployments.Facts, api.Services.Facts, api.Nodes.Facts, api.ServiceAccounts.Facts,
	api.NetworkPolicies.Facts, api.Ingresses.Facts, api.EndpointSlices.Facts, api.PersistentVolumeClaims.Facts, api.ClusterRoles.Facts,
	api.Jobs.Facts, api.HorizontalPodAutoscalers.Facts, api.PodDisruptionBudgets.Facts, api.Leases.Facts, api.ValidatingWebhookConfigurations.Facts,
}

func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(.7).NumElements(1, 3).MaxDepth(12).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(c.Int63n(1000), resource.DecimalSI)
		},
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(c.Int63n(1e9), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) { *t = metav1.NewMicroTime(time.Unix(c.Int63n(1e9), 0)) },
		func(v *intstr.IntOrString, c randfill.Continue) { *v = intstr.FromInt32(c.Int31n(1000)) },
		func(f *metav1.FieldsV1, c randfill.Continue) {},
		func(m *metav1.TypeMeta, c randfill.Continue) {},
		func(m *metav1.ObjectMeta, c randfill.Continue) {
			c.FillNoCustom(m)
			m.ManagedFields, m.UID, m.ResourceVersion = nil, "", ""
			m.OwnerReferences = nil
			if c.Bool() {
				m.OwnerReferences = []metav1.OwnerReference{{UID: "a", Name: c.String(5)}}
			}
		},
	)
}

// normal takes an object through JSON, as every object comes in.
func normal(t *testing.T, f *api.Facts, o api.Object) api.Object {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	n := f.New()
	if err := json.Unmarshal(b, n); err != nil {
		t.Fatal(err)
	}
	return n
}

// fields drops the times, which two managers cannot agree on.
func fields(o api.Object) []string {
	var out []string
	for _, e := range o.GetManagedFields() {
		out = append(out, string(e.Operation)+" "+e.Manager+" "+e.APIVersion+" "+e.Subresource+" "+e.FieldsV1.GetRawString())
	}
	slices.Sort(out)
	return out
}

// TestSameAsUpstream fills objects at random, creates and updates them with several
// managers and compares the managedFields with upstream's.
func TestSameAsUpstream(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ours, theirs := New(func() time.Time { return at }), New(func() time.Time { return at })
	seed := rand.Int64()
	if testing.Short() {
		seed = 1
	}
	t.Logf("seed %d", seed)
	for _, f := range kindsCompared {
		for round := range int64(8) {
			fill := filler(seed + round)
			managers := []Manager{{f, "first", ""}, {f, "second", ""}, {f, "first", "status"}}
			obj := f.New()
			fill.Fill(obj)
			obj = normal(t, f, obj)
			a, b := obj.DeepCopyObject().(api.Object), obj.DeepCopyObject().(api.Object)
			ours.Create(a, managers[0])
			theirs.updateDynamic(f.New(), b, managers[0])
			b.GetObjectKind().SetGroupVersionKind(a.GetObjectKind().GroupVersionKind())
			if d := cmp.Diff(fields(b), fields(a)); d != "" {
				t.Fatalf("%s, seed %d: create (-upstream +ours):\n%s", f.Kind, seed+round, d)
			}
			for step, by := range []Manager{managers[1], managers[0], managers[2]} {
				next := f.New()
				fill.Fill(next)
				next = normal(t, f, mix(obj, next, step))
				x, y := next.DeepCopyObject().(api.Object), next.DeepCopyObject().(api.Object)
				a.SetUID("u")
				b.SetUID("u")
				if err := ours.Update(a, x, by); err != nil {
					t.Fatal(err)
				}
				theirs.updateDynamic(b, y, by)
				y.GetObjectKind().SetGroupVersionKind(x.GetObjectKind().GroupVersionKind())
				if d := cmp.Diff(fields(y), fields(x)); d != "" {
					t.Fatalf("%s, seed %d: update %d by %v (-upstream +ours):\n%s", f.Kind, seed+round, step, by, d)
				}
				a, b, obj = x, y, next
			}
		}
	}
}

// mix takes some fields of next into a copy of obj.
func mix(obj, next api.Object, step int) api.Object {
	out := obj.DeepCopyObject().(api.Object)
	o, n := reflect.ValueOf(out).Elem(), reflect.ValueOf(next).Elem()
	mixStruct(o, n, step, 0)
	return out
}

func mixStruct(o, n reflect.Value, step, depth int) {
	for i := range o.NumField() {
		switch name := o.Type().Field(i).Name; {
		case name == "TypeMeta" || name == "ManagedFields":
		case o.Field(i).Kind() == reflect.Struct && depth < 3:
			mixStruct(o.Field(i), n.Field(i), step, depth+1)
		case (i+step)%3 == 0:
			if o.Field(i).CanSet() {
				o.Field(i).Set(n.Field(i))
			}
		}
	}
}

func TestUpdateKeepsWhatNobodyTouched(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := New(func() time.Time { return now })
	by := Manager{api.ConfigMaps.Facts, "kubectl", ""}
	live := &core.ConfigMap{Data: map[string]string{"a": "1"}}
	a.Create(live, by)
	if got, want := live.ManagedFields[0].FieldsV1.GetRawString(), `{"f:data":{".":{},"f:a":{}}}`; got != want {
		t.Fatalf("create owns %s, want %s", got, want)
	}
	first := live.ManagedFields[0].Time
	now = now.Add(time.Hour)
	same := live.DeepCopy()
	if err := a.Update(live, same, by); err != nil || !same.ManagedFields[0].Time.Equal(first) {
		t.Errorf("an update that changes nothing moved the time: %v %v", same.ManagedFields[0].Time, err)
	}
	changed := live.DeepCopy()
	changed.Data["a"] = "2"
	if err := a.Update(live, changed, by); err != nil || changed.ManagedFields[0].Time.Equal(first) {
		t.Errorf("an update left the time: %v %v", changed.ManagedFields[0].Time, err)
	}
	reset := live.DeepCopy()
	reset.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	if err := a.Update(live, reset, by); err != nil || reset.ManagedFields != nil {
		t.Errorf("reset left %v %v", reset.ManagedFields, err)
	}
}

func deployment() *apps.Deployment {
	return &apps.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{"app": "web"}},
		Spec: apps.DeploymentSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: core.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "i", Ports: []core.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}},
					Env: []core.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}}}}},
		},
	}
}

func BenchmarkCreate(b *testing.B) {
	a := New(time.Now)
	for name, o := range map[string]api.Object{
		"configmap": &core.ConfigMap{Data: map[string]string{"payload": "x"}}, "deployment": deployment(),
	} {
		f := api.ConfigMaps.Facts
		if name == "deployment" {
			f = api.Deployments.Facts
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o.SetManagedFields(nil)
				a.Create(o, Manager{f, "bench", ""})
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	a := New(time.Now)
	by := Manager{api.Deployments.Facts, "bench", ""}
	live := deployment()
	a.Create(live, by)
	b.ReportAllocs()
	for b.Loop() {
		o := *live
		o.Spec.Replicas = new(int32(3))
		if err := a.Update(live, &o, by); err != nil {
			b.Fatal(err)
		}
	}
}
