package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"
)

// Scripts are txtar archives: a request, its expected answer, and so on.
//
//	-- POST /api/v1/namespaces/default/configmaps --
//	Content-Type: application/yaml
//
//	(body)
//	-- 201 --
//	Warning: part of the header's value
//
//	(YAML that the answer's JSON must contain; or lines that start with "| ",
//	each of which the answer's text must contain)
//
// The first blank line ends the headers, it may be left out where there are none. A value $NAME in an
// answer is kept and stands for ${NAME} in later requests and answers.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, nil)
			run := script{t: t, w: w, vars: map[string]string{}}
			a := txtar.Parse(data)
			for i := 0; i+1 < len(a.Files); i += 2 {
				if !run.step(a.Files[i], a.Files[i+1]) {
					return
				}
			}
			if strings.Contains(w.log.String(), "panic") {
				t.Errorf("log: %s", w.log.String())
			}
		})
	}
}

type script struct {
	t    *testing.T
	w    *world
	vars map[string]string
}

func (s *script) step(ask, want txtar.File) bool {
	method, path, ok := strings.Cut(ask.Name, " ")
	if !ok {
		s.t.Fatalf("no request: %q", ask.Name)
	}
	header, body := headAndBody(s.fill(string(ask.Data)))
	if body != "" && !strings.Contains(strings.Join(header, ""), "Content-Type") {
		header = append(header, "Content-Type", "application/yaml")
	}
	resp, data := s.w.do(s.t, method, s.fill(path), strings.TrimSuffix(body, "\n"), header...)
	if fmt.Sprint(resp.StatusCode) != want.Name {
		s.t.Errorf("%s: got %s, want %s\n%s", ask.Name, resp.Status, want.Name, data)
		return false
	}
	heads, body := headAndBody(s.fill(string(want.Data)))
	for i := 0; i < len(heads); i += 2 {
		if got := strings.Join(resp.Header.Values(heads[i]), "\n"); !strings.Contains(got, heads[i+1]) {
			s.t.Errorf("%s: header %s is %q, want %q in it", ask.Name, heads[i], got, heads[i+1])
		}
	}
	return s.compare(ask.Name, body, resp, data)
}

func (s *script) compare(name, want string, resp *http.Response, data []byte) bool {
	if strings.HasPrefix(want, "| ") {
		for line := range strings.Lines(want) {
			if part := strings.TrimSuffix(strings.TrimPrefix(line, "| "), "\n"); !strings.Contains(string(data), part) {
				s.t.Errorf("%s: no %q in the answer:\n%s", name, part, data)
				return false
			}
		}
		return true
	}
	if strings.TrimSpace(want) == "" {
		return true
	}
	var wanted, got any
	if err := yaml.Unmarshal([]byte(want), &wanted); err != nil {
		s.t.Fatalf("%s: expected answer: %v", name, err)
	}
	if err := json.Unmarshal(data, &got); err != nil {
		s.t.Errorf("%s: %v in %s\n%s", name, err, resp.Header.Get("Content-Type"), data)
		return false
	}
	if d := cmp.Diff(wanted, s.shape(wanted, got)); d != "" {
		s.t.Errorf("%s: -want +got\n%s", name, d)
		return false
	}
	return true
}

// shape cuts got down to what want mentions, and takes variables out of it. A null
// in want stands for an absent field.
func (s *script) shape(want, got any) any {
	switch w := want.(type) {
	case string:
		if name, ok := strings.CutPrefix(w, "$"); ok && got != nil {
			if s.vars[name] == "" {
				s.vars[name] = fmt.Sprint(got)
			}
			if s.vars[name] == fmt.Sprint(got) {
				return want
			}
		}
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return got
		}
		out := map[string]any{}
		for k, v := range w {
			if gv, ok := g[k]; ok || v == nil {
				out[k] = s.shape(v, gv)
			}
		}
		return out
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return got
		}
		out := make([]any, len(g))
		for i := range g {
			out[i] = s.shape(w[i], g[i])
		}
		return out
	}
	return got
}

func (s *script) fill(text string) string {
	for name, value := range s.vars {
		text = strings.ReplaceAll(text, "${"+name+"}", value)
	}
	return text
}

// headAndBody splits "Name: value" lines, a blank line, and the rest. Without such
// lines all is body.
func headAndBody(text string) (header []string, body string) {
	head, rest, ok := strings.Cut(text, "\n\n")
	if strings.HasPrefix(text, "\n") {
		return nil, text[1:]
	}
	if !ok {
		rest = ""
	}
	for line := range strings.Lines(head) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok || name == "" || name[0] < 'A' || name[0] > 'Z' {
			return nil, text
		}
		header = append(header, name, value)
	}
	return header, rest
}
