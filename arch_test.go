package main

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// importTable says what each folder may import of ours; a folder's own packages
// and those below its entry are always allowed. The longest matching entry counts. It is
// the table of docs/design.md.
var importTable = []struct {
	folder string
	may    []string
}{
	{"api", nil},
	{"api/histogram", nil},
	{"api/hostaddress", nil},
	{"api/calls", nil},
	{"api/client", []string{"api"}},
	{"api/reconcile", []string{"api", "api/client"}},
	{"api/events", []string{"api", "api/client"}},
	{"server", []string{"server", "datastore", "api"}},
	{"server/expression", nil},
	{"server/validate", []string{"api", "server/expression"}},
	{"server/defaults", []string{"api"}},
	{"server/columns", []string{"api"}},
	{"server/apply", []string{"api"}},
	{"server/registry", []string{"api", "datastore", "server/validate", "server/defaults", "server/columns", "server/apply"}},
	{"server/rest", []string{"api", "server/backend", "server/aggregator", "server/registry", "server/access", "server/admission", "server/apply", "server/crd", "server/flow", "server/audit"}},
	{"server/flow", []string{"api"}},
	{"server/backend", []string{"api"}},
	{"server/aggregator", []string{"api", "server/backend", "server/registry"}},
	{"server/access", []string{"api", "server/registry", "server/pki", "server/audit", "server/webhook"}},
	{"server/admission", []string{"api", "gpu/share", "server/registry", "server/access", "server/allocate", "server/pki", "server/defaults", "server/expression", "server/apply", "server/webhook"}},
	{"server/audit", []string{"api", "server/registry", "server/webhook"}},
	{"server/encryption", []string{"api", "server/registry"}},
	{"server/allocate", []string{"api"}},
	{"server/crd", []string{"api", "server/registry", "server/columns", "server/webhook"}},
	{"server/webhook", []string{"api"}},
	{"server/bootstrap", []string{"api"}},
	{"server/join", []string{"api"}},
	{"server/tunnel", []string{"api"}},
	{"server/placement", []string{"api", "gpu/alloc", "gpu/share", "gpu/slices"}},
	{"server/scheduler", []string{"api", "server/placement"}},
	{"server/controllers", []string{"api"}},
	{"server/pki", []string{"api"}},
	{"datastore", nil},
	{"runtime", nil},
	{"network", nil},
	{"network/proxy", []string{"api", "network"}},
	{"network/policy", []string{"api", "network"}},
	{"network/dns", []string{"api", "network"}},
	{"gpu", []string{"gpu"}},
	{"gpu/slices", []string{"gpu/device", "gpu/alloc", "gpu/share"}},
	{"agent", []string{"api", "runtime/engine", "runtime/logfile", "gpu/device", "gpu/health", "gpu/inventory", "gpu/alloc", "gpu/share", "gpu/cdi", "gpu/labels", "gpu/metrics", "gpu/report", "gpu/mig", "gpu/slices", "gpu/params", "gpu/mps", "gpu/smi"}},
	{"cli", []string{"api", "runtime/image", "runtime/engine", "runtime/bundle", "gpu/device", "gpu/report"}},
	{"examples", nil},
	{"scripts", []string{"api", "server/rest", "server/registry"}},
}

// banned modules: orch is its own implementation.
var banned = []string{"k8s.io/kubernetes", "k8s.io/apiserver", "github.com/k3s-io", "github.com/rancher/k3s", "go.etcd.io/etcd/server"}

// lent are packages below a banned one that are no server: pure parts that the API of
// the allowed schema libraries demands. Each with its reason.
var lent = map[string]string{
	"k8s.io/apiserver/pkg/cel":             "apiextensions-apiserver's rule compiler speaks in its types and costs",
	"k8s.io/apiserver/pkg/cel/common":      "apiextensions-apiserver's validators take its CorrelatedObject for ratcheting",
	"k8s.io/apiserver/pkg/cel/environment": "apiextensions-apiserver's rule compiler takes its EnvSet",

	"k8s.io/apiserver/pkg/apis/cel":                 "the constants that bound what expressions may cost",
	"k8s.io/apiserver/pkg/cel/library":              "the functions that policies call; environment links it anyway",
	"k8s.io/apiserver/pkg/cel/lazy":                 "the map behind variables, without dependencies",
	"k8s.io/apiserver/pkg/cel/mutation":             "the types Object and JSONPatch of mutating policies, pure",
	"k8s.io/apiserver/pkg/cel/mutation/dynamic":     "values of Object, pure",
	"k8s.io/apiserver/pkg/authentication/user":      "library's authorizer takes its Info, an interface",
	"k8s.io/apiserver/pkg/authorization/authorizer": "library's authorizer takes its interfaces",
	"k8s.io/apiserver/pkg/apis/apiserver/v1":        "the wire types of the files that configure encryption, authentication and authorization",
	"k8s.io/apiserver/pkg/apis/audit/v1":            "the wire types of audit policies and events",
}

// Limits of the house rules; exceptions below each with its reason, and only fewer.
const (
	maxFileLines     = 800
	maxFunctionLines = 100
	maxParameters    = 5
	maxMainLines     = 60
)

