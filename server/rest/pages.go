package rest

import (
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/version"
)

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
