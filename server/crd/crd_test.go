package crd_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"orch/datastore/memory"
)

const jobs = "/apis/ml.example.com/v1/namespaces/default/trainingjobs"

func job(name, spec string) string {
	return fmt.Sprintf("apiVersion: ml.example.com/v1\nkind: TrainingJob\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

// TestLife takes a definition from its creation to its end, instances included.
func TestLife(t *testing.T) {
	w := start(t)
	at := time.Now()
	w.must(201, "POST", crdPath, fixture(t, "trainingjob.yaml"))
	for w.do("GET", jobs, "").code != 200 {
		if time.Since(at) > time.Minute {
			t.Fatal("not served")
		}
	}
	t.Logf("served %v after the definition", time.Since(at))
	d := w.until("trainingjobs.ml.example.com", "establishment", established)
	if s, reason, m := condition(d, "NamesAccepted"); s != "True" || reason != "NoConflicts" || m != "no conflicts found" {
		t.Errorf("NamesAccepted is %s %s %s", s, reason, m)
	}
	if v := d.get("status.acceptedNames.kind"); v != "TrainingJob" {
		t.Errorf("accepted kind %v", v)
	}
	o := w.must(201, "POST", jobs, job("a", "{image: x, extra: 1}"))
	if o.get("spec.workers") != 1.0 || o.get("spec.extra") != nil || o.get("metadata.generation") != 1.0 || len(o.warnings) != 1 {
		t.Errorf("created %s, warnings %v", o.raw, o.warnings)
	}
	l := w.must(200, "GET", "/apis/ml.example.com/v1", "")
	if !strings.Contains(l.raw, `"trainingjobs/scale"`) || !strings.Contains(l.raw, `"tj"`) {
		t.Errorf("discovery: %s", l.raw)
	}
	for i := range 300 {
		w.must(201, "POST", jobs, job(fmt.Sprintf("n%d", i), "{image: x}"))
	}
	w.must(201, "POST", jobs, edit(t, job("held", "{image: x}"), func(m map[string]any) {
		m["metadata"].(map[string]any)["finalizers"] = []string{"example.com/hold"}
	}))
	gone := w.must(200, "DELETE", crdPath+"/trainingjobs.ml.example.com", "")
	if s, reason, _ := condition(gone, "Terminating"); s != "True" || reason != "InstanceDeletionPending" {
		t.Errorf("deletion answered %s", gone.raw)
	}
	w.until("trainingjobs.ml.example.com", "the deletion of the instances", func(a answer) bool {
		_, reason, _ := condition(a, "Terminating")
		return reason == "InstanceDeletionInProgress"
	})
	refused := w.must(405, "POST", jobs, job("late", "{image: x}"))
	if refused.message() != "create not allowed while custom resource definition is terminating" {
		t.Errorf("late create: %s", refused.raw)
	}
	w.must(200, "PATCH", jobs+"/held", `{"metadata":{"finalizers":null}}`, "Content-Type", "application/merge-patch+json")
	w.until("trainingjobs.ml.example.com", "its end", func(a answer) bool { return a.code == 404 })
	end := time.Now().Add(time.Minute)
	for w.do("GET", jobs, "").code != 404 {
		if time.Now().After(end) {
			t.Fatal("still served")
		}
	}
}

// TestRestart: what is defined is served before the server is ready.
func TestRestart(t *testing.T) {
	store := memory.New()
	w := startOn(t, store)
	w.define(fixture(t, "trainingjob.yaml"))
	w.must(201, "POST", jobs, job("a", "{image: x}"))
	w.stop()
	w = startOn(t, store)
	if o := w.must(200, "GET", jobs+"/a", ""); o.get("spec.image") != "x" {
		t.Errorf("after the restart: %s", o.raw)
	}
}

// TestWrites: what is refused, and in which words.
func TestWrites(t *testing.T) {
	w := start(t)
	w.define(fixture(t, "trainingjob.yaml"))
	w.must(201, "POST", jobs, job("here", "{image: x}"))
	merge := []string{"Content-Type", "application/merge-patch+json"}
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		code                     int
		want                     string
	}{
		{"no image", "POST", jobs, job("b", "{workers: 2}"), nil, 422,
			`TrainingJob.ml.example.com "b" is invalid: [spec.image: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]`},
		{"too many", "POST", jobs, job("b", "{image: x, workers: 513}"), nil, 422,
			`TrainingJob.ml.example.com "b" is invalid: spec.workers: Invalid value: 513: spec.workers in body should be less than or equal to 512`},
		{"a string", "POST", jobs, job("b", "{image: x, workers: two}"), nil, 422,
			`spec.workers: Invalid value: "string": spec.workers in body must be of type integer: "string"`},
		{"a rule", "POST", jobs, job("b", "{image: x, workers: 512, gpusPerWorker: 4}"), nil, 422,
			`TrainingJob.ml.example.com "b" is invalid: spec: Invalid value: at most 1024 GPUs`},
		{"strict", "POST", jobs + "?fieldValidation=Strict", job("b", "{image: x, wrokers: 2}"), nil, 400,
			`TrainingJob in version "v1" cannot be handled as a TrainingJob: strict decoding error: unknown field "spec.wrokers"`},
		{"strict metadata", "POST", jobs + "?fieldValidation=Strict", "apiVersion: ml.example.com/v1\nkind: TrainingJob\nmetadata: {name: b, nmae: c}\nspec: {image: x}\n", nil, 400,
			`unknown field "metadata.nmae"`},
		{"ignored", "POST", jobs + "?fieldValidation=Ignore&dryRun=All", job("b", "{image: x, wrokers: 2}"), nil, 201, ""},
		{"another kind", "POST", jobs, strings.Replace(job("b", "{image: x}"), "TrainingJob", "Job", 1), nil, 422, `kind: Invalid value: "Job": must be TrainingJob`},
		{"another version", "POST", jobs, strings.Replace(job("b", "{image: x}"), "/v1", "/v2", 1), nil, 400, "does not match the expected API version"},
		{"protobuf", "POST", jobs, "k8s\x00", []string{"Content-Type", "application/vnd.kubernetes.protobuf"}, 415, "unknown format"},
		{"protobuf answer", "GET", jobs, "", []string{"Accept", "application/vnd.kubernetes.protobuf"}, 406, "only the following media types are accepted: application/json, application/yaml"},
		{"protobuf or JSON", "GET", jobs, "", []string{"Accept", "application/vnd.kubernetes.protobuf,application/json"}, 200, ""},
		{"strict patch", "PATCH", jobs + "/here?fieldValidation=Strict", `{"spec":{"wrokers":2}}`, merge, 422, `unknown field "spec.wrokers"`},
		{"a bad patch", "PATCH", jobs + "/here", `{"spec":{"workers":0}}`, merge, 422, "spec.workers in body should be greater than or equal to 1"},
		{"strategic", "PATCH", jobs + "/here", `{}`, []string{"Content-Type", "application/strategic-merge-patch+json"}, 415, ""},
		{"status type", "PATCH", jobs + "/here/status", `{"status":{"ready":"many"}}`, merge, 422, `status.ready: Invalid value: "string": ready in body must be of type integer: "string"`},
		{"status", "PATCH", jobs + "/here/status", `{"spec":{"image":"y"},"status":{"ready":1}}`, merge, 200, ""},
		{"scale", "PATCH", jobs + "/here/scale", `{"spec":{"replicas":7}}`, merge, 200, ""},
		{"scale too far", "PATCH", jobs + "/here/scale", `{"spec":{"replicas":700}}`, merge, 422, "should be less than or equal to 512"},
		{"no version", "PUT", jobs + "/here", job("here", "{image: y}"), nil, 422, "metadata.resourceVersion: Invalid value: 0: must be specified for an update"},
		{"unknown field selector", "GET", jobs + "?fieldSelector=spec.image%3Dx", "", nil, 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := w.do(c.method, c.path, c.body, c.header...)
			if a.code != c.code || !strings.Contains(a.message(), c.want) && !strings.Contains(a.raw, c.want) {
				t.Errorf("%d %s\nwant %d %s", a.code, a.raw, c.code, c.want)
			}
		})
	}
	o := w.must(200, "GET", jobs+"/here", "")
	if o.get("spec.image") != "x" || o.get("status.ready") != 1.0 || o.get("spec.workers") != 7.0 || o.get("metadata.generation") != 2.0 {
		t.Errorf("in the end %s", o.raw)
	}
	s := w.must(200, "GET", jobs+"/here/scale", "")
	if s.get("spec.replicas") != 7.0 || s.get("status.replicas") != 1.0 || s.get("kind") != "Scale" {
		t.Errorf("scale %s", s.raw)
	}
}
