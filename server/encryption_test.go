package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"orch/api"
	"orch/datastore"
	"orch/datastore/bolt"
)

// sealedServer is a server on a store on disk that can be stopped and started again.
type sealedServer struct {
	t     *testing.T
	dir   string
	store *bolt.Store
	*Server
	stop func()
}

func (s *sealedServer) start(change func(*Config)) *caller {
	s.t.Helper()
	var err error
	if s.store, err = bolt.Open(bolt.Config{Path: s.db()}); err != nil {
		s.t.Fatal(err)
	}
	var stop func()
	s.Server, stop = boot(s.t, s.store, func(c *Config) {
		c.DataDir = s.dir
		if change != nil {
			change(c)
		}
	})
	s.stop = func() {
		stop()
		if err := s.store.Close(); err != nil {
			s.t.Error(err)
		}
		s.stop = func() {}
	}
	s.t.Cleanup(func() { s.stop() })
	return user(s.t, s.Server, "root", "system:masters")
}

func (s *sealedServer) db() string { return filepath.Join(s.dir, "state.db") }

// raw is the stored value of a secret in the namespace default.
func (s *sealedServer) raw(name string) string {
	s.t.Helper()
	kv, err := s.store.Get(context.Background(), "/registry/secrets/default/"+name, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(kv.Value)
}

func (s *sealedServer) status(c *caller) (st api.EncryptionStatus) {
	s.t.Helper()
	code, body := c.do("GET", api.PathEncryption, "")
	if code != 200 {
		s.t.Fatalf("status: %d %s", code, body)
	}
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		s.t.Fatal(err)
	}
	return st
}

// settled waits until nothing is being rewritten and one key is left.
func (s *sealedServer) settled(c *caller) api.EncryptionStatus {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		st := s.status(c)
		if !st.Running && len(st.Keys) == 1 || time.Now().After(deadline) {
			return st
		}
	}
}

// finished waits until nothing is being rewritten and one key is left.
func (s *sealedServer) finished(c *caller) api.EncryptionStatus {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		st := s.status(c)
		if !st.Running && st.Stage == "reencrypt_finished" && st.Progress != nil {
			return st
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not finished: %+v", st)
		}
	}
}

func (s *sealedServer) action(c *caller, name string) string {
	s.t.Helper()
	code, body := c.do("POST", api.PathEncryption, `{"action":"`+name+`"}`)
	if code != 200 {
		s.t.Fatalf("%s: %d %s", name, code, body)
	}
	return body
}

func putSecret(t testing.TB, c *caller, name, value string) {
	t.Helper()
	code, body := c.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"`+name+`"},"stringData":{"password":"`+value+`"}}`)
	if code != 201 {
		t.Fatalf("%d %s", code, body)
	}
}

func wantSecret(t testing.TB, c *caller, name string) {
	t.Helper()
	if code, body := c.do("GET", "/api/v1/namespaces/default/secrets/"+name, ""); code != 200 || !strings.Contains(body, `"password":`) {
		t.Errorf("secret %s: %d %s", name, code, body)
	}
}

const inPlain = "correct-horse-battery-staple"

func TestSecretsAreEncryptedByDefault(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(nil)
	putSecret(t, c, "a", inPlain)
	if code, body := c.do("PUT", "/api/v1/namespaces/default/secrets/a", `{"metadata":{"name":"a"},"stringData":{"password":"`+inPlain+`-2"}}`); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	if code, body := c.do("POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"a"},"data":{"k":"anybody-may-see-it"}}`); code != 201 {
		t.Fatalf("%d %s", code, body)
	}
	if !strings.HasPrefix(s.raw("a"), "k8s:enc:secretbox:v1:key1:") {
		t.Errorf("stored as %.40q", s.raw("a"))
	}
	key, err := os.Stat(filepath.Join(s.dir, "server", "cred", "encryption-config.json"))
	if err != nil || key.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v %v", key, err)
	}
	s.stop()
	file, err := os.ReadFile(s.db())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, []byte(inPlain)) {
		t.Error("the store file shows a secret")
	}
	if !bytes.Contains(file, []byte("anybody-may-see-it")) {
		t.Error("the test looks at the wrong file")
	}
	wantSecret(t, s.start(nil), "a")
}

func TestPlainStoreIsMigrated(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(func(c *Config) { c.NoSecretsEncryption = true })
	for i := range 20 {
		putSecret(t, c, fmt.Sprint("old", i), inPlain)
	}
	if st := s.status(c); st.Enabled || len(st.Keys) != 0 {
		t.Errorf("%+v", st)
	}
	s.stop()
	c = s.start(nil)
	wantSecret(t, c, "old0")
	s.finished(c)
	for i := range 20 {
		if !strings.HasPrefix(s.raw(fmt.Sprint("old", i)), "k8s:enc:secretbox:v1:key1:") {
			t.Fatalf("old%d lies in plain", i)
		}
		wantSecret(t, c, fmt.Sprint("old", i))
	}
	s.stop()
	c = s.start(nil)
	wantSecret(t, c, "old19")
	if st := s.status(c); st.Running || st.Progress != nil {
		t.Errorf("a finished migration was begun again: %+v", st)
	}
}

