package registry

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/datastore"
)

func TestPatch(t *testing.T) {
	tests := []struct {
		name, patch string
		pt          types.PatchType
		strict      string
		code        int32 // 0: accepted
		want        string
	}{
		{name: "merge", pt: types.MergePatchType, patch: `{"data":{"a":null,"b":"2"}}`, want: "map[b:2]"},
		{name: "merge by null", pt: types.MergePatchType, patch: `{"data":null}`, want: "map[]"},
		{name: "merge not an object", pt: types.MergePatchType, patch: `[]`, code: 400, want: "error decoding patch"},
		{name: "merge broken", pt: types.MergePatchType, patch: `{"data"`, code: 400, want: "error decoding patch"},
		{name: "merge wrong type", pt: types.MergePatchType, patch: `{"data":7}`, code: 422, want: `data\":7}": json: cannot unmarshal number into Go struct field ConfigMap.data`},
		{name: "merge name", pt: types.MergePatchType, patch: `{"metadata":{"name":"z"}}`, code: 400, want: "does not match the name on the URL"},
		{name: "merge old version", pt: types.MergePatchType, patch: `{"metadata":{"resourceVersion":"1"}}`, code: 409, want: conflictMessage},
		{name: "merge unknown field", pt: types.MergePatchType, patch: `{"date":{"b":"2"}}`, strict: "Strict", code: 422, want: `unknown field "date"`},
		{name: "merge unknown field ignored", pt: types.MergePatchType, patch: `{"date":{"b":"2"}}`, strict: "Ignore", want: "map[a:1]"},
		{name: "json", pt: types.JSONPatchType, patch: `[{"op":"replace","path":"/data/a","value":"9"}]`, want: "map[a:9]"},
		{name: "json test fails", pt: types.JSONPatchType, patch: `[{"op":"test","path":"/data/a","value":"9"}]`, code: 422, want: "the server rejected our request due to an error in our request"},
		{name: "json broken", pt: types.JSONPatchType, patch: `{"op":"x"}`, code: 400, want: "error decoding patch"},
		{name: "json too long", pt: types.JSONPatchType, patch: "[" + strings.Repeat(`{"op":"test","path":"/data/a","value":"1"},`, 10000) + `{"op":"test","path":"/data/a","value":"1"}]`, code: 413, want: "allowed maximum operations in a JSON patch is 10000, got 10001"},
		{name: "strategic", pt: types.StrategicMergePatchType, patch: `{"data":{"b":"2"}}`, want: "map[a:1 b:2]"},
		{name: "strategic wrong type", pt: types.StrategicMergePatchType, patch: `{"immutable":"x"}`, code: 422, want: `"" is invalid: patch: Invalid value: "map[immutable:x]": unrecognized type: bool`},
		{name: "strategic unknown field", pt: types.StrategicMergePatchType, patch: `{"date":{"b":"2"}}`, strict: "Strict", code: 422, want: `Invalid value: "map[date:map[b:2]]": strict decoding error: unknown field "date"`},
		{name: "strategic replace", pt: types.StrategicMergePatchType, patch: `{"data":{"$patch":"replace","b":"2"}}`, want: "map[b:2]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := start(t)
			b.createMap(configMap("a", "a", "1"))
			r, err := b.Patch(b.ctx, req(api.ConfigMaps, "a"), tt.pt, []byte(tt.patch), metav1.PatchOptions{FieldValidation: tt.strict})
			if tt.code != 0 {
				var s apierrors.APIStatus
				if !errors.As(err, &s) || s.Status().Code != tt.code || !strings.Contains(s.Status().Message, tt.want) {
					t.Fatalf("got %v, want %d with %q", err, tt.code, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(r.Object.(*core.ConfigMap).Data); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestStrategicPatchKnowsKeys(t *testing.T) {
	b := start(t)
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "a", Image: "1"}, {Name: "b", Image: "2"}}}}
	must[core.Pod](t)(b.Create(b.ctx, req(api.Pods, ""), pod, metav1.CreateOptions{}))
	p := must[core.Pod](t)(b.Patch(b.ctx, req(api.Pods, "p"), types.StrategicMergePatchType,
		[]byte(`{"spec":{"containers":[{"name":"b","image":"3"}]}}`), metav1.PatchOptions{}))
	if len(p.Spec.Containers) != 2 || p.Spec.Containers[0].Image != "1" && p.Spec.Containers[1].Image != "1" {
		t.Errorf("containers: %+v", p.Spec.Containers)
	}
}

func (b *bench) apply(name, body, manager string, force bool) (*apps.Deployment, error) {
	r, err := b.Patch(b.ctx, req(api.Deployments, name), types.ApplyYAMLPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager, Force: &force})
	if err != nil {
		return nil, err
	}
	return r.Object.(*apps.Deployment), nil
}

func TestApply(t *testing.T) {
	b := start(t)
	const body = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: %d
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      containers:
      - {name: c, image: i}
`
	_, err := b.apply("d", fmt.Sprintf(body, 2), "", false)
	wantStatus(t, err, 422, metav1.StatusReasonInvalid, "fieldManager: Required value: is required for apply patch")
	d, err := b.apply("d", fmt.Sprintf(body, 2), "one", false)
	if err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 2 || d.UID == "" || d.Generation != 1 || d.ManagedFields[0].Operation != "Apply" || d.Kind != "" {
		t.Fatalf("created: %+v", d)
	}
	rv := d.ResourceVersion
	if d, err = b.apply("d", fmt.Sprintf(body, 2), "one", false); err != nil || d.ResourceVersion != rv {
		t.Fatalf("the same again: %v %v", d, err)
	}
	_, err = b.apply("d", fmt.Sprintf(body, 3), "two", false)
	wantStatus(t, err, 409, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "one": .spec.replicas`)
	if c := err.(apierrors.APIStatus).Status().Details.Causes; len(c) != 1 || c[0].Type != metav1.CauseTypeFieldManagerConflict || c[0].Field != ".spec.replicas" {
		t.Errorf("causes: %+v", c)
	}
	if d, err = b.apply("d", fmt.Sprintf(body, 3), "two", true); err != nil || *d.Spec.Replicas != 3 || d.Generation != 2 {
		t.Fatalf("forced: %v %v", d, err)
	}
	// kubectl scale takes the field over; the next apply sees the conflict.
	if _, err := b.Patch(b.ctx, req(api.Deployments, "d"), types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{FieldManager: "kubectl-scale"}); err != nil {
		t.Fatal(err)
	}
	_, err = b.apply("d", fmt.Sprintf(body, 3), "two", false)
	wantStatus(t, err, 409, metav1.StatusReasonConflict, `Apply failed with 1 conflict: conflict with "kubectl-scale" using apps/v1`)
	_, err = b.apply("d", "kind: [", "two", false)
	wantStatus(t, err, 400, metav1.StatusReasonBadRequest, "error decoding YAML")
	_, err = b.apply("d", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"e"}}`, "two", false)
	wantStatus(t, err, 400, metav1.StatusReasonBadRequest, "does not match the name on the URL")
	_, err = b.apply("d", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"nope":1}}`, "two", false)
	wantStatus(t, err, 500, "", ".spec.nope: field not declared in schema")
	// What a manager no longer wants goes.
	short := strings.Replace(fmt.Sprintf(body, 1), "  replicas: 1\n", "", 1)
	if d, err = b.apply("d", short, "one", true); err != nil {
		t.Fatal(err)
	}
}

