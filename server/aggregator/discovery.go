package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
)

// Version is what discovery says about a version that another server answers for.
type Version struct {
	schema.GroupVersion
	Priority  api.Priority
	Resources []apidiscovery.APIResourceDiscovery
	// Stale: the server cannot be asked now.
	Stale bool
	// Local: this server answers itself; all that counts is the priority, which an
	// administrator gave the version.
	Local bool
}

// Times of asking for documents: an old one still serves while a new one is fetched,
// and a server that failed is left alone for a while.
const (
	refreshAfter = time.Minute
	retryAfter   = 5 * time.Second
	fetchTime    = 5 * time.Second
	// maxDocument bounds a discovery or OpenAPI document.
	maxDocument = 32 << 20
	acceptV2    = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
)

// surface is what a server said about its resources.
type surface struct {
	// fetching is held by who asks the server; the others wait for him.
	fetching sync.Mutex

	mu        sync.Mutex
	resources []apidiscovery.APIResourceDiscovery // guarded by mu, as all below
	etag      string
	at, tried time.Time
	failed    bool
	renewing  bool
}

// stale makes the next reader ask again.
func (r *route) stale() {
	r.surface.mu.Lock()
	r.surface.at, r.surface.tried = time.Time{}, time.Time{}
	r.surface.mu.Unlock()
	r.docs.mu.Lock()
	defer r.docs.mu.Unlock()
	r.docs.indexAt, r.docs.v2At = time.Time{}, time.Time{}
}

// Versions lists what others answer for, as far as it is known: see Refresh; and what we do
// where an administrator moved it. The channel closes when that changes.
func (a *Aggregator) Versions() ([]Version, <-chan struct{}) {
	var out []Version
	a.mu.Lock()
	changed := a.changed
	for at, p := range a.local {
		out = append(out, Version{GroupVersion: schema.GroupVersion{Group: at.group, Version: at.version}, Priority: p, Local: true})
	}
	a.mu.Unlock()
	for _, r := range a.all() {
		v := Version{GroupVersion: schema.GroupVersion{Group: r.spec.Group, Version: r.spec.Version},
			Priority: api.Priority{Group: r.spec.GroupPriorityMinimum, Version: r.spec.VersionPriority}, Stale: true}
		r.surface.mu.Lock()
		if r.available.Load() && !r.surface.failed && !r.surface.at.IsZero() {
			v.Resources, v.Stale = r.surface.resources, false
		}
		r.surface.mu.Unlock()
		out = append(out, v)
	}
	return out, changed
}

// Refresh asks those servers for their resources that were not asked yet, and waits
// for them; what is merely old is asked for behind the reader's back.
func (a *Aggregator) Refresh(ctx context.Context) {
	routes := *a.routes.Load()
	if len(routes) == 0 {
		return
	}
	var wg sync.WaitGroup
	for _, r := range routes {
		if !r.available.Load() {
			continue
		}
		switch now, s := a.Now(), &r.surface; s.due(now) {
		case missing:
			wg.Go(func() {
				s.fetching.Lock()
				defer s.fetching.Unlock()
				if s.due(a.Now()) == missing {
					a.fetchSurface(ctx, r)
				}
			})
		case old:
			go func() {
				s.fetching.Lock()
				defer s.fetching.Unlock()
				a.fetchSurface(a.life, r)
			}()
		}
	}
	wg.Wait()
}

const (
	fresh = iota
	old
	missing
)

// due tells whether the server is to be asked; old is said to one reader only.
func (s *surface) due(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case now.Sub(s.tried) < retryAfter && s.failed:
		return fresh // nothing better is to be had now
	case s.at.IsZero() || s.failed:
		return missing
	case now.Sub(s.at) > refreshAfter && !s.renewing:
		s.renewing = true
		return old
	}
	return fresh
}

