package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orch/runtime/bundle"
)

// unpacked gives the embedded tools as a file.
func unpacked(t *testing.T) string {
	t.Helper()
	path, err := bundle.Keep(bundle.Tools, t.TempDir())
	if errors.Is(err, bundle.ErrNotBuilt) {
		t.Fatal("run scripts/bundle first")
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// called runs the tools under a name.
func called(t *testing.T, path, name string, args ...string) string {
	t.Helper()
	c := exec.Command(path, args...)
	c.Args[0] = name
	c.Env = append(os.Environ(), "KUBECONFIG=/nowhere", "HOME="+filepath.Dir(path))
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// commandsOf reads the names below the headings of a help text that list commands.
func commandsOf(help string) (names []string) {
	listing := false
	for line := range strings.Lines(help) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasSuffix(line, ":"):
			listing = strings.Contains(strings.ToLower(line), "commands")
		case listing && strings.HasPrefix(line, "  "):
			name, _, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
			if name = strings.TrimSuffix(name, ","); name != "" && name != "help" {
				names = append(names, name)
			}
		}
	}
	return names
}

// TestToolsHelp: the help texts are printed whole. They are templates that call methods by
// name, of which scripts/lean keeps those that are used.
func TestToolsHelp(t *testing.T) {
	path := unpacked(t)
	seen := 0
	var walk func(name string, words []string)
	walk = func(name string, words []string) {
		help := called(t, path, name, append(words, "--help")...)
		seen++
		if strings.Contains(help, "can't evaluate field") || strings.Contains(help, "template: ") {
			t.Errorf("%s %s: %s", name, strings.Join(words, " "), help)
		}
		if !strings.Contains(help, "Usage:") && !strings.Contains(help, "USAGE:") {
			t.Errorf("%s %s says no usage:\n%s", name, strings.Join(words, " "), help)
		}
		commands := commandsOf(help)
		if len(words) > 0 { // of a command's own commands one speaks for all
			commands = commands[:min(1, len(commands))]
		}
		for _, c := range commands {
			walk(name, append(words[:len(words):len(words)], c))
		}
	}
	walk("kubectl", nil)
	walk("ctr", nil)
	if seen < 60 {
		t.Errorf("only %d commands were found", seen)
	}
	for _, want := range []string{"Basic Commands (Beginner):", "create          Create a resource from a file or from stdin", `Use "kubectl <command> --help" for more information`} {
		if help := called(t, path, "kubectl", "--help"); !strings.Contains(help, want) {
			t.Errorf("kubectl --help lacks %q:\n%s", want, help)
		}
	}
	if out := called(t, path, "kubectl", "create", "configmap", "c", "--from-literal=a=b", "--dry-run=client", "-o", "go-template={{.kind}} {{index .data \"a\"}} {{len .data}}"); out != "ConfigMap b 1" {
		t.Errorf("a template gives %q", out)
	}
}
