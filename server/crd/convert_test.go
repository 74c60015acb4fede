package crd_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"orch/datastore/memory"
)

// converts is a webhook that converts gadgets: v1 has spec.address "host:port", v2 has
// spec.host and spec.port.
type converts struct {
	*httptest.Server
	ca string

	mu      sync.Mutex
	calls   int // guarded by mu, as what follows
	objects int
	version string
	// spoil changes what is answered; answer replaces it.
	spoil  func(review map[string]any)
	answer http.HandlerFunc
}

func newConverts(t testing.TB) *converts {
	c := &converts{}
	c.Server = httptest.NewTLSServer(c)
	t.Cleanup(func() { c.CloseClientConnections(); c.Close() })
	c.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}))
	return c
}

func (c *converts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review map[string]any
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &review)
	c.mu.Lock()
	c.calls++
	spoil, answer := c.spoil, c.answer
	c.version, _ = review["apiVersion"].(string)
	c.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	ask := review["request"].(map[string]any)
	want := ask["desiredAPIVersion"].(string)
	out := []any{}
	for _, o := range ask["objects"].([]any) {
		out = append(out, convertGadget(o.(map[string]any), want))
	}
	c.mu.Lock()
	c.objects += len(out)
	c.mu.Unlock()
	delete(review, "request")
	review["response"] = map[string]any{"uid": ask["uid"], "convertedObjects": out, "result": map[string]any{"status": "Success"}}
	if spoil != nil {
		spoil(review)
	}
	_ = json.NewEncoder(w).Encode(review)
}

func convertGadget(o map[string]any, want string) map[string]any {
	if spec, ok := o["spec"].(map[string]any); ok {
		if strings.HasSuffix(want, "/v2") {
			host, port, _ := strings.Cut(fmt.Sprint(spec["address"]), ":")
			o["spec"] = map[string]any{"host": host, "port": port}
		} else {
			o["spec"] = map[string]any{"address": fmt.Sprint(spec["host"], ":", spec["port"])}
		}
	}
	o["apiVersion"] = want
	meta := o["metadata"].(map[string]any)
	labels, _ := meta["labels"].(map[string]any)
	if labels == nil {
		labels = map[string]any{}
	}
	labels["seen-as"] = want[strings.LastIndex(want, "/")+1:]
	meta["labels"], meta["generation"] = labels, 77
	return o
}

func (c *converts) count() (calls, objects int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls, objects, c.calls, c.objects = c.calls, c.objects, 0, 0
	return calls, objects
}

func (c *converts) set(spoil func(map[string]any), answer http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoil, c.answer = spoil, answer
}

const (
	gadgetsV1 = "/apis/example.com/v1/namespaces/default/gadgets"
	gadgetsV2 = "/apis/example.com/v2/namespaces/default/gadgets"
)

func (c *converts) definition(reviews string) string {
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: gadgets, kind: Gadget}
  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: %s, clientConfig: {url: "%s/convert", caBundle: %s}}}
  versions:
  - {name: v1, served: true, storage: true, subresources: {status: {}}, selectableFields: [{jsonPath: .spec.address}],
     schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {address: {type: string}, mode: {type: string, default: fast}}}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}
  - {name: v2, served: true, storage: false, subresources: {status: {}}, selectableFields: [{jsonPath: .spec.host}],
     schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {host: {type: string}, port: {type: string}, extra: {type: string, default: e}}}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}