func TestKeysRotateUnderWrites(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(nil)
	for i := range 50 {
		putSecret(t, c, fmt.Sprint("s", i), inPlain)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c.do("PATCH", fmt.Sprintf("/api/v1/namespaces/default/secrets/s%d", (i*7+w)%50), fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, i))
			}
		})
	}
	for round := range 3 {
		body := s.action(c, "rotate-keys")
		if !strings.Contains(body, `"resource":"secrets"`) || !strings.HasSuffix(strings.TrimSpace(body), `{"finished":true}`) {
			t.Errorf("round %d: %s", round, body)
		}
	}
	close(stop)
	wg.Wait()
	if st := s.status(c); len(st.Keys) != 1 || st.Keys[0].Name != "key4" || !st.Keys[0].Active {
		t.Errorf("%+v", st)
	}
	s.stop()
	c = s.start(nil)
	for i := range 50 {
		if !strings.HasPrefix(s.raw(fmt.Sprint("s", i)), "k8s:enc:secretbox:v1:key4:") {
			t.Errorf("s%d is sealed with another key: %.40q", i, s.raw(fmt.Sprint("s", i)))
		}
		wantSecret(t, c, fmt.Sprint("s", i))
	}
}

// TestRotationSurvivesAKill makes the states on disk that a kill between any two steps
// leaves behind.
func TestRotationSurvivesAKill(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(nil)
	putSecret(t, c, "a", inPlain)
	putSecret(t, c, "b", inPlain)
	s.action(c, "rotate") // the new key is in the file and in use, nothing is rewritten
	putSecret(t, c, "c", inPlain)
	if !strings.HasPrefix(s.raw("a"), "k8s:enc:secretbox:v1:key1:") || !strings.HasPrefix(s.raw("c"), "k8s:enc:secretbox:v1:key2:") {
		t.Errorf("%.40q %.40q", s.raw("a"), s.raw("c"))
	}
	s.stop()
	c = s.start(nil)
	st := s.finished(c)
	if len(st.Keys) != 1 || st.Keys[0].Name != "key2" {
		t.Errorf("%+v", st)
	}
	for _, name := range []string{"a", "b", "c"} {
		wantSecret(t, c, name)
		if !strings.HasPrefix(s.raw(name), "k8s:enc:secretbox:v1:key2:") {
			t.Errorf("%s: %.40q", name, s.raw(name))
		}
	}
	s.action(c, "prepare") // a key that waits is kept over a restart
	s.stop()
	c = s.start(nil)
	if st := s.status(c); st.Stage != "prepare" || len(st.Keys) != 2 || st.Keys[0].Name != "key2" {
		t.Errorf("%+v", st)
	}
	s.action(c, "rotate")
	s.action(c, "reencrypt")
	if st := s.status(c); len(st.Keys) != 1 || st.Keys[0].Name != "key3" {
		t.Errorf("%+v", st)
	}
	s.action(c, "disable")
	if strings.HasPrefix(s.raw("a"), "k8s:enc:") {
		t.Error("disable left a secret encrypted")
	}
	s.action(c, "enable")
	if !strings.HasPrefix(s.raw("a"), "k8s:enc:") {
		t.Error("enable left a secret in plain")
	}
	wantSecret(t, c, "a")
}