func TestScale(t *testing.T) {
	b := start(t)
	must[apps.Deployment](t)(b.Create(b.ctx, req(api.Deployments, ""), &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec: apps.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}, metav1.CreateOptions{}))
	s := must[autoscaling.Scale](t)(b.Get(b.ctx, req(api.Deployments, "d", "scale"), metav1.GetOptions{}))
	if s.Spec.Replicas != 1 || s.Status.Selector != "a=b" {
		t.Fatalf("scale: %+v", s)
	}
	n := s.DeepCopy()
	n.Spec.Replicas = 4
	s = must[autoscaling.Scale](t)(b.Update(b.ctx, req(api.Deployments, "d", "scale"), n, metav1.UpdateOptions{}))
	if s.Spec.Replicas != 4 {
		t.Fatalf("scaled: %+v", s)
	}
	_, err := b.Update(b.ctx, req(api.Deployments, "d", "scale"), n.DeepCopy(), metav1.UpdateOptions{})
	wantStatus(t, err, 409, metav1.StatusReasonConflict, conflictMessage)
	s = must[autoscaling.Scale](t)(b.Patch(b.ctx, req(api.Deployments, "d", "scale"), types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}))
	d := must[apps.Deployment](t)(b.Get(b.ctx, req(api.Deployments, "d"), metav1.GetOptions{}))
	if s.Spec.Replicas != 5 || *d.Spec.Replicas != 5 || d.Generation != 3 {
		t.Fatalf("patched: %+v %+v", s, d)
	}
	_, err = b.Patch(b.ctx, req(api.Deployments, "d", "scale"), types.MergePatchType, []byte(`{"spec":{"replicas":-1}}`), metav1.PatchOptions{})
	wantStatus(t, err, 422, metav1.StatusReasonInvalid, "spec.replicas: Invalid value: -1")
}

