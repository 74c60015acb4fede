package rest

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"orch/server/access"
)

const configMaps = "/api/v1/namespaces/default/configmaps"

func TestHostileBodies(t *testing.T) {
	w := newWorld(t, nil)
	deep := strings.Repeat(`{"a":`, 100_000)
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		n, m := string(rune('a'+i)), string(rune('b'+i))
		if i == 0 {
			n = "a0"
		}
		bomb += m + ": &" + m + " [" + strings.Repeat("*"+n+",", 9) + "]\n"
	}
	for _, c := range []struct {
		name, contentType, body string
		code                    int
		want                    string
	}{
		{"over the limit", "application/json", `{"data":{"k":"` + strings.Repeat("x", 3<<20) + `"}}`, 413, "Request entity too large: limit is 3145728"},
		{"deep JSON", "application/json", `{"metadata":{"name":"a"},"data":` + deep, 400, "BadRequest"},
		{"deep JSON list", "application/json", strings.Repeat("[", 1_000_000), 400, "BadRequest"},
		{"deep YAML", "application/yaml", strings.Repeat("[", 1_000_000), 400, "BadRequest"},
		{"YAML bomb", "application/yaml", bomb, 400, "BadRequest"},
		{"no object", "application/json", `"text"`, 400, "BadRequest"},
		{"null", "application/json", `null`, 422, "name or generateName is required"},
		{"list for object", "application/json", `{"kind":"ConfigMapList","apiVersion":"v1","items":[]}`, 400, "cannot be handled as a ConfigMap"},
		{"unknown kind", "application/json", `{"kind":"Wonder","apiVersion":"v1"}`, 400, "BadRequest"},
		{"invalid UTF-8", "application/json", "{\"metadata\":{\"name\":\"\xff\"}}", 422, "Invalid"},
		{"protobuf magic alone", protobufType, "k8s\x00", 400, "BadRequest"},
		{"protobuf nonsense", protobufType, "k8s\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff", 400, "BadRequest"},
		{"protobuf lengths", protobufType, "k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\xff\xff\xff\xff\x07x", 400, "BadRequest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, data := w.do(t, "POST", configMaps, c.body, "Content-Type", c.contentType)
			if resp.StatusCode != c.code || !strings.Contains(string(data), c.want) {
				t.Errorf("%s %.300s", resp.Status, data)
			}
			if !strings.HasPrefix(string(data), `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure"`) {
				t.Errorf("no Status: %.300s", data)
			}
		})
	}
	t.Run("over the limit without a length", func(t *testing.T) {
		r, err := http.NewRequest("POST", w.http.URL+configMaps, io.MultiReader(strings.NewReader(`{"data":{"k":"`), strings.NewReader(strings.Repeat("x", 4<<20))))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("many media types", func(t *testing.T) {
		if resp, _ := w.do(t, "GET", configMaps, "", "Accept", strings.Repeat("a/b;q=0.1,", 1000)); resp.StatusCode != 406 {
			t.Errorf("%s", resp.Status)
		}
	})
	t.Run("patches", func(t *testing.T) {
		w.make(t, "a")
		for contentType, body := range map[string]string{
			"application/json-patch+json":            `[{"op":"wish","path":"/x"}]`,
			"application/merge-patch+json":           `[1]`,
			"application/strategic-merge-patch+json": deep,
			"application/apply-patch+yaml":           "a: [",
		} {
			resp, data := w.do(t, "PATCH", configMaps+"/a?fieldManager=m", body, "Content-Type", contentType)
			if resp.StatusCode/100 != 4 || !strings.Contains(string(data), `"kind":"Status"`) {
				t.Errorf("%s: %s %.300s", contentType, resp.Status, data)
			}
		}
	})
	if strings.Contains(w.log.String(), "panic") {
		t.Error(w.log.String())
	}
}

// explosive authorization shows what a bug anywhere behind the gate does.
type explosive struct{ everybody }

func (explosive) Authorize(_ context.Context, at access.Attributes) (bool, string, error) {
	if at.Name == "bomb" {
		panic("boom")
	}
	return true, "", nil
}

func TestPanicIsAnError(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Authorizer = explosive{} })
	resp, data := w.do(t, "GET", configMaps+"/bomb", "")
	if resp.StatusCode != 500 || !strings.Contains(string(data), `"reason":"InternalError"`) {
		t.Errorf("%s %s", resp.Status, data)
	}
	if !strings.Contains(w.log.String(), "boom") {
		t.Error("nothing in the log")
	}
	if resp, _ := w.do(t, "GET", configMaps, ""); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}

// The server as it runs: HTTP/2 with TLS, a watch, and a stop that ends it.
func TestRunAndDrain(t *testing.T) {
	w := newWorld(t, nil)
	url, client := w.serveTLS(t)
	resp, err := client.Get(url + configMaps + "?watch=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("speaks %s", resp.Proto)
	}
	var wg sync.WaitGroup
	for range 300 { // more than the usual 250 streams
		wg.Go(func() {
			resp, err := client.Get(url + configMaps)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	}
	wg.Wait()
	w.server.drain()
	if data, err := io.ReadAll(resp.Body); err != nil || len(data) != 0 {
		t.Errorf("watch ended with %q, %v", data, err)
	}
	resp, err = client.Get(url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 500 {
		t.Errorf("readyz while draining: %s", resp.Status)
	}
}