func TestDamagedSecretsFailAndStay(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(nil)
	putSecret(t, c, "good", inPlain)
	damage := map[string]string{
		"torn":    "k8s:enc:secretbox:v1:key1:abc",
		"lost":    "k8s:enc:secretbox:v1:key9:abc",
		"kms":     "k8s:enc:kms:v2:somewhere:abc",
		"swapped": s.raw("good"),
	}
	says := map[string]string{
		"torn": "the stored data was shorter than the required size", "lost": "no matching key was found for the provided Secretbox transformer",
		"kms": "no matching prefix found", "swapped": "the value belongs to another object",
	}
	for name, value := range damage {
		if _, err := s.store.Commit(context.Background(), datastore.Txn{Ops: []datastore.Op{{Key: "/registry/secrets/default/" + name, Value: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		for name, value := range damage {
			code, body := c.do("GET", "/api/v1/namespaces/default/secrets/"+name, "")
			if want := `Internal error occurred: unable to transform key \"/registry/secrets/default/` + name + `\": ` + says[name]; code != 500 || !strings.Contains(body, want) {
				t.Errorf("%s: %d %s, want %s", name, code, body, want)
			}
			if code, body := c.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"`+name+`"}}`); code != 409 {
				t.Errorf("create over %s: %d %s", name, code, body)
			}
			if code, _ := c.do("DELETE", "/api/v1/namespaces/default/secrets/"+name, ""); code != 500 {
				t.Errorf("delete of %s: %d", name, code)
			}
			if s.raw(name) != value {
				t.Errorf("%s was changed", name)
			}
		}
		if code, _ := c.do("GET", "/api/v1/namespaces/default/secrets", ""); code != 500 {
			t.Errorf("list: %d", code)
		}
		if code, _ := c.do("GET", "/api/v1/namespaces/kube-system/secrets", ""); code != 200 {
			t.Errorf("list of another namespace: %d", code)
		}
		wantSecret(t, c, "good")
	}
	for name := range damage {
		waitFor(t, "the cache to see "+name, func() bool {
			code, _ := c.do("GET", "/api/v1/namespaces/default/secrets/"+name, "")
			return code != 404
		})
	}
	check()
	if body := s.action(c, "rotate-keys"); !strings.Contains(body, "cannot be read with the keys there are") {
		t.Errorf("rotation over unreadable secrets: %s", body)
	}
	if st := s.status(c); len(st.Keys) != 2 {
		t.Errorf("a key was dropped that may be needed: %+v", st)
	}
	damage["swapped"] = s.raw("swapped")
	check()
	s.stop()
	c = s.start(nil)
	check()
}

func TestEncryptionConfigurationForOtherResources(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	file := filepath.Join(s.dir, "enc.yaml")
	text := `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [configmaps, widgets.example.com]
  providers:
  - aesgcm: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}
  - identity: {}
- resources: ['*.apps']
  providers:
  - aescbc: {keys: [{name: c, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := s.start(func(c *Config) { c.EncryptionConfig = file })
	putSecret(t, c, "a", inPlain)
	for path, body := range map[string]string{
		"/api/v1/namespaces/default/configmaps":                `{"metadata":{"name":"a"},"data":{"k":"v"}}`,
		"/apis/apps/v1/namespaces/default/controllerrevisions": `{"metadata":{"name":"a"},"revision":1,"data":{}}`,
	} {
		if code, answer := c.do("POST", path, body); code != 201 {
			t.Fatalf("%d %s", code, answer)
		}
	}
	for key, prefix := range map[string]string{
		"/registry/configmaps/default/a": "k8s:enc:aesgcm:v1:k:", "/registry/controllerrevisions/default/a": "k8s:enc:aescbc:v1:c:",
		"/registry/secrets/default/a": "k8s:enc:secretbox:v1:key1:",
	} {
		kv, err := s.store.Get(context.Background(), key, 0)
		if err != nil || !strings.HasPrefix(string(kv.Value), prefix) {
			t.Errorf("%s: %.40q %v", key, kv.Value, err)
		}
	}
	s.stop()
	c = s.start(func(c *Config) { c.EncryptionConfig = file })
	for _, path := range []string{"/api/v1/namespaces/default/configmaps/a", "/apis/apps/v1/namespaces/default/controllerrevisions/a"} {
		if code, body := c.do("GET", path, ""); code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	wantSecret(t, c, "a")
}

// An update that changes nothing, as a storage migration makes it, brings a value under
// the key of today.
func TestUpdateThatChangesNothingSealsAnew(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(nil)
	putSecret(t, c, "a", "hush")
	for _, action := range []string{"prepare", "rotate"} {
		s.action(c, action)
	}
	if raw := s.raw("a"); !strings.HasPrefix(raw, "k8s:enc:secretbox:v1:key1:") {
		t.Fatalf("stored as %.40q", raw)
	}
	const path = "/api/v1/namespaces/default/secrets/a"
	revision := func() string {
		_, body := c.do("GET", path, "")
		_, rest, _ := strings.Cut(body, `"resourceVersion":"`)
		before, _, _ := strings.Cut(rest, `"`)
		return before
	}
	was := revision()
	for range 2 {
		if code, m := c.message("PATCH", path, `{"metadata":{"resourceVersion":"`+revision()+`"}}`); code != 200 {
			t.Fatal(code, m)
		}
	}
	if raw := s.raw("a"); !strings.HasPrefix(raw, "k8s:enc:secretbox:v1:key2:") {
		t.Errorf("stored as %.40q", raw)
	}
	now := revision()
	if code, m := c.message("PATCH", path, `{}`); code != 200 || now == was || revision() != now {
		t.Errorf("%d %s: revisions %s, %s, %s: want one write", code, m, was, now, revision())
	}
	wantSecret(t, c, "a")
}