`, reviews, c.URL, base64Of(c.ca))
}

func base64Of(s string) string {
	b, _ := json.Marshal([]byte(s))
	return string(b)
}

func v1Gadget(name, address string) string {
	return fmt.Sprintf("apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: %s}\nspec: {address: '%s'}", name, address)
}

func v2Gadget(name, host, port string) string {
	return fmt.Sprintf("apiVersion: example.com/v2\nkind: Gadget\nmetadata: {name: %s}\nspec: {host: '%s', port: '%s'}", name, host, port)
}

// TestConversion: every verb in either version, each with its schema, and what a webhook
// may not change.
func TestConversion(t *testing.T) {
	w, c := start(t), newConverts(t)
	w.define(c.definition("[v1]"))
	o := w.must(201, "POST", gadgetsV2, v2Gadget("a", "h", "80"))
	if o.get("apiVersion") != "example.com/v2" || o.get("spec.host") != "h" || o.get("spec.port") != "80" || o.get("spec.extra") != "e" {
		t.Errorf("created: %s", o.raw)
	}
	o = w.must(200, "GET", gadgetsV1+"/a", "")
	if o.get("spec.address") != "h:80" || o.get("spec.mode") != "fast" || o.get("spec.host") != nil || o.get("metadata.generation") != 1.0 {
		t.Errorf("in the stored version: %s", o.raw)
	}
	w.must(201, "POST", gadgetsV1, v1Gadget("b", "g:443"))
	c.count()
	for range 3 {
		l := w.must(200, "GET", gadgetsV2, "")
		if l.get("items.1.spec.host") != "g" || l.get("items.1.apiVersion") != "example.com/v2" || l.get("items.1.metadata.labels.seen-as") != "v2" {
			t.Errorf("list: %s", l.raw)
		}
	}
	if calls, objects := c.count(); calls != 1 || objects != 1 {
		t.Errorf("three lists made %d calls for %d objects", calls, objects)
	}
	if l := w.must(200, "GET", gadgetsV2+"?fieldSelector=spec.host%3Dg", ""); l.get("items.0.metadata.name") != "b" || l.get("items.1") != nil {
		t.Errorf("by a field of the second version: %s", l.raw)
	}
	o = w.must(200, "PATCH", gadgetsV2+"/b", `{"spec":{"port":"444"}}`, "Content-Type", "application/merge-patch+json")
	if o.get("spec.port") != "444" || o.get("metadata.generation") != 2.0 {
		t.Errorf("patched: %s", o.raw)
	}
	w.must(200, "PATCH", gadgetsV2+"/b/status", `{"status":{"ok":true}}`, "Content-Type", "application/merge-patch+json")
	if o = w.must(200, "GET", gadgetsV1+"/b", ""); o.get("spec.address") != "g:444" || o.get("status.ok") != true || o.get("metadata.generation") != 2.0 {
		t.Errorf("after a patch and a status in the other version: %s", o.raw)
	}
	apply := func(code int, path, manager, doc string) answer {
		return w.must(code, "PATCH", path+"?fieldManager="+manager, doc, "Content-Type", "application/apply-patch+yaml")
	}
	apply(201, gadgetsV1+"/s", "one", v1Gadget("s", "x:1"))
	a := apply(409, gadgetsV2+"/s", "two", v2Gadget("s", "y", "1"))
	if !strings.Contains(a.message(), `conflict with "one": .spec.address`) {
		t.Errorf("a conflict across versions: %s", a.raw)
	}
	apply(200, gadgetsV2+"/s", "two", "apiVersion: example.com/v2\nkind: Gadget\nmetadata: {name: s}\nspec: {extra: more}")
	w.must(200, "DELETE", gadgetsV2+"/b", "")
	w.must(404, "GET", gadgetsV1+"/b", "")
}

// TestConversionWatch: a watch in a version that is not stored sees every change converted,
// and none of it keeps the server from anything else.
func TestConversionWatch(t *testing.T) {
	w, c := start(t), newConverts(t)
	w.define(c.definition("[v1beta1, v1]"))
	w.must(201, "POST", gadgetsV1, v1Gadget("a", "h:1"))
	resp, err := w.http.Get(w.url + gadgetsV2 + "?watch=true&timeoutSeconds=120")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func(kind, host, port string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the watch ended: %v", lines.Err())
		}
		var e struct {
			Type   string
			Object map[string]any
		}
		_ = json.Unmarshal(lines.Bytes(), &e)
		o := answer{body: e.Object}
		if e.Type != kind || o.get("spec.host") != host || o.get("spec.port") != port || o.get("apiVersion") != "example.com/v2" {
			t.Errorf("event %s", lines.Text())
		}
	}
	next("ADDED", "h", "1")
	w.must(201, "POST", gadgetsV2, v2Gadget("b", "g", "2"))
	next("ADDED", "g", "2")
	w.must(200, "PATCH", gadgetsV1+"/a", `{"spec":{"address":"h:3"}}`, "Content-Type", "application/merge-patch+json")
	next("MODIFIED", "h", "3")
	w.must(200, "DELETE", gadgetsV1+"/a", "")
	next("DELETED", "h", "3")
	if c.version != "apiextensions.k8s.io/v1beta1" {
		t.Errorf("asked in %s", c.version)
	}
	hold := make(chan struct{})
	c.set(nil, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	})
	w.must(201, "POST", gadgetsV1, v1Gadget("c", "h:1")) // the watch asks the webhook now
	begin := time.Now()
	w.must(201, "POST", "/api/v1/namespaces/default/configmaps", "metadata: {name: x}")
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("a webhook that hangs held up another kind for %v", took)
	}
	close(hold)
}

// TestConversionFailures: in upstream's words, and the stored version stays usable.
func TestConversionFailures(t *testing.T) {
	w, c := start(t), newConverts(t)
	w.define(c.definition("[v1]"))
	w.must(201, "POST", gadgetsV1, v1Gadget("a", "h:1"))
	response := func(r map[string]any) map[string]any { return r["response"].(map[string]any) }
	first := func(r map[string]any) map[string]any {
		return response(r)["convertedObjects"].([]any)[0].(map[string]any)
	}
	meta := func(r map[string]any) map[string]any { return first(r)["metadata"].(map[string]any) }
	const about = "conversion webhook for example.com/v1, Kind=Gadget "
	for _, tc := range []struct {
		says   string
		spoil  func(map[string]any)
		answer http.HandlerFunc
	}{
		{about + "failed: no response provided", func(r map[string]any) { delete(r, "response") }, nil},
		{about + `failed: expected response.uid="`, func(r map[string]any) { response(r)["uid"] = "x" }, nil},
		{about + "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got ", func(r map[string]any) { r["kind"] = "Other" }, nil},
		{about + "failed: I do not like it", func(r map[string]any) {
			response(r)["result"] = map[string]any{"status": "Failure", "message": "I do not like it"}
		}, nil},
		{about + "failed: response.result.status was '', not 'Success'", func(r map[string]any) { response(r)["result"] = map[string]any{} }, nil},
		{about + "returned 0 objects, expected 1", func(r map[string]any) { response(r)["convertedObjects"] = []any{} }, nil},
		{"invalid groupVersion (expected example.com/v2, received example.com/v3)", func(r map[string]any) { first(r)["apiVersion"] = "example.com/v3" }, nil},
		{"must have the same name: a != b", func(r map[string]any) { meta(r)["name"] = "b" }, nil},
		{"must have the same UID: ", func(r map[string]any) { meta(r)["uid"] = "b" }, nil},
		{"missing metadata in converted object", func(r map[string]any) { delete(first(r), "metadata") }, nil},
		{"metadata.labels[l] must be a string, but is", func(r map[string]any) { meta(r)["labels"] = map[string]any{"l": 1} }, nil},
		{`Invalid value: "not a label!"`, func(r map[string]any) { meta(r)["labels"] = map[string]any{"l": "not a label!"} }, nil},
		{about + "failed: ", nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }},
		{`an error on the server ("down") has prevented the request from succeeding`, nil, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", 500) }},
	} {
		c.set(tc.spoil, tc.answer)
		for _, path := range []string{gadgetsV2 + "/a", gadgetsV2} {
			a := w.do("GET", path, "")
			// an object that lost its name or UID cannot be told from another
			if a.code != 500 || !strings.Contains(a.message(), tc.says) && !strings.Contains(tc.says, "missing metadata") || strings.HasPrefix(a.message(), "Internal error occurred") {
				t.Errorf("GET %s: %d %s\nwant %s", path, a.code, a.raw, tc.says)
			}
		}
		w.must(200, "GET", gadgetsV1+"/a", "")
	}
	a := w.do("POST", gadgetsV2, v2Gadget("x", "h", "1"))
	if a.code != 500 {
		t.Errorf("a create that cannot be converted: %d %s", a.code, a.raw)
	}
	c.set(nil, nil)
	w.must(404, "GET", gadgetsV1+"/x", "")
	w.must(200, "GET", gadgetsV2+"/a", "")
	var page strings.Builder
	numbers := prometheus.NewPedanticRegistry()
	numbers.MustRegister(w.crd.Collector())
	families, err := numbers.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&page, f); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(page.String(), `apiserver_conversion_webhook_request_total{failure_type="conversion_webhook_partial_response_failure",result="failure"}`) ||
		!strings.Contains(page.String(), `apiserver_crd_conversion_webhook_duration_seconds_count{crd_name="gadgets.example.com",from_version="v1",succeeded="false",to_version="v2"}`) {
		t.Error(page.String())
	}
}

