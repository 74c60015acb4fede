package server

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orch/datastore/bolt"
)

// TestLostKeyIsNotReplaced: a new key in place of a lost one would make a server that runs
// and can read none of its Secrets, and nobody would look for the backup.
func TestLostKeyIsNotReplaced(t *testing.T) {
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(nil)
	putSecret(t, c, "a", inPlain)
	s.stop()
	path := filepath.Join(s.dir, "server", "cred", "encryption-config.json")
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, off := range []bool{false, true} {
		store, err := bolt.Open(bolt.Config{Path: s.db()})
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{
			DataDir: s.dir, BindAddress: "127.0.0.1", AdvertiseAddress: "192.0.2.1", NodeName: "one", WriteKubeconfig: filepath.Join(s.dir, "orch.yaml"),
			ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDomain: "cluster.local", ServiceNodePortRange: "30000-32767", NoSecretsEncryption: off,
		}
		_, err = New(cfg, store, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err == nil || !strings.Contains(err.Error(), "restore "+path+" from a backup") || !strings.Contains(err.Error(), "--secrets-encryption-reset") || strings.Contains(err.Error(), "\n") {
			t.Errorf("encryption off %t: %v", off, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("a new key was made")
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	c = s.start(nil)
	wantSecret(t, c, "a")
	s.stop()

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c = s.start(func(c *Config) { c.ResetSecretsEncryption = true })
	if code, body := c.do("GET", "/api/v1/namespaces/default/secrets/a", ""); code != 404 {
		t.Errorf("a secret that was given up: %d %s", code, body)
	}
	putSecret(t, c, "b", inPlain)
	s.stop()
	c = s.start(func(c *Config) { c.ResetSecretsEncryption = true }) // with its key there the flag deletes nothing
	wantSecret(t, c, "b")
}

// rewriteEnv makes the test binary a server that rewrites its Secrets until it is killed.
const rewriteEnv = "ORCH_TEST_REWRITE"

const rewritten = 200

// TestRewriteSurvivesKill9 kills a process in the middle of changing keys, again and again.
func TestRewriteSurvivesKill9(t *testing.T) {
	if dir := os.Getenv(rewriteEnv); dir != "" {
		rewriteOnAndOn(t, dir)
		return
	}
	s := &sealedServer{t: t, dir: t.TempDir()}
	c := s.start(nil)
	for i := range rewritten {
		putSecret(t, c, fmt.Sprint("s", i), inPlain)
	}
	s.stop()
	for round := range 5 {
		killInRewrite(t, s.dir, time.Duration(rand.IntN(150))*time.Millisecond)
		c = s.start(nil)
		for i := range rewritten {
			wantSecret(t, c, fmt.Sprint("s", i))
		}
		st := s.settled(c)
		if st.Stage != "reencrypt_finished" && st.Stage != "start" || len(st.Keys) != 1 {
			t.Fatalf("round %d: %+v", round, st)
		}
		for i := range rewritten {
			if raw := s.raw(fmt.Sprint("s", i)); !strings.HasPrefix(raw, "k8s:enc:secretbox:v1:"+st.Keys[0].Name+":") {
				t.Fatalf("round %d: s%d is sealed with another key: %.40q", round, i, raw)
			}
		}
		s.stop()
	}
}

func killInRewrite(t *testing.T, dir string, after time.Duration) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestRewriteSurvivesKill9$")
	child.Env = append(os.Environ(), rewriteEnv+"="+dir, "TMPDIR="+t.TempDir()) // what it leaves is ours to clean up
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	begun := make([]byte, len("begun"))
	if _, err := io.ReadFull(out, begun); err != nil || string(begun) != "begun" {
		rest, _ := io.ReadAll(out)
		t.Errorf("the child did not begin: %q%s %v", begun, rest, err)
	}
	time.Sleep(after)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
}

// rewriteOnAndOn ends by itself where nobody is left to kill it.
func rewriteOnAndOn(t *testing.T, dir string) {
	s := &sealedServer{t: t, dir: dir}
	c := s.start(nil)
	fmt.Print("begun")
	for over := time.Now().Add(5 * time.Minute); time.Now().Before(over); {
		s.action(c, "rotate-keys")
	}
}
