package discovery

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/server/aggregator"
	"orch/server/rest/wire"
)

// Table is where the kinds come from: the registry.
type Table interface {
	// Kinds lists what is served now.
	Kinds() []*api.Facts
	// Changed is closed at the next change of the list.
	Changed() <-chan struct{}
}

// Others are the servers that answer for further versions.
type Others interface {
	// Refresh asks those that were not asked for long.
	Refresh(ctx context.Context)
	// Versions lists what they answer for; the channel closes when that changes.
	Versions() ([]aggregator.Version, <-chan struct{})
}

// Documents serves discovery. Make it with New.
type Documents struct {
	table  Table
	others Others

	mu sync.Mutex
	// made from the table as of changed, and from what others said; guarded by mu, as are
	// the channels.
	made                   *set
	changed, othersChanged <-chan struct{}
}

// set is all documents of one state of the table.
type set struct {
	// objects by path without slashes at the ends.
	objects map[string]runtime.Object
	// grouped holds the aggregated documents of "api" and "apis".
	grouped map[string]*apidiscovery.APIGroupDiscoveryList

	mu sync.Mutex
	// encoded documents by path and media; bounded by the paths there are.
	encoded map[string]document
}

type document struct {
	data []byte
	etag string
}

// New serves what table holds, and what others do; nil for none.
func New(table Table, others Others) *Documents { return &Documents{table: table, others: others} }

func (d *Documents) current() *set {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.changed:
		d.made = nil
	case <-d.othersChanged:
		d.made = nil
	default:
	}
	if d.made == nil {
		d.changed = d.table.Changed() // taken before looking, so that no change is missed
		var others []aggregator.Version
		if d.others != nil {
			others, d.othersChanged = d.others.Versions()
		}
		d.made = build(d.table.Kinds(), others)
	}
	return d.made
}

func build(kinds []*api.Facts, more []aggregator.Version) *set {
	s := &set{objects: map[string]runtime.Object{}, grouped: map[string]*apidiscovery.APIGroupDiscoveryList{}, encoded: map[string]document{}}
	core := &metav1.APIVersions{ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{}}
	list := &metav1.APIGroupList{Groups: []metav1.APIGroup{}}
	var cores, others []group
	for _, g := range groupsOf(kinds, more) {
		base := "apis/" + g.name
		if g.name == "" {
			base, cores = "api", append(cores, g)
			for _, v := range g.versions {
				core.Versions = append(core.Versions, v.Version)
			}
		} else {
			doc := g.document()
			others, list.Groups = append(others, g), append(list.Groups, doc)
			s.objects[base] = &doc
		}
		for _, v := range g.versions {
			if v.others == nil {
				s.objects[base+"/"+v.Version] = v.document()
			}
		}
	}
	s.objects["api"], s.objects["apis"] = core, list
	s.grouped["api"], s.grouped["apis"] = aggregated(cores), aggregated(others)
	return s
}

// Serves tells whether path (with or without slashes at the ends) is a discovery
// document. It decides by shape only for what is not there: that is a 404.
func (d *Documents) Serves(path string) bool {
	_, ok := d.current().objects[strings.Trim(path, "/")]
	return ok
}

// Paths lists the documents' paths, for the index at /.
func (d *Documents) Paths() []string {
	var list []string
	for p := range d.current().objects {
		list = append(list, "/"+p)
	}
	return list
}

// ServeHTTP answers a path that Serves.
func (d *Documents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(r.URL.Path, "/")
	if d.others != nil {
		d.others.Refresh(r.Context())
	}
	s := d.current()
	if s.objects[path] == nil { // it went just now
		wire.WriteError(w, r, wire.NotFound())
		return
	}
	w.Header().Add("Vary", "Accept")
	if s.grouped[path] != nil {
		for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
			if version := aggregatedVersion(part); version != "" {
				s.serveAggregated(w, r, path, version)
				return
			}
			if !strings.Contains(part, "as=") {
				break // the old documents come earlier in the client's list
			}
		}
	}
	media, err := wire.Negotiate(r.Header.Get("Accept"), wire.Offer{Protobuf: true})
	if err != nil {
		wire.WriteError(w, r, err)
		return
	}
	media = media.PrettyFor(r)
	o := s.objects[path]
	gvk := schema.GroupVersionKind{Version: "v1", Kind: kindName(o)}
	s.serve(w, r, fmt.Sprint(path, media), media.Format.ContentType(), func() ([]byte, error) { return wire.AppendObject(nil, media, o.DeepCopyObject(), gvk) })
}

func kindName(o runtime.Object) string {
	switch o.(type) {
	case *metav1.APIVersions:
		return "APIVersions"
	case *metav1.APIGroupList:
		return "APIGroupList"
	case *metav1.APIGroup:
		return "APIGroup"
	}
	return "APIResourceList"
}

// aggregatedVersion reads one clause of an Accept header: the version of the
// aggregated document it asks for, or "".
func aggregatedVersion(clause string) string {
	var as, group, version string
	for i, p := range strings.Split(clause, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch {
		case i == 0 && key != "application/json":
			return ""
		case key == "as":
			as = value
		case key == "g":
			group = value
		case key == "v":
			version = value
		}
	}
	if as == "APIGroupDiscoveryList" && group == apidiscovery.GroupName && (version == "v2" || version == "v2beta1") {
		return version
	}
	return ""
}

func (s *set) serveAggregated(w http.ResponseWriter, r *http.Request, path, version string) {
	s.serve(w, r, path+" "+version, "application/json;g=apidiscovery.k8s.io;v="+version+";as=APIGroupDiscoveryList", func() ([]byte, error) {
		doc := s.grouped[path].DeepCopy()
		doc.SetGroupVersionKind(schema.GroupVersionKind{Group: apidiscovery.GroupName, Version: version, Kind: "APIGroupDiscoveryList"})
		return json.Marshal(doc)
	})
}

func (s *set) serve(w http.ResponseWriter, r *http.Request, key, contentType string, make func() ([]byte, error)) {
	s.mu.Lock()
	doc, ok := s.encoded[key]
	if !ok {
		data, err := make()
		if err != nil {
			s.mu.Unlock()
			wire.WriteError(w, r, err)
			return
		}
		doc = document{data, fmt.Sprintf(`"%X"`, sha256.Sum256(data))}
		s.encoded[key] = doc
	}
	s.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Etag", doc.etag)
	if m := r.Header.Get("If-None-Match"); m != "" && strings.Contains(m, doc.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(doc.data) // the client is gone if this fails
}