// TestStorageVersionMoves: objects of the old version are read as ever, an update that
// changes nothing stores them anew, and the server starts without its webhook.
func TestStorageVersionMoves(t *testing.T) {
	store := memory.New()
	w, c := startOn(t, store), newConverts(t)
	w.define(c.definition("[v1]"))
	w.must(201, "POST", gadgetsV1, v1Gadget("old", "h:1"))
	now := w.must(200, "GET", crdPath+"/gadgets.example.com", "")
	doc := strings.NewReplacer("{name: v1, served: true, storage: true", "{name: v1, served: true, storage: false", "{name: v2, served: true, storage: false", "{name: v2, served: true, storage: true",
		"{name: gadgets.example.com}", fmt.Sprintf("{name: gadgets.example.com, resourceVersion: '%v'}", now.get("metadata.resourceVersion"))).Replace(c.definition("[v1]"))
	w.must(200, "PUT", crdPath+"/gadgets.example.com", doc)
	w.until("gadgets.example.com", "stored versions", func(a answer) bool { return fmt.Sprint(a.get("status.storedVersions")) == "[v1 v2]" })
	made := 0
	w.eventually("the new storage version", func() bool { // the old one is written until the definition has been looked at
		made++
		name := fmt.Sprintf("new-%d", made)
		if w.do("POST", gadgetsV1, v1Gadget(name, "h:2")).code != 201 {
			return false
		}
		kv, err := store.Get(t.Context(), "/registry/example.com/gadgets/default/"+name, 0)
		if err == nil && bytes.Contains(kv.Value, []byte("example.com/v2")) {
			return true
		}
		w.must(200, "DELETE", gadgetsV1+"/"+name, "")
		return false
	})
	o := w.must(200, "GET", gadgetsV2+"/old", "")
	if o.get("spec.host") != "h" {
		t.Errorf("an object of the old version: %s", o.raw)
	}
	b, _ := json.Marshal(o.body)
	again := w.must(200, "PUT", gadgetsV2+"/old", string(b))
	if again.get("metadata.resourceVersion") == o.get("metadata.resourceVersion") {
		t.Error("an update that changes nothing did not migrate the object")
	}
	b, _ = json.Marshal(again.body)
	if o = w.must(200, "PUT", gadgetsV2+"/old", string(b)); again.get("metadata.resourceVersion") != o.get("metadata.resourceVersion") {
		t.Error("an object that was migrated is written again")
	}
	w.stop()
	c.Close()
	w = startOn(t, store)
	w.must(200, "GET", gadgetsV2, "")
	w.must(500, "GET", gadgetsV1, "")
	w.must(200, "DELETE", gadgetsV2+"/old", "")
	w.must(200, "DELETE", crdPath+"/gadgets.example.com", "")
	w.eventually("the definition's end without a webhook", func() bool { return w.do("GET", crdPath+"/gadgets.example.com", "").code == 404 })
}

