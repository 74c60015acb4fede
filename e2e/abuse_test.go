package e2e

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orch/e2e/lab"
)

// lastLine of what a program printed; people read that one first.
func lastLine(s string) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return all[len(all)-1]
}

// refused checks that orch ended with the code and one line for a person.
func refused(t *testing.T, o lab.Output, code int, want string) {
	t.Helper()
	if o.Code != code {
		t.Errorf("exit code %d, want %d", o.Code, code)
	}
	var said []string
	for _, l := range strings.Split(strings.TrimSpace(o.Stderr), "\n") {
		if strings.HasPrefix(l, "orch: ") {
			said = append(said, l)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], want) {
		t.Errorf("want one line that says %q, got:\n%s", want, o.Stderr)
	}
	if strings.Contains(o.Both(), "goroutine ") || strings.Contains(o.Both(), "panic") {
		t.Errorf("it panics:\n%s", o.Both())
	}
}

func serverArgs(h *lab.Host, dir string, more ...string) []string {
	return append([]string{"server", "--data-dir", dir, "--node-name", "abused", "--node-ip", h.IP.String(), "--write-kubeconfig", filepath.Join(dir, "kubeconfig.yaml")}, more...)
}

// TestWhatOrchRefuses calls the binary as people get it wrong.
func TestWhatOrchRefuses(t *testing.T) {
	h := lab.New(t).Host("one")
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"an unknown command", []string{"sever"}, 2, `unknown command "sever"`},
		{"an unknown flag", []string{"server", "--data-dirr", "x"}, 2, "unknown flag: --data-dirr"},
		{"an argument too many", []string{"server", "now"}, 2, `takes no argument, got "now"`},
		{"a port that is no number", []string{"server", "--https-listen-port", "x"}, 2, "--https-listen-port"},
		{"join without a URL", []string{"agent", "join"}, 2, "needs the URL of one server"},
		{"join by plain http", []string{"agent", "join", "http://192.0.2.1:6443", "--token", "x"}, 2, "https://HOST:6443"},
		{"pack without a name", []string{"images", "pack", "/bin/true"}, 2, "needs --name and --output"},
		{"a token file that is not there", serverArgs(h, t.TempDir(), "--token-file", "/nonexistent"), 1, "--token-file: open /nonexistent: no such file"},
		{"a range that is none", serverArgs(h, t.TempDir(), "--cluster-cidr", "banana"), 1, "--cluster-cidr"},
		{"a node name that is none", serverArgs(h, t.TempDir(), "--node-name", "Not_a_name!"), 1, "--node-name"},
		{"a config file that is not there", []string{"server", "--config", "/nonexistent"}, 1, "reading the config file: open /nonexistent"},
		{"images of a host without orch", []string{"images", "list", "--address", "/nonexistent"}, 1, "no orch with a node agent runs here"},
		{"status of a host without orch", []string{"status", "--kubeconfig", "/nonexistent"}, 1, "is orch server running on this host?"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, h.For(t).Orch(nil, c.args...), c.code, c.want) })
	}
	t.Run("a config file with an unknown key", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "config.yaml")
		writeFile(t, file, "data-dirr: /x\n")
		refused(t, h.For(t).Orch(nil, "server", "--config", file), 2, `unknown key "data-dirr"`)
	})
	t.Run("an environment variable that does not fit", func(t *testing.T) {
		refused(t, h.For(t).Orch([]string{"ORCH_HTTPS_LISTEN_PORT=many"}, "server"), 2, "ORCH_HTTPS_LISTEN_PORT")
	})
	t.Run("a user who is not root", func(t *testing.T) { notRoot(t, h.For(t)) })
	t.Run("a host without iptables", func(t *testing.T) { noIptables(t, h.For(t)) })
	t.Run("a corrupt database", func(t *testing.T) { corrupt(t, h.For(t)) })
	t.Run("a database in use and a port in use", func(t *testing.T) { inUse(t, h.For(t)) })
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func notRoot(t *testing.T, h *lab.Host) {
	dir := t.TempDir()
	o := h.Run("", "setpriv", append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", lab.Binary()}, serverArgs(h, dir)...)...)
	refused(t, o, 1, "root")
}

// noIptables hides the host's iptables from orch. The remedy is in the line.
func noIptables(t *testing.T, h *lab.Host) {
	hide := `for f in $(ls -d /usr/sbin/*tables* /sbin/*tables* /usr/local/sbin/*tables* 2>/dev/null); do mount --bind /dev/null $(readlink -f $f); done; exec "$@"`
	o := h.Run("", "unshare", append([]string{"--mount", "timeout", "30", "sh", "-c", hide, "sh", lab.Binary()}, serverArgs(h, t.TempDir())...)...)
	refused(t, o, 1, "iptables is not installed (remedy: apt-get install iptables")
}

// corrupt writes over the database; it is left as it is.
func corrupt(t *testing.T, h *lab.Host) {
	dir := t.TempDir()
	db := filepath.Join(dir, "server", "db", "state.db")
	writeFile(t, db, strings.Repeat("this was a database. ", 4096))
	before := digest(t, db)
	refused(t, h.Orch(nil, serverArgs(h, dir, "--disable-agent")...), 1, "state.db")
	if digest(t, db) != before {
		t.Error("the corrupt database was changed")
	}
}

func digest(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func inUse(t *testing.T, h *lab.Host) {
	h.StartServer("--disable-agent")
	refused(t, h.Orch(nil, serverArgs(h, h.Dir, "--disable-agent", "--https-listen-port", "7443")...), 1, "another")
	refused(t, h.Orch(nil, serverArgs(h, t.TempDir(), "--disable-agent")...), 1, "6443")
	h.Kubectl("get", "--raw", "/readyz")
}
