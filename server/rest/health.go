package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/version"
)

// Check is one thing that health depends on.
type Check struct {
	Name  string
	Check func(context.Context) error
	// Ready checks count for /readyz only: a server that is not ready is not ill.
	Ready bool
}

// checkTime bounds one check.
const checkTime = 10 * time.Second

// healthPages are /livez, /readyz and /healthz, each with its checks below it.
func (s *Server) healthPages() map[string]http.Handler {
	checks := append([]Check{{Name: "ping", Check: func(context.Context) error { return nil }}}, s.config.Checks...)
	live := slices.DeleteFunc(slices.Clone(checks), func(c Check) bool { return c.Ready })
	ready := append(slices.Clone(checks), Check{Name: "shutdown", Ready: true, Check: func(context.Context) error {
		if s.draining.Err() != nil {
			return fmt.Errorf("process is shutting down")
		}
		return nil
	}})
	pages := map[string]http.Handler{}
	for name, list := range map[string][]Check{"livez": live, "readyz": ready, "healthz": live} {
		pages["/"+name] = s.health(name, list)
		pages["/"+name+"/"] = s.health(name, list)
	}
	return pages
}

func (s *Server) health(name string, checks []Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		only := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"+name), "/")
		excluded := r.URL.Query()["exclude"]
		var text strings.Builder
		failed, found := false, false
		for _, c := range checks {
			if only != "" && c.Name != only {
				continue
			}
			found = true
			if slices.Contains(excluded, c.Name) {
				fmt.Fprintf(&text, "[+]%s excluded: ok\n", c.Name)
				continue
			}
			ctx, cancel := context.WithTimeout(r.Context(), checkTime)
			err := c.Check(ctx)
			cancel()
			if err != nil {
				failed = true
				fmt.Fprintf(&text, "[-]%s failed: reason withheld\n", c.Name)
				s.log.Warn("health check failed", "page", name, "check", c.Name, "err", err)
				continue
			}
			fmt.Fprintf(&text, "[+]%s ok\n", c.Name)
		}
		switch {
		case !found:
			http.NotFound(w, r)
		case failed:
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, "%s%s check failed\n", text.String(), name)
		case only == "" && r.URL.Query().Has("verbose"):
			fmt.Fprintf(w, "%s%s check passed\n", text.String(), name)
		default:
			fmt.Fprint(w, "ok")
		}
	})
}

// versionPage is /version.
func (s *Server) versionPage() http.Handler {
	v := version.Info{Major: "1", Minor: "37", GitVersion: s.config.Version, GitCommit: s.config.Commit, GitTreeState: "clean", BuildDate: s.config.BuildDate,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36"}
	data, err := json.MarshalIndent(v, "", "  ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(data)
	})
}

// index lists the paths, at /.
func (s *Server) index(w http.ResponseWriter) error {
	paths := s.discovery.Paths()
	for _, routes := range []routeTable{s.pages, s.protected} {
		for p := range routes.exact {
			if !strings.HasSuffix(p, "/") {
				paths = append(paths, p)
			}
		}
	}
	slices.Sort(paths)
	data, err := json.MarshalIndent(map[string][]string{"paths": slices.Compact(paths)}, "", "  ")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
	return nil
}
