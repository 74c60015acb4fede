package wire

import (
	"net/http/httptest"
	"testing"
)

func TestNegotiate(t *testing.T) {
	all := Offer{Protobuf: true, Table: true, Metadata: true}
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io"
	for _, c := range []struct {
		name, accept string
		offer        Offer
		want         Media
		refused      bool
	}{
		{"nothing", "", all, Media{}, false},
		{"anything", "*/*", all, Media{}, false},
		{"browser", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", all, Media{}, false},
		{"protobuf first", "application/vnd.kubernetes.protobuf,application/json", all, Media{Format: Protobuf}, false},
		{"protobuf not offered", "application/vnd.kubernetes.protobuf,application/json", Offer{}, Media{}, false},
		{"protobuf only, not offered", "application/vnd.kubernetes.protobuf", Offer{}, Media{}, true},
		{"weights", "application/json;q=0.2, application/yaml;q=0.7", all, Media{Format: YAML}, false},
		{"kubectl", table + ",application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", all, Media{Shape: Table, Version: "v1"}, false},
		{"table not offered", table + ",application/json", Offer{}, Media{}, false},
		{"table in protobuf", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io," + table, all, Media{Shape: Table, Version: "v1"}, false},
		{"old table", "application/json;as=Table;v=v1beta1;g=meta.k8s.io", all, Media{Shape: Table, Version: "v1beta1"}, false},
		{"table of another group", "application/json;as=Table;v=v1;g=x.io", all, Media{}, true},
		{"metadata", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json", all, Media{Format: Protobuf, Shape: Metadata, Version: "v1"}, false},
		{"watch stream", "application/json;stream=watch", all, Media{}, false},
		{"other stream", "application/json;stream=x", all, Media{}, true},
		{"pretty", "application/json;pretty=1", all, Media{Pretty: true}, false},
		{"upper case", "Application/JSON", all, Media{}, false},
		{"nonsense", ";;;,,=", all, Media{}, true},
		{"cbor", "application/cbor", all, Media{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Negotiate(c.accept, c.offer)
			if (err != nil) != c.refused || err == nil && got != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestPretty(t *testing.T) {
	for _, c := range []struct {
		target, agent string
		want          bool
	}{
		{"/", "", false}, {"/?pretty=1", "", true}, {"/?pretty=true&x=1", "", true}, {"/?x=1&pretty", "", false}, {"/?pretty=false", "curl/8", false},
		{"/", "curl/8", true}, {"/", "Mozilla/5.0 (X11)", true}, {"/?notpretty=1", "", false},
	} {
		r := httptest.NewRequest("GET", c.target, nil)
		r.Header.Set("User-Agent", c.agent)
		if got := (Media{}).PrettyFor(r).Pretty; got != c.want {
			t.Errorf("%s by %q: %t", c.target, c.agent, got)
		}
	}
}

func TestBodyFormat(t *testing.T) {
	for contentType, want := range map[string]Format{"": JSON, "application/json; charset=utf-8": JSON, "application/yaml": YAML, "application/vnd.kubernetes.protobuf": Protobuf} {
		if got, err := BodyFormat(contentType); err != nil || got != want {
			t.Errorf("%q: %v, %v", contentType, got, err)
		}
	}
	if _, err := BodyFormat("text/plain"); err == nil || StatusOf(err).Code != 415 {
		t.Errorf("text/plain: %v", err)
	}
}

func TestYAMLComplaints(t *testing.T) {
	got := yamlComplaints("error converting YAML to JSON: yaml: unmarshal errors:\n  line 4: key \"x\" already set in map\n  line 5: key \"y\" already set in map")
	if len(got) != 2 || got[0] != `line 4: key "x" already set in map` {
		t.Errorf("%q", got)
	}
	if got := yamlComplaints(`unknown field "spec.foo"`); len(got) != 1 || got[0] != `unknown field "spec.foo"` {
		t.Errorf("%q", got)
	}
}
