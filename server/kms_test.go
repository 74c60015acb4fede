package server

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"orch/api"
	"orch/api/client"
	"orch/server/encryption/kms/plugintest"
)

// byKMS is a configuration that a plugin keeps the key of, which is given so long to answer.
func byKMS(t *testing.T, p *plugintest.Plugin, patience string) func(*Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.yaml")
	text := fmt.Sprintf(`{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[
{"kms":{"apiVersion":"v2","name":"vault","endpoint":%q,"timeout":%q}},{"identity":{}}]}]}`, p.Endpoint(), patience)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.EncryptionConfig = path }
}

// Secrets lie under a key of the plugin; one that is not there at the start makes them
// unreadable, not lost, and when it comes they are served without a restart.
func TestSecretsByKMS(t *testing.T) {
	plugin := plugintest.New(t)
	plugin.Start()
	s := &sealedServer{t: t, dir: t.TempDir()}
	root := s.start(byKMS(t, plugin, "30s"))
	putSecret(t, root, "a", "hush")
	wantSecret(t, root, "a")
	const prefix = "k8s:enc:kms:v2:vault:"
	if raw := s.raw("a"); !strings.HasPrefix(raw, prefix) || strings.Contains(raw, "hush") || !strings.Contains(raw, "key1") {
		t.Errorf("stored as %.80q", raw)
	}
	if code, body := root.do("GET", "/readyz/kms-providers", ""); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	if code, body := root.do("GET", "/metrics", ""); code != 200 || !strings.Contains(body, `apiserver_envelope_encryption_dek_source_cache_size{provider_name="vault"} 1`) {
		t.Errorf("%d, the metrics do not tell of the plugin", code)
	}

	s.stop()
	plugin.Stop()
	root = s.start(byKMS(t, plugin, "500ms")) // which the start waits
	code, m := root.message("GET", "/api/v1/namespaces/default/secrets/a", "")
	if code != 500 || !strings.Contains(m, "kmsv2 Provider vault is not healthy") {
		t.Errorf("%d %s", code, m)
	}
	if code, m := root.message("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"b"}}`); code != 500 || !strings.Contains(m, "the KMS plugin vault has not answered yet") {
		t.Errorf("%d %s", code, m)
	}
	if code, body := root.do("GET", "/readyz", ""); code == 200 || !strings.Contains(body, "[-]kms-providers failed") {
		t.Errorf("%d %s", code, body)
	}
	c := s.Client("test", api.GroupMasters)
	if client.Cached(c, api.Secrets, "default", "a") != nil {
		t.Error("a controller sees what cannot be read")
	}

	plugin.Start()
	deadline := time.Now().Add(time.Minute)
	for {
		if code, _ := root.do("GET", "/api/v1/namespaces/default/secrets/a", ""); code == 200 {
			break
		}
		_, _ = root.do("GET", "/readyz", "")
		if time.Now().After(deadline) {
			t.Fatal("the secret does not come back")
		}
		time.Sleep(50 * time.Millisecond)
	}
	wantSecret(t, root, "a")
	if code, m := root.message("GET", "/api/v1/secrets", ""); code != 200 {
		t.Errorf("listing: %d %s", code, m)
	}
}

// After the KMS has changed its key, the next start brings the stored values under it.
func TestKMSChangesItsKey(t *testing.T) {
	plugin := plugintest.New(t)
	plugin.Start()
	s := &sealedServer{t: t, dir: t.TempDir()}
	root := s.start(byKMS(t, plugin, "30s"))
	for _, name := range []string{"a", "b"} {
		putSecret(t, root, name, "hush")
	}
	plugin.Set(map[string]string{"keyID": "key2"})
	s.stop()
	root = s.start(byKMS(t, plugin, "30s"))
	under := func(key string) bool {
		return !slices.ContainsFunc([]string{"a", "b"}, func(name string) bool { return !strings.Contains(s.raw(name), key) })
	}
	waitFor(t, "the start to encrypt anew", func() bool { return under("key2") })
	for _, name := range []string{"a", "b"} {
		wantSecret(t, root, name)
	}
}