// source is one parsed file of ours.
type source struct {
	path, folder string
	file         *ast.File
	set          *token.FileSet
	test         bool
	generated    bool
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(set, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{path: p, folder: filepath.ToSlash(filepath.Dir(p)), file: f, set: set,
			test: strings.HasSuffix(p, "_test.go"), generated: ast.IsGenerated(f)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s source) lines(n ast.Node) int {
	return s.set.Position(n.End()).Line - s.set.Position(n.Pos()).Line + 1
}

func below(folder, root string) bool { return folder == root || strings.HasPrefix(folder, root+"/") }

// allowed looks the import up in the table.
func allowed(folder, imported string) bool {
	best := -1
	for i, row := range importTable {
		if below(folder, row.folder) && (best < 0 || len(row.folder) > len(importTable[best].folder)) {
			best = i
		}
	}
	if best < 0 {
		return folder == "." || below(folder, "e2e")
	}
	row := importTable[best]
	return below(imported, row.folder) || slices.ContainsFunc(row.may, func(m string) bool { return below(imported, m) })
}

func TestImportTable(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.file.Imports {
			imported := strings.Trim(i.Path.Value, `"`)
			for _, b := range banned {
				// The tests of a whole cluster may put a genuine server of upstream's beside ours.
				beside := s.test && below(s.folder, "e2e") && b == "k8s.io/apiserver"
				if below(imported, b) && lent[imported] == "" && !beside {
					t.Errorf("%s imports %s: orch links none of it", s.path, imported)
				}
			}
			ours, ok := strings.CutPrefix(imported, "orch/")
			if !ok || s.test {
				continue // tests put parts together as they need
			}
			if !allowed(s.folder, ours) {
				t.Errorf("%s imports %s, which the import table does not allow", s.path, ours)
			}
		}
	}
}

func TestControllersDoNotImportEachOther(t *testing.T) {
	for _, s := range sources(t) {
		own, ok := strings.CutPrefix(s.folder, "server/controllers/")
		if !ok {
			continue
		}
		for _, i := range s.file.Imports {
			other, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), "orch/server/controllers/")
			if ok && !below(other, own) && !slices.Contains(sharedByControllers, other) {
				t.Errorf("%s imports the controller %s: controllers talk through objects", s.path, other)
			}
		}
	}
}

// sharedByControllers are pure packages below server/controllers that are no controllers.
var sharedByControllers = []string{"workpod", "history"}

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		if n := s.set.File(s.file.Pos()).LineCount(); n > maxFileLines {
			t.Errorf("%s has %d lines, %d are the limit", s.path, n, maxFileLines)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := s.folder + "." + f.Name.Name
			if n := s.lines(f); n > maxFunctionLines && longFunctions[name] == "" {
				t.Errorf("%s: %s has %d lines, %d are the limit", s.path, f.Name.Name, n, maxFunctionLines)
			}
			if n := f.Type.Params.NumFields(); n > maxParameters && !s.test && manyParameters[name] == "" {
				t.Errorf("%s: %s has %d parameters, %d are the limit", s.path, f.Name.Name, n, maxParameters)
			}
		}
	}
	b, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "\n"); n > maxMainLines {
		t.Errorf("main.go has %d lines, %d are the limit", n, maxMainLines)
	}
}

// Exceptions with their reasons. These lists only get shorter.
var (
	longFunctions = map[string]string{
		"runtime/containerd.TestStreams": "one container's streams, one after the other",
	}
	manyParameters = map[string]string{
		"api/client.Patch":  "the generic typed face of Transport.Patch",
		"api/client.Delete": "the generic typed face of Transport.Delete",
	}
)

func TestEveryPackageHasOneComment(t *testing.T) {
	comments, seen := map[string][]string{}, map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		seen[s.folder] = true
		if s.file.Doc != nil {
			comments[s.folder] = append(comments[s.folder], s.path)
		}
	}
	for folder := range seen {
		if n := len(comments[folder]); n != 1 {
			t.Errorf("package %s has %d package comments (%v), want one", folder, n, comments[folder])
		}
	}
}

var bannedNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "types", "shared", "base"}

func TestNames(t *testing.T) {
	for _, s := range sources(t) {
		program := s.file.Name.Name == "main" // named after what runs, and imported by nobody
		if slices.Contains(bannedNames, path.Base(s.folder)) && s.folder != "network/rules" && !program {
			t.Errorf("package %s: the name says nothing", s.folder)
		}
	}
}

// TestNoSleepNoSkipNoInit: waiting is for an event, a test runs or is not there,
// and nothing registers itself.
func TestNoSleepNoSkipNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has an init function", s.path)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := call.X.(*ast.Ident)
			if !ok {
				return true
			}
			where := s.set.Position(call.Pos())
			if x.Name == "time" && call.Sel.Name == "Sleep" && !s.test && !strings.HasSuffix(s.folder, "test") && !below(s.folder, "e2e") && !below(s.folder, "examples") {
				t.Errorf("%s: time.Sleep outside tests", where)
			}
			if s.test && (x.Name == "t" || x.Name == "b") && strings.HasPrefix(call.Sel.Name, "Skip") && call.Sel.Name != "Skipped" {
				t.Errorf("%s: a skipped test", where)
			}
			return true
		})
	}
}

func TestModuleHasNoReplace(t *testing.T) {
	f, err := os.Open("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(strings.TrimSpace(lines.Text()), "replace") {
			t.Errorf("go.mod: %s", lines.Text())
		}
	}
}
