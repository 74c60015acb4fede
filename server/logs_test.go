package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	authn "k8s.io/api/authentication/v1"
	"k8s.io/klog/v2"

	"orch/api"
	"orch/datastore/bolt"
)

// logBuffer is safe for the many goroutines that log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestCredentialsAreNeverLogged takes a server at debug level through everything that a
// credential goes through, well and badly, and looks for them in what it logged.
func TestCredentialsAreNeverLogged(t *testing.T) {
	var out logBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.Level(-10)}))
	before := slog.Default()
	slog.SetDefault(log)
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
	t.Cleanup(func() {
		slog.SetDefault(before)
		klog.ClearLogger()
	})
	p := newProvider(t)
	ca := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(ca, []byte(p.ca()), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "state.db"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s, stop := bootLogging(t, store, log, func(c *Config) {
		c.Access.OIDC.IssuerURL, c.Access.OIDC.ClientID, c.Access.OIDC.CAFile, c.Access.OIDC.Algorithms = p.URL, "orch", ca, []string{"ES256"}
	})
	log.Debug("marker-of-the-log")
	secrets := []string{s.PKI().Token().Secret}
	credential := func(text string) string {
		secrets = append(secrets, text, base64.StdEncoding.EncodeToString([]byte(text)))
		return text
	}
	root := user(t, s, "root", "system:masters")

	password := credential("hunter2-hunter2-hunter2")
	root.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"a"},"stringData":{"p":"`+password+`"}}`)
	root.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"a"},"stringData":{"p":"`+password+`"}}`)
	root.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"A_b"},"stringData":{"p":"`+password+`"}}`)
	root.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"c"},"data":{"p":"`+password+`"}}`)
	root.do("POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"d"},"stringData":{"p":"`+password+`"`)
	root.do("PATCH", "/api/v1/namespaces/default/secrets/a", `{"stringData":{"q":"`+password+`"},"type":7}`)
	root.do("GET", "/api/v1/secrets?watch=1&timeoutSeconds=1", "")
	root.do("POST", api.PathEncryption, `{"action":"rotate-keys"}`)
	root.do("POST", api.PathEncryption, `{"action":"`+credential("no-such-action-1")+`"}`)
	root.do("POST", api.PathToken, `{"secret":"`+credential("a-rotated-token-secret")+`"}`)
	key, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "server", "cred", "encryption-config.json"))
	if err != nil {
		t.Fatal(err)
	}
	credential(strings.Split(strings.Split(string(key), `"secret": "`)[1], `"`)[0])

	root.do("POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"robot"}}`)
	_, body := root.do("POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", `{"spec":{}}`)
	var issued authn.TokenRequest
	if err := json.Unmarshal([]byte(body), &issued); err != nil || issued.Status.Token == "" {
		t.Fatalf("%v %s", err, body)
	}
	root.do("POST", "/api/v1/namespaces/kube-system/secrets", `{"metadata":{"name":"bootstrap-token-aaaaaa"},"type":"bootstrap.kubernetes.io/token","stringData":{"token-id":"aaaaaa","token-secret":"`+credential("0123456789abcdef")+`","usage-bootstrap-authentication":"true"}}`)
	for _, token := range []string{
		issued.Status.Token, issued.Status.Token + "x", "aaaaaa.0123456789abcdef", "aaaaaa.fedcba9876543210", "nonsense-as-a-token",
		p.token(t, map[string]any{"aud": "x"}), p.token(t, nil), s.PKI().Token().String(),
	} {
		credential(token)
		bearing(t, s, token).do("GET", "/api/v1/nodes", "")
		root.do("POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"`+token+`"}}`)
		root.do("GET", "/api/v1/nodes?access_token="+token, "")
	}
	basic := as(t, s, nil, nil)
	basic.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("server:"+credential("a-wrong-join-secret"))))
	basic.do("POST", api.PathJoin, `{"nodeName":"n","nodePassword":"`+credential("a-node-password-of-24-ch")+`"}`)
	basic.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("server:"+s.PKI().Token().Secret)))
	credential(s.PKI().Token().Secret)
	basic.do("POST", api.PathJoin, `{"nodeName":"n","nodePassword":"a-node-password-of-24-ch","csr":"none"}`)
	// A credential in plain HTTP at the TLS port, which net/http complains about.
	if resp, err := http.Get("http://" + strings.TrimPrefix(s.url(), "https://") + "/?token=" + credential("plain-http-token-value")); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	stop()
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	text := out.String()
	if !strings.Contains(text, "marker-of-the-log") {
		t.Fatal("the test reads the wrong log")
	}
	for _, c := range secrets {
		if i := strings.Index(text, c); i >= 0 {
			t.Errorf("a credential is in the log: %.300s", text[max(0, i-200):])
		}
	}
}