// TestManyAreConvertedInBatches and pages convert what they show.
func TestManyAreConvertedInBatches(t *testing.T) {
	w, c := start(t), newConverts(t)
	w.define(c.definition("[v1]"))
	const n = 620
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				w.must(201, "POST", gadgetsV1, v1Gadget(fmt.Sprintf("g%04d", i), fmt.Sprint("h:", i)))
			}
		})
	}
	wg.Wait()
	c.count()
	w.must(200, "GET", gadgetsV2+"?limit=10", "")
	if calls, objects := c.count(); calls != 1 || objects != 11 {
		t.Errorf("a page of ten: %d calls, %d objects", calls, objects)
	}
	l := w.must(200, "GET", gadgetsV2+"?limit=2&labelSelector=seen-as%3Dv2", "")
	if calls, objects := c.count(); calls != 1 || objects != 500-11 || l.get("metadata.continue") == nil {
		t.Errorf("a page by a selector: %d calls, %d objects, %s", calls, objects, l.get("metadata.continue"))
	}
	l = w.must(200, "GET", gadgetsV2, "")
	if calls, objects := c.count(); len(l.body["items"].([]any)) != n || calls != 1 || objects != n-500 {
		t.Errorf("%d items by %d calls for %d objects", len(l.body["items"].([]any)), calls, objects)
	}
	for range 4 { // at once: nobody asks for what another asks for
		wg.Go(func() { w.must(200, "GET", gadgetsV2+"?labelSelector=seen-as%3Dv2", "") })
	}
	wg.Wait()
	if calls, _ := c.count(); calls != 0 {
		t.Errorf("%d calls for unchanged objects", calls)
	}
}
