// Package health serves /livez, /readyz and /healthz: each a list of checks, one
// line each, in upstream's words. It refuses to know what is checked. Start
// reading at Pages.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"
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

// Seen is told of every result.
type Seen func(page, check string, err error)

// Pages gives /livez, /readyz and /healthz, each with its checks below it. A server
// whose draining has ended is not ready. seen may be nil.
func Pages(list []Check, draining context.Context, seen Seen, log *slog.Logger) map[string]http.Handler {
	if seen == nil {
		seen = func(string, string, error) {}
	}
	checks := append([]Check{{Name: "ping", Check: func(context.Context) error { return nil }}}, list...)
	live := slices.DeleteFunc(slices.Clone(checks), func(c Check) bool { return c.Ready })
	ready := append(slices.Clone(checks), Check{Name: "shutdown", Ready: true, Check: func(context.Context) error {
		if draining.Err() != nil {
			return errors.New("process is shutting down")
		}
		return nil
	}})
	pages := map[string]http.Handler{}
	for name, list := range map[string][]Check{"livez": live, "readyz": ready, "healthz": live} {
		pages["/"+name] = page{name, list, seen, log}
		pages["/"+name+"/"] = page{name, list, seen, log}
	}
	return pages
}

// page is one of the three.
type page struct {
	name   string
	checks []Check
	seen   Seen
	log    *slog.Logger
}

func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	only := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"+p.name), "/")
	excluded := r.URL.Query()["exclude"]
	var text strings.Builder
	failed, found := false, false
	unknown := slices.DeleteFunc(slices.Clone(excluded), func(name string) bool {
		return slices.ContainsFunc(p.checks, func(c Check) bool { return c.Name == name })
	})
	for _, c := range p.checks {
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
		p.seen(p.name, c.Name, err)
		if err != nil {
			failed = true
			fmt.Fprintf(&text, "[-]%s failed: reason withheld\n", c.Name)
			p.log.Warn("health check failed", "page", p.name, "check", c.Name, "err", err)
			continue
		}
		fmt.Fprintf(&text, "[+]%s ok\n", c.Name)
	}
	if len(unknown) > 0 { // upstream's words
		fmt.Fprintf(&text, "warn: some health checks cannot be excluded: no matches for %s\n", quoted(unknown))
	}
	switch {
	case !found:
		http.NotFound(w, r)
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", text.String(), p.name)
	case only == "" && r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", text.String(), p.name)
	default:
		fmt.Fprint(w, "ok")
	}
}

func quoted(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(out, ", ")
}