func TestBinding(t *testing.T) {
	b := start(t)
	must[core.Pod](t)(b.Create(b.ctx, req(api.Pods, ""), &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, metav1.CreateOptions{}))
	bind := func(q Request, node string) error {
		_, err := b.Create(b.ctx, q, &core.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: core.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
		return err
	}
	wantStatus(t, bind(req(api.Pods, "p", "binding"), ""), 422, metav1.StatusReasonInvalid, "target.name: Required value")
	if err := bind(req(api.Bindings, ""), "n1"); err != nil {
		t.Fatal(err)
	}
	p := must[core.Pod](t)(b.Get(b.ctx, req(api.Pods, "p"), metav1.GetOptions{}))
	if p.Spec.NodeName != "n1" || len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Type != core.PodScheduled {
		t.Fatalf("bound: %+v", p)
	}
	if p.Generation != 1 {
		t.Errorf("to be bound moved the generation to %d", p.Generation)
	}
	wantStatus(t, bind(req(api.Pods, "p", "binding"), "n2"), 409, metav1.StatusReasonConflict,
		`Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"`)
}

func TestEviction(t *testing.T) {
	b := start(t)
	for _, n := range []string{"p0", "p1"} {
		p := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{"app": "x"}}, Spec: core.PodSpec{NodeName: "n"}}
		must[core.Pod](t)(b.Create(b.ctx, req(api.Pods, ""), p, metav1.CreateOptions{}))
		if _, err := b.Patch(b.ctx, req(api.Pods, n, "status"), types.MergePatchType,
			[]byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	must[policy.PodDisruptionBudget](t)(b.Create(b.ctx, req(api.PodDisruptionBudgets, ""), &policy.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: policy.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}, metav1.CreateOptions{}))
	evict := func(n string) error {
		_, err := b.Create(b.ctx, req(api.Pods, n, "eviction"), &policy.Eviction{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{})
		return err
	}
	wantStatus(t, evict("p0"), 429, metav1.StatusReasonTooManyRequests, evictionRefused)
	if _, err := b.Patch(b.ctx, req(api.PodDisruptionBudgets, "x", "status"), types.MergePatchType,
		[]byte(`{"status":{"observedGeneration":1,"disruptionsAllowed":1,"desiredHealthy":1,"currentHealthy":2,"expectedPods":2}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict("p0"); err != nil {
		t.Fatal(err)
	}
	p := must[core.Pod](t)(b.Get(b.ctx, req(api.Pods, "p0"), metav1.GetOptions{}))
	if p.DeletionTimestamp == nil || p.Status.Conditions[1].Reason != "EvictionByEvictionAPI" {
		t.Errorf("evicted: %+v", p)
	}
	pdb := must[policy.PodDisruptionBudget](t)(b.Get(b.ctx, req(api.PodDisruptionBudgets, "x"), metav1.GetOptions{}))
	if _, ok := pdb.Status.DisruptedPods["p0"]; !ok || pdb.Status.DisruptionsAllowed != 0 {
		t.Errorf("budget: %+v", pdb.Status)
	}
	err := evict("p1")
	wantStatus(t, err, 429, metav1.StatusReasonTooManyRequests, evictionRefused)
	if c := err.(apierrors.APIStatus).Status().Details.Causes; len(c) != 1 || c[0].Message != "The disruption budget x needs 1 healthy pods and has 2 currently" {
		t.Errorf("causes: %+v", c)
	}
}

func TestStoreErrors(t *testing.T) {
	for _, tt := range []struct {
		err    error
		code   int32
		reason metav1.StatusReason
	}{
		{datastore.ErrNoSpace, 507, reasonInsufficientStorage},
		{datastore.ErrTooLarge, 413, metav1.StatusReasonRequestEntityTooLarge},
		{datastore.ErrCompacted, 410, metav1.StatusReasonExpired},
		{datastore.ErrFuture, 504, metav1.StatusReasonTimeout},
		{datastore.ErrClosed, 503, metav1.StatusReasonServiceUnavailable},
		{errors.New("x"), 500, metav1.StatusReasonInternalError},
	} {
		wantStatus(t, storeError(tt.err), tt.code, tt.reason, "")
	}
}