// fetchSurface asks one server and notes what it says; fetching is held.
func (a *Aggregator) fetchSurface(ctx context.Context, r *route) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	s := &r.surface
	s.mu.Lock()
	etag, before := s.etag, s.resources
	if s.at.IsZero() && before == nil {
		etag = ""
	}
	s.mu.Unlock()
	now := a.Now()
	resources, newTag, err := a.askSurface(ctx, r, etag)
	s.mu.Lock()
	s.renewing, s.tried = false, now
	was := s.failed || s.at.IsZero()
	switch {
	case err == errUnchanged:
		s.at, s.failed = now, false
	case err != nil:
		s.failed = true
	default:
		s.resources, s.etag, s.at, s.failed = resources, newTag, now, false
	}
	s.mu.Unlock()
	if err == errUnchanged && !was {
		return
	}
	if err != nil && err != errUnchanged {
		a.Log.Debug("an aggregated server does not tell its resources", "apiservice", r.name, "error", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changedLocked()
}

var errUnchanged = fmt.Errorf("not modified")

// askSurface asks for the whole surface, then for the old document of the version.
func (a *Aggregator) askSurface(ctx context.Context, r *route, etag string) ([]apidiscovery.APIResourceDiscovery, string, error) {
	resp, body, err := a.fetch(ctx, r, "/apis", acceptV2, etag)
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode == http.StatusOK && isSurface(resp.Header.Get("Content-Type")) {
		var list apidiscovery.APIGroupDiscoveryList
		if err := json.Unmarshal(body, &list); err != nil {
			return nil, "", fmt.Errorf("reading discovery of %s: %w", r.name, err)
		}
		for _, g := range list.Items {
			for _, v := range g.Versions {
				if g.Name == r.spec.Group && v.Version == r.spec.Version {
					return withKinds(v.Resources), resp.Header.Get("Etag"), nil
				}
			}
		}
		return nil, resp.Header.Get("Etag"), nil
	}
	if resp, body, err = a.fetch(ctx, r, r.root(), "application/json", ""); err != nil {
		return nil, "", err
	}
	var list metav1.APIResourceList
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("failed to download legacy discovery for %s: %s", r.root(), resp.Status)
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, "", fmt.Errorf("reading discovery of %s: %w", r.name, err)
	}
	return r.converted(list.APIResources), "", nil
}

func isSurface(contentType string) bool {
	media, params, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json" && params["g"] == apidiscovery.GroupName && params["v"] == "v2" && params["as"] == "APIGroupDiscoveryList"
}

// withKinds fills in empty kinds where there are none: old clients fall over nil.
func withKinds(list []apidiscovery.APIResourceDiscovery) []apidiscovery.APIResourceDiscovery {
	for i := range list {
		if list[i].ResponseKind == nil {
			list[i].ResponseKind = &metav1.GroupVersionKind{}
		}
		for j := range list[i].Subresources {
			if list[i].Subresources[j].ResponseKind == nil {
				list[i].Subresources[j].ResponseKind = &metav1.GroupVersionKind{}
			}
		}
	}
	return list
}

// converted makes the new form of the old one.
func (r *route) converted(list []metav1.APIResource) []apidiscovery.APIResourceDiscovery {
	out := []apidiscovery.APIResourceDiscovery{}
	at := map[string]int{}
	kind := func(o metav1.APIResource) *metav1.GroupVersionKind {
		k := &metav1.GroupVersionKind{Group: o.Group, Version: o.Version, Kind: o.Kind}
		if o.Version == "" {
			k.Group, k.Version = r.spec.Group, r.spec.Version
		}
		return k
	}
	for _, o := range list {
		if strings.Contains(o.Name, "/") {
			continue
		}
		at[o.Name] = len(out)
		one := apidiscovery.APIResourceDiscovery{Resource: o.Name, ResponseKind: kind(o), Scope: scopeOf(o), SingularResource: o.SingularName,
			Verbs: o.Verbs, ShortNames: o.ShortNames, Categories: o.Categories}
		out = append(out, one)
	}
	for _, o := range list {
		parent, sub, is := strings.Cut(o.Name, "/")
		if !is {
			continue
		}
		i, there := at[parent]
		if !there { // as of servers of metrics, which have pods/METRIC and no pods
			i = len(out)
			at[parent] = i
			out = append(out, apidiscovery.APIResourceDiscovery{Resource: parent, ResponseKind: &metav1.GroupVersionKind{}, Scope: scopeOf(o)})
		}
		out[i].Subresources = append(out[i].Subresources, apidiscovery.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind(o), Verbs: o.Verbs})
	}
	return out
}

func scopeOf(o metav1.APIResource) apidiscovery.ResourceScope {
	if o.Namespaced {
		return apidiscovery.ScopeNamespace
	}
	return apidiscovery.ScopeCluster
}

// fetch asks a server for a document. The error is errUnchanged if it is that of etag.
func (a *Aggregator) fetch(ctx context.Context, r *route, path, accept, etag string) (*http.Response, []byte, error) {
	req, err := a.request(ctx, r, path)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Accept", accept)
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := r.client().Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && etag != "" {
		return resp, nil, errUnchanged
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err == nil && len(body) > maxDocument {
		err = fmt.Errorf("the document %s of %s is larger than %d bytes", path, r.name, maxDocument)
	}
	return resp, body, err
}
