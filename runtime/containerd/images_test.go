package containerd

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"archive/tar"

	"github.com/klauspost/compress/zstd"

	"orch/runtime/engine"
	"orch/runtime/image"
)

func packed(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := image.Pack(image.PackOptions{Source: "/bin/busybox", Names: names, Labels: map[string]string{"n": names[0]}}, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// without leaves files out of an archive.
func without(t *testing.T, archive []byte, drop ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		skip := false
		for _, d := range drop {
			skip = skip || h.Name == d
		}
		if skip {
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

func zstdOf(b []byte) []byte {
	z, _ := zstd.NewWriter(nil)
	return z.EncodeAll(b, nil)
}

func TestImages(t *testing.T) {
	c := testConfig(t)
	c.Registries = filepath.Join(c.Root, "registries.yaml")
	e := open(t, c)
	t.Run("ImportForms", func(t *testing.T) { importForms(t, e) })
	t.Run("ImportNames", func(t *testing.T) { importNames(t, e) })
	t.Run("ImportRefuses", func(t *testing.T) { importRefuses(t, e) })
	t.Run("Remove", func(t *testing.T) { removeImage(t, e) })
	t.Run("Folder", func(t *testing.T) { folder(t, e) })
	t.Run("Pull", func(t *testing.T) { pull(t, e, c.Registries) })
}

func importForms(t *testing.T, e *Engine) {
	oci := packed(t, "form-oci:1", "form-oci:2")
	tests := []struct {
		name    string
		archive []byte
		want    []string
	}{
		{"oci and docker", oci, []string{"docker.io/library/form-oci:1", "docker.io/library/form-oci:2"}},
		{"docker only", without(t, packed(t, "form-docker:1"), "index.json", "oci-layout"), []string{"docker.io/library/form-docker:1"}},
		{"oci only", without(t, packed(t, "form-only:1"), "manifest.json"), []string{"docker.io/library/form-only:1"}},
		{"gzip", zipped(packed(t, "x.example/form-gz:1")), []string{"x.example/form-gz:1"}},
		{"zstd", zstdOf(packed(t, "form-zst")), []string{"docker.io/library/form-zst:latest"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := e.Images().Import(t.Context(), bytes.NewReader(tt.archive), true)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || !got[0].Pinned || fmt.Sprint(got[0].Names) != fmt.Sprint(tt.want) {
				t.Errorf("imported %+v, want names %v", got, tt.want)
			}
			// Once more is no error and changes nothing.
			if _, err := e.Images().Import(t.Context(), bytes.NewReader(tt.archive), false); err != nil {
				t.Error(err)
			}
			img, err := e.Images().Resolve(t.Context(), tt.want[0])
			if err != nil || !img.Pinned {
				t.Errorf("after importing again: %+v %v", img, err)
			}
		})
	}
}

// importNames: an image that the host knows by other names as well was reported with all of them.
func importNames(t *testing.T, e *Engine) {
	for _, name := range []string{"alias:1", "alias:2"} {
		var archive bytes.Buffer
		if err := image.Pack(image.PackOptions{Source: "/bin/busybox", Names: []string{name}, Labels: map[string]string{"n": "alias"}}, &archive); err != nil {
			t.Fatal(err)
		}
		got, err := e.Images().Import(t.Context(), &archive, true)
		if err != nil {
			t.Fatal(err)
		}
		if want := "[docker.io/library/" + name + "]"; len(got) != 1 || fmt.Sprint(got[0].Names) != want {
			t.Errorf("imported %+v, want names %s", got, want)
		}
	}
	if img, err := e.Images().Resolve(t.Context(), "alias:1"); err != nil || !slices.Contains(img.Names, "docker.io/library/alias:2") {
		t.Errorf("known afterwards: %+v %v", img, err)
	}
}

func importRefuses(t *testing.T, e *Engine) {
	foreign := new(bytes.Buffer)
	if err := image.Pack(image.PackOptions{Source: "/bin/busybox", Names: []string{"foreign"}, Platform: "linux/s390x"}, foreign); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "no archive": []byte("hello"), "torn": packed(t, "torn:1")[:5000], "other machine": foreign.Bytes(),
	} {
		if got, err := e.Images().Import(t.Context(), bytes.NewReader(b), false); err == nil {
			t.Errorf("%s: was accepted: %+v", name, got)
		}
	}
}

func removeImage(t *testing.T, e *Engine) {
	got, err := e.Images().Import(t.Context(), bytes.NewReader(packed(t, "rm:1", "rm:2")), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Images().Remove(t.Context(), got[0].ID); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"rm:1", "rm:2", got[0].ID} {
		if _, err := e.Images().Resolve(t.Context(), ref); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("%s after removal: %v", ref, err)
		}
	}
}

// patience is how long a test waits for what must happen, on a machine that is busy.
const patience = time.Minute

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func folder(t *testing.T, e *Engine) {
	dir := t.TempDir()
	has := func(ref string) bool {
		img, err := e.Images().Resolve(t.Context(), ref)
		return err == nil && img.Pinned
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.tar", packed(t, "folder-a:1"))
	write("bad.tar", []byte("no archive"))
	ctx, cancel := context.WithCancel(t.Context())
	run := func(ctx context.Context) (*image.Dir, chan error) {
		d, err := image.NewDir(image.DirConfig{Path: dir, Images: e.Images()})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		<-d.Ready()
		return d, done
	}
	_, done := run(ctx)
	if !has("folder-a:1") {
		t.Error("an archive that was there is not imported")
	}
	write("b.tar.zst", zstdOf(packed(t, "folder-b:1")))
	until(t, "an archive that was written is imported", func() bool { return has("folder-b:1") })
	// Half-written: nothing happens before it is closed.
	whole := packed(t, "folder-c:1")
	f, err := os.Create(filepath.Join(dir, "c.tar"))
	if err != nil {
		t.Fatal(err)
	}
	f.Write(whole[:len(whole)/2])
	f.Sync()
	f.Write(whole[len(whole)/2:])
	f.Close()
	until(t, "an archive that was written slowly is imported", func() bool { return has("folder-c:1") })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// A new start skips what has not changed, unless its image is gone.
	if err := e.Images().Remove(t.Context(), "folder-a:1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	_, done = run(ctx)
	if !has("folder-a:1") {
		t.Error("an archive whose image was removed is not imported again")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// fakeRegistry is a registry of one image, as small as can be.
type fakeRegistry struct {
	blobs    map[string][]byte // by digest, manifests too
	types    map[string]string
	manifest string
	user     string // wants this user with password "secret"
	seen     []string
}

func newRegistry(t *testing.T, archive []byte) *fakeRegistry {
	t.Helper()
	r := &fakeRegistry{blobs: map[string][]byte{}, types: map[string]string{}}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "blobs/") {
			sum := sha256.Sum256(b)
			r.blobs["sha256:"+hex.EncodeToString(sum[:])] = b
		}
		if h.Name == "index.json" {
			var idx struct {
				Manifests []struct{ Digest, MediaType string }
			}
			if err := json.Unmarshal(b, &idx); err != nil {
				t.Fatal(err)
			}
			r.manifest = idx.Manifests[0].Digest
			r.types[r.manifest] = idx.Manifests[0].MediaType
		}
	}
}

var registryPath = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/(.+)$`)

func (r *fakeRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if user, pass, _ := req.BasicAuth(); r.user != "" && (user != r.user || pass != "secret") {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	m := registryPath.FindStringSubmatch(req.URL.Path)
	if m == nil {
		w.WriteHeader(http.StatusOK)
		return
	}
	r.seen = append(r.seen, m[1])
	d := m[3]
	if m[2] == "manifests" && !strings.HasPrefix(d, "sha256:") {
		d = r.manifest
	}
	b, ok := r.blobs[d]
	if !ok || strings.Contains(m[1], "missing") {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	if t := r.types[d]; t != "" {
		w.Header().Set("Content-Type", t)
	}
	w.Header().Set("Docker-Content-Digest", d)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b))
}

func pull(t *testing.T, e *Engine, file string) {
	reg := newRegistry(t, packed(t, "pulled:1"))
	srv := httptest.NewServer(reg)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")

	var done, total int64
	img, err := e.Images().Pull(t.Context(), host+"/team/app:1", nil, func(d, n int64) { done, total = d, n })
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Names) != 1 || img.Names[0] != host+"/team/app:1" || done == 0 || done != total {
		t.Errorf("pulled %+v, %d of %d bytes", img, done, total)
	}
	if err := e.Images().Remove(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}

	reg.user = "anna"
	if _, err := e.Images().Pull(t.Context(), host+"/team/app:1", []engine.Auth{{Username: "bob", Password: "x"}}, nil); err == nil {
		t.Error("a wrong login was enough")
	}
	auths := []engine.Auth{{Username: "bob", Password: "x"}, {Username: "anna", Password: "secret"}}
	if _, err := e.Images().Pull(t.Context(), host+"/team/app:1", auths, nil); err != nil {
		t.Errorf("the second login: %v", err)
	}
	if _, err := e.Images().Pull(t.Context(), host+"/missing/app:1", auths, nil); err == nil || !strings.Contains(err.Error(), "missing/app:1") {
		t.Errorf("an image that is not there: %v", err)
	}

	// A registry nobody can reach, by a mirror with a login and another name.
	text := fmt.Sprintf("mirrors:\n  nowhere.example:\n    endpoint: [%q]\n    rewrite: {\"^(.*)$\": \"cache/$1\"}\nconfigs:\n  %q:\n    auth: {username: anna, password: secret}\n", srv.URL, host)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	reg.seen = nil
	img, err = e.Images().Pull(t.Context(), "nowhere.example/a/b:2", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(reg.seen) == 0 || reg.seen[0] != "cache/a/b" {
		t.Errorf("the mirror was asked for %v", reg.seen)
	}
	if got, err := e.Images().Resolve(t.Context(), "nowhere.example/a/b:2"); err != nil || got.ID != img.ID {
		t.Errorf("resolving what came by the mirror: %v", err)
	}
}
