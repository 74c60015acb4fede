package aggregator

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"k8s.io/client-go/transport"

	"orch/server/registry"
)

// Route is the way to a server that answers for a version.
type Route struct {
	a *Aggregator
	r *route
}

// Find tells who answers for a group's version; nil: this server does.
func (a *Aggregator) Find(group, v string) *Route {
	routes := *a.routes.Load()
	if len(routes) == 0 {
		return nil
	}
	if r := routes[version{group, v}]; r != nil {
		return &Route{a, r}
	}
	return nil
}

// Serve passes a request on for a user, and the answer back; it returns the answer's
// code. Upgraded connections are passed both ways, answers as they come.
func (t *Route) Serve(w http.ResponseWriter, q *http.Request, user registry.User) (code int) {
	a, r := t.a, t.r
	refuse := func(text string, code int) int {
		http.Error(w, text, code)
		return code
	}
	switch {
	case !r.available.Load():
		return refuse("service unavailable", http.StatusServiceUnavailable)
	case r.broken != nil:
		return refuse(r.broken.Error(), http.StatusInternalServerError)
	}
	host, err := a.Backends.Resolve(r.service.Namespace, r.service.Name, *r.service.Port)
	if err != nil {
		a.lookAgain(r)
		return refuse("service unavailable", http.StatusServiceUnavailable)
	}
	code = http.StatusServiceUnavailable
	p := httputil.ReverseProxy{
		Transport: r.plain, FlushInterval: -1,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL = &url.URL{Scheme: "https", Host: host, Path: q.URL.Path, RawPath: q.URL.RawPath, RawQuery: q.URL.RawQuery}
			pr.Out.Host = host
			pr.SetXForwarded()
			identify(pr.Out, user)
		},
		ModifyResponse: func(resp *http.Response) error {
			withoutRedirect(resp)
			for _, name := range []string{"Credentials", "Headers", "Methods", "Origin"} {
				resp.Header.Del("Access-Control-Allow-" + name)
			}
			code = resp.StatusCode
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, q *http.Request, err error) {
			if !errors.Is(err, context.Canceled) {
				a.Log.Debug("an aggregated server did not answer", "apiservice", r.name, "error", err)
				a.lookAgain(r)
			}
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		},
	}
	if q.Header.Get("Upgrade") != "" {
		p.Transport = r.upgrades
	}
	p.ServeHTTP(w, q)
	return code
}

// identify says who asks, and hides how he proved it: the other server must not be
// able to act as him elsewhere.
func identify(out *http.Request, user registry.User) {
	out.Header.Del("Authorization")
	for name := range out.Header {
		if strings.HasPrefix(name, "Impersonate-") {
			out.Header.Del(name)
		}
	}
	transport.SetAuthProxyHeaders(out, user.Name, user.UID, user.Groups, user.Extra)
}

// withoutRedirect refuses answers that send the client elsewhere.
func withoutRedirect(resp *http.Response) {
	if resp.StatusCode < 300 || resp.StatusCode > 399 || resp.Header.Get("Location") == "" {
		return
	}
	resp.Body.Close()
	const text = "the backend attempted to redirect this request, which is not permitted"
	resp.StatusCode, resp.Status = http.StatusBadGateway, http.StatusText(http.StatusBadGateway)
	resp.Header = http.Header{}
	resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
}

func cutQuery(path string) (where, query string, found bool) { return strings.Cut(path, "?") }
