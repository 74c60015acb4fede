package crd_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

const changingDefinition = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: movers.example.com},
spec: {group: example.com, scope: Namespaced, names: {plural: movers, singular: mover, kind: Mover, listKind: MoverList}, versions: [
 {name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}OTHERS]}}`

// TestRequestsWhileADefinitionChanges: a request that was under way when a definition changed was
// answered with 429, or 404 for an object that was there all the time.
func TestRequestsWhileADefinitionChanges(t *testing.T) {
	for name, others := range map[string]string{"one version": "", "two versions": `,
 {name: v2, served: true, storage: false, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}`} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			w.define(strings.Replace(changingDefinition, "OTHERS", others, 1))
			const path = "/apis/example.com/v1/namespaces/default/movers"
			w.must(201, "POST", path, mover("kept"))
			over := time.Now().Add(time.Second)
			var wg sync.WaitGroup
			wg.Go(func() {
				for n := 0; time.Now().Before(over); n++ {
					patch := fmt.Sprintf(`[{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "%d"}]`, n)
					if a, err := w.try("PATCH", crdPath+"/movers.example.com", patch, "Content-Type", "application/json-patch+json"); err != nil || a.code != 200 {
						t.Errorf("changing the definition: %v %s", err, a.raw)
					}
				}
			})
			for i := range 4 {
				wg.Go(func() {
					for n := 0; time.Now().Before(over); n++ {
						changingRound(t, w, path, fmt.Sprintf("m-%d-%d", i, n))
					}
				})
			}
			wg.Wait()
		})
	}
}

func mover(name string) string {
	return fmt.Sprintf(`{apiVersion: example.com/v1, kind: Mover, metadata: {name: %s}, spec: {a: 1}}`, name)
}

// changingRound uses every verb once; nothing may be noticed of the definition's changes.
func changingRound(t *testing.T, w *world, path, name string) {
	one := path + "/" + name
	for _, r := range []struct {
		code                     int
		method, path, body, kind string
	}{
		{201, "POST", path, mover(name), ""},
		{200, "GET", one, "", ""},
		{200, "PATCH", one, `{"spec":{"b":1}}`, "application/merge-patch+json"},
		{200, "PATCH", one + "?fieldManager=x", mover(name), "application/apply-patch+yaml"},
		{200, "PATCH", one + "/status", `{"status":{"b":1}}`, "application/merge-patch+json"},
		{201, "PATCH", one + "-applied?fieldManager=x", mover(name + "-applied"), "application/apply-patch+yaml"},
		{200, "GET", path, "", ""},
		{200, "GET", path + "?watch=1&timeoutSeconds=1&fieldSelector=metadata.name=none&resourceVersion=1", "", ""},
		{200, "GET", path + "/kept", "", ""},
		{200, "DELETE", one, "", ""},
		{200, "DELETE", path + "?fieldSelector=metadata.name=" + name + "-applied", "", ""},
	} {
		if strings.Contains(r.path, "watch=1") && !strings.HasSuffix(name, "0") {
			continue // it lasts
		}
		var header []string
		if r.kind != "" {
			header = []string{"Content-Type", r.kind}
		}
		a, err := w.try(r.method, r.path, r.body, header...)
		if err != nil || a.code != r.code {
			t.Errorf("%s %s: %v %d, not %d: %s", r.method, r.path, err, a.code, r.code, a.raw)
		}
	}
}
