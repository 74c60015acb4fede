package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// flags are those of a command, as complete sees them.
func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	for _, name := range []string{"token", "token-file", "node-name", "data-dir", "write-kubeconfig", "write-kubeconfig-mode", "write-kubeconfig-group", "server", "resolv-conf", "bind-address"} {
		f.String(name, "", "")
	}
	f.StringSlice("tls-san", nil, "")
	f.Int("max-pods", 110, "")
	addConfigFlag(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

// write puts files into a folder of their own and returns the first one's path.
func write(t *testing.T, files ...[2]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, f[0])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f[1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, files[0][0])
}

func TestWhereFlagsComeFrom(t *testing.T) {
	file := func(text string) [2]string { return [2]string{"config.yaml", text} }
	drop := func(name, text string) [2]string { return [2]string{"config.yaml.d/" + name, text} }
	for _, c := range []struct {
		name       string
		args       []string
		env        map[string]string
		files      [][2]string
		flag, want string
	}{
		{name: "the environment by orch's name", env: map[string]string{"ORCH_NODE_NAME": "a"}, flag: "node-name", want: "a"},
		{name: "by k3s' name", env: map[string]string{"K3S_NODE_NAME": "a"}, flag: "node-name", want: "a"},
		{name: "orch's name wins", env: map[string]string{"K3S_NODE_NAME": "a", "ORCH_NODE_NAME": "b"}, flag: "node-name", want: "b"},
		{name: "the command line wins", args: []string{"--node-name=c"}, env: map[string]string{"ORCH_NODE_NAME": "b"}, flag: "node-name", want: "c"},
		{name: "URL of the server", env: map[string]string{"K3S_URL": "https://s:6443"}, flag: "server", want: "https://s:6443"},
		{name: "own URL wins", env: map[string]string{"K3S_URL": "https://s:6443", "ORCH_URL": "https://o:6443"}, flag: "server", want: "https://o:6443"},
		{name: "token", env: map[string]string{"K3S_TOKEN": "T"}, flag: "token", want: "T"},
		{name: "token file", env: map[string]string{"K3S_TOKEN_FILE": "/t"}, flag: "token-file", want: "/t"},
		{name: "a token given makes a file in the environment void", args: []string{"--token=T"}, env: map[string]string{"K3S_TOKEN_FILE": "/t"}, flag: "token-file", want: ""},
		{name: "a token in the environment makes a file in the config void", env: map[string]string{"K3S_TOKEN": "T"}, files: [][2]string{file("token-file: /t")}, flag: "token-file", want: ""},
		{name: "data", env: map[string]string{"K3S_DATA_DIR": "/d"}, flag: "data-dir", want: "/d"},
		{name: "resolv.conf", env: map[string]string{"K3S_RESOLV_CONF": "/r"}, flag: "resolv-conf", want: "/r"},
		{name: "kubeconfig", env: map[string]string{"K3S_KUBECONFIG_OUTPUT": "/k"}, flag: "write-kubeconfig", want: "/k"},
		{name: "its mode", env: map[string]string{"K3S_KUBECONFIG_MODE": "640"}, flag: "write-kubeconfig-mode", want: "640"},
		{name: "its group", env: map[string]string{"K3S_KUBECONFIG_GROUP": "adm"}, flag: "write-kubeconfig-group", want: "adm"},
		{name: "its group by the short name", env: map[string]string{"ORCH_KUBECONFIG_GROUP": "adm"}, flag: "write-kubeconfig-group", want: "adm"},
		{name: "k3s has no such name", env: map[string]string{"K3S_BIND_ADDRESS": "1.2.3.4", "K3S_NOISE": "x"}, flag: "bind-address", want: ""},
		{name: "the file", files: [][2]string{file("node-name: f")}, flag: "node-name", want: "f"},
		{name: "the environment is stronger than the file", env: map[string]string{"K3S_NODE_NAME": "e"}, files: [][2]string{file("node-name: f")}, flag: "node-name", want: "e"},
		{name: "a later file wins", files: [][2]string{file("node-name: f"), drop("1.yaml", "node-name: one"), drop("2.yaml", "node-name: two")}, flag: "node-name", want: "two"},
		{name: "a list", files: [][2]string{file("tls-san: [a, b]")}, flag: "tls-san", want: "[a,b]"},
		{name: "a later list replaces", files: [][2]string{file("tls-san: [a, b]"), drop("1.yaml", "tls-san: c")}, flag: "tls-san", want: "[c]"},
		{name: "a + appends", files: [][2]string{file("tls-san: [a, b]"), drop("1.yaml", "tls-san+: c")}, flag: "tls-san", want: "[a,b,c]"},
		{name: "a + in the same file appends", files: [][2]string{file("tls-san+: [c]\ntls-san: [a, b]")}, flag: "tls-san", want: "[a,b,c]"},
		{name: "a number", files: [][2]string{file("max-pods: 250")}, flag: "max-pods", want: "250"},
		{name: "an empty file", files: [][2]string{file("")}, flag: "node-name", want: ""},
		{name: "comments", files: [][2]string{file("# nothing\n")}, flag: "node-name", want: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			if len(c.files) == 0 {
				c.files = [][2]string{file("")}
			}
			t.Setenv("K3S_CONFIG_FILE", write(t, c.files...))
			f := flags(t, c.args...)
			if err := complete(f); err != nil {
				t.Fatal(err)
			}
			if got := f.Lookup(c.flag).Value.String(); got != c.want {
				t.Errorf("%s is %q, want %q", c.flag, got, c.want)
			}
		})
	}
}

func TestConfigIsRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a key that does not exist", "node-nmae: a", `unknown key "node-nmae"`},
		{"no YAML", "a: [", "config.yaml: "},
		{"a mapping", "node-name: {a: b}", `key "node-name": a mapping where a value or a list is expected`},
		{"no number", "max-pods: many", `key "max-pods": `},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := complete(flags(t, "--config", write(t, [2]string{"config.yaml", c.text})))
			if usage := (usageError{}); err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &usage) {
				t.Errorf("%v, want a usage error with %q", err, c.want)
			}
		})
	}
	if err := complete(flags(t, "--config", "/nowhere/config.yaml")); err == nil || !strings.Contains(err.Error(), "/nowhere/config.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
	t.Setenv("ORCH_MAX_PODS", "many")
	if err := complete(flags(t)); err == nil || !strings.Contains(err.Error(), "environment variable ORCH_MAX_PODS: ") {
		t.Errorf("an environment variable with a bad value: %v", err)
	}
}
