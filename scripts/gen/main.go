// Command gen makes the OpenAPI documents that server/rest/openapi embeds. It
// runs the pinned openapi-gen over the Go types of the API, which gives Go code
// of some 30,000 lines under .build, and then that code together with package
// document, which writes the documents. The big code is linked into nothing else.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/version"

	"orch/api"
)

// shim is the program that holds the generated definitions.
const shim = `package main

import "orch/scripts/gen/document"

func main() { document.Main(GetOpenAPIDefinitions) }
`

func main() {
	out := flag.String("out", "server/rest/openapi/documents", "folder of the documents, replaced")
	build := flag.String("build", ".build/openapi", "folder for generated code")
	flag.Parse()
	if err := generate(*build, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func generate(build, out string) error {
	if err := os.MkdirAll(build, 0o755); err != nil {
		return err
	}
	main := filepath.Join(build, "main.go")
	if err := os.WriteFile(main, []byte(shim), 0o644); err != nil {
		return err
	}
	args := []string{"tool", "openapi-gen", "--output-dir", build, "--output-pkg", "orch/main", "--output-file", "definitions.go",
		"--report-filename", filepath.Join(build, "report.txt"), "--go-header-file", os.DevNull}
	if err := run(append(args, packages()...)); err != nil {
		return fmt.Errorf("generating definitions: %w", err)
	}
	if err := run([]string{"run", main, filepath.Join(build, "definitions.go"), "-out", out}); err != nil {
		return fmt.Errorf("building documents: %w", err)
	}
	return nil
}

func run(args []string) error {
	cmd := exec.Command("go", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// packages lists the Go packages of every kind that is served, and those of all
// types that these reach.
func packages() []string {
	w := walk{types: map[reflect.Type]bool{}, packages: map[string]bool{}}
	for _, gvk := range []schema.GroupVersionKind{api.Scales.GVK(), api.Evictions.GVK(), api.TokenRequests.GVK()} {
		w.visit(reflect.PointerTo(api.Scheme().AllKnownTypes()[gvk]))
	}
	for _, f := range api.All() {
		w.visit(reflect.TypeOf(f.New()))
	}
	for _, t := range []any{version.Info{}, metav1.Status{}, metav1.APIGroupList{}, intstr.IntOrString{}} {
		w.visit(reflect.TypeOf(t))
	}
	return slices.Sorted(maps.Keys(w.packages))
}

type walk struct {
	types    map[reflect.Type]bool
	packages map[string]bool
}

func (w walk) visit(t reflect.Type) {
	if w.types[t] {
		return
	}
	w.types[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		w.visit(t.Elem())
	case reflect.Struct:
		if strings.HasPrefix(t.PkgPath(), "k8s.io/") {
			w.packages[t.PkgPath()] = true
		}
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				w.visit(f.Type)
			}
		}
	}
}
