package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"orch/runtime/engine"
)

func TestNormalize(t *testing.T) {
	tests := []struct{ in, want string }{
		{"busybox", "docker.io/library/busybox:latest"},
		{"busybox:1.36", "docker.io/library/busybox:1.36"},
		{"myorg/app:v1", "docker.io/myorg/app:v1"},
		{"ghcr.io/x/y", "ghcr.io/x/y:latest"},
		{"localhost:5000/x:1", "localhost:5000/x:1"},
		{"index.docker.io/library/busybox", "docker.io/library/busybox:latest"},
		{"a@sha256:" + hex64, "docker.io/library/a@sha256:" + hex64},
		{"a:1@sha256:" + hex64, "docker.io/library/a@sha256:" + hex64},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := Normalize(tt.in)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	for _, bad := range []string{"", "UPPER", "a b", "x:y:z", "../x"} {
		if got, err := Normalize(bad); err == nil {
			t.Errorf("%q was accepted as %q", bad, got)
		}
	}
}

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/:/bin/sh\n", "bin/app": "#!\n", "srv/www/index.html": "hi\n"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("app", filepath.Join(dir, "bin/link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPackIsDeterministic(t *testing.T) {
	dir := tree(t)
	o := PackOptions{
		Source: dir, Names: []string{"myapp:1.4.2", "ghcr.io/x/myapp"}, Entrypoint: []string{"/bin/app"},
		Env: []string{"A=b"}, Ports: []string{"8080", "53/udp"}, User: "1000", Platform: "linux/arm64",
		Links: map[string]string{"/usr/bin/x": "/bin/app", "/bin/y": "app"},
	}
	var a, b bytes.Buffer
	if err := Pack(o, &a); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "bin/app"), later, later); err != nil {
		t.Fatal(err)
	}
	if err := Pack(o, &b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same input gave other bytes")
	}
	files := untar(t, &a)
	var idx imagespec.Index
	if err := json.Unmarshal(files["index.json"], &idx); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range idx.Manifests {
		names = append(names, m.Annotations["io.containerd.image.name"])
		if m.Platform.Architecture != "arm64" {
			t.Errorf("platform is %+v", m.Platform)
		}
	}
	if d := cmp.Diff([]string{"docker.io/library/myapp:1.4.2", "ghcr.io/x/myapp:latest"}, names); d != "" {
		t.Error(d)
	}
	var docker []struct{ RepoTags []string }
	if err := json.Unmarshal(files["manifest.json"], &docker); err != nil || docker[0].RepoTags[0] != "myapp:1.4.2" {
		t.Errorf("docker's list: %+v %v", docker, err)
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	dir := tree(t)
	tests := []struct {
		name string
		o    PackOptions
	}{
		{"no name", PackOptions{Source: dir}},
		{"bad name", PackOptions{Source: dir, Names: []string{"UPPER"}}},
		{"digest as name", PackOptions{Source: dir, Names: []string{"a@sha256:" + hex64}}},
		{"no source", PackOptions{Source: dir + "/none", Names: []string{"a"}}},
		{"bad platform", PackOptions{Source: dir, Names: []string{"a"}, Platform: "a/b/c/d"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := Pack(tt.o, io.Discard); err == nil {
				t.Error("was accepted")
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRewrite(t *testing.T) {
	var got string
	r := newRewriter(roundTrip(func(r *http.Request) (*http.Response, error) {
		got = r.URL.String()
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}), map[string]string{"^library/(.*)": "mirror/$1"})
	tests := []struct{ in, want string }{
		{"https://h/v2/library/nginx/manifests/1", "https://h/v2/mirror/nginx/manifests/1"},
		{"https://h/v2/other/nginx/blobs/sha256:1", "https://h/v2/other/nginx/blobs/sha256:1"},
		{"https://h/proxy/v2/library/a/b/blobs/x", "https://h/proxy/v2/mirror/a/b/blobs/x"},
		{"https://h/token?scope=repository%3Alibrary%2Fnginx%3Apull", "https://h/token?scope=repository%3Amirror%2Fnginx%3Apull"},
	}
	for _, tt := range tests {
		u, err := url.Parse(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.RoundTrip(&http.Request{URL: u, Header: http.Header{}}); err != nil {
			t.Fatal(err)
		}
		if got != tt.want {
			t.Errorf("%s became %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestRegistriesFile(t *testing.T) {
	write := func(text string) string {
		p := filepath.Join(t.TempDir(), "registries.yaml")
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	r, err := LoadRegistries(write(`
mirrors:
  docker.io:
    endpoint: ["https://mirror.example/v2", "http://10.0.0.1:5000"]
    rewrite: {"^library/(.*)": "x/$1"}
  "*":
    endpoint: ["cache.example"]
configs:
  mirror.example:
    auth: {username: u, password: p}
  "10.0.0.1:5000":
    auth: {auth: dTI6cDI=}
`))
	if err != nil {
		t.Fatal(err)
	}
	pull := engine.Auth{Username: "pull", Password: "secret"}
	endpoints := func(host string) (out []string) {
		hosts, err := r.hosts(pull)(host)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hosts {
			out = append(out, h.Scheme+"://"+h.Host+h.Path)
		}
		return out
	}
	if d := cmp.Diff([]string{"https://mirror.example/v2", "http://10.0.0.1:5000/v2", "https://registry-1.docker.io/v2"}, endpoints("docker.io")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"https://cache.example/v2", "https://quay.io/v2"}, endpoints("quay.io")); d != "" {
		t.Error(d)
	}
	for host, want := range map[string]engine.Auth{
		"mirror.example": {Username: "u", Password: "p"}, "10.0.0.1:5000": {Username: "u2", Password: "p2"},
		"registry-1.docker.io": pull, "cache.example": {},
	} {
		if got := r.login("docker.io", host, pull); got != want {
			t.Errorf("login for %s is %+v", host, got)
		}
	}
	for name, text := range map[string]string{
		"no yaml": "mirrors: [", "bad pattern": "mirrors: {a: {rewrite: {'(': x}}}", "bad endpoint": "mirrors: {a: {endpoint: ['http://']}}",
	} {
		if _, err := LoadRegistries(write(text)); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	if _, err := LoadRegistries(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("an absent file: %v", err)
	}
}
