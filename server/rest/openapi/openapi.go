// Package openapi serves the OpenAPI documents, version 2 and 3, as JSON and as
// protobuf. The documents of the built-in kinds are made by scripts/gen and
// embedded compressed; nothing parses them, a request streams them out. It
// refuses to know kinds: documents of custom resources are handed in by Set.
package openapi

//go:generate go run orch/scripts/gen -out documents -build ../../../.build/openapi

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

//go:embed documents
var embedded embed.FS

// Document is one document in both encodings.
type Document struct {
	// Hash changes whenever the content does; it is the ETag.
	Hash string
	// Open gives the content as JSON, or as protobuf.
	Open func(protobuf bool) (io.ReadCloser, error)
}

// Documents holds what is served. Make it with New.
type Documents struct {
	mu sync.RWMutex
	// byName holds "v2" and "v3/<path>"; guarded by mu, replaced as a whole.
	byName map[string]Document
	// base is the embedded document of version 2.
	base Document
	// others add theirs to every answer; nil for none.
	others   Others
	fittings fittings
}

// Others give the documents of other servers.
type Others interface {
	// V2 lists what is to be added to the document of version 2.
	V2(ctx context.Context) []Document
	// V3 gives documents of version 3 by path: apis/GROUP/VERSION. They come before ours.
	V3(ctx context.Context) map[string]Document
}

// SetOthers adds the documents of other servers. Call it before anything is served.
func (d *Documents) SetOthers(o Others) { d.others = o }

// New takes up the embedded documents; it reads only their index.
func New() (*Documents, error) {
	data, err := embedded.ReadFile("documents/index.json")
	if err != nil {
		return nil, fmt.Errorf("reading the index of OpenAPI documents: %w", err)
	}
	index := map[string]string{}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("reading the index of OpenAPI documents: %w", err)
	}
	d := &Documents{byName: map[string]Document{}}
	for name, hash := range index {
		d.byName[name] = Document{Hash: hash, Open: func(protobuf bool) (io.ReadCloser, error) { return openEmbedded(name, protobuf) }}
	}
	d.base = d.byName["v2"]
	return d, nil
}

// Set replaces or adds a document "v3/apis/GROUP/VERSION"; one without Open is taken
// away. The document "v2" is kept: what is set under this name is added to it, its
// definitions and paths as JSON, or the same as a protobuf message.
func (d *Documents) Set(name string, doc Document) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := maps.Clone(d.byName)
	if name == "v2" {
		next[name] = extended(d.base, doc)
	} else if doc.Open == nil {
		delete(next, name)
	} else {
		next[name] = doc
	}
	d.byName = next
}

func (d *Documents) documents() map[string]Document {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byName
}

// The embedded documents say much the same thing again and again. Version 2 as JSON has nearly
// all of it: the others are packed with its text as their dictionary, which leaves a quarter.
const (
	baseFile     = "documents/v2.json.zst"
	dictionaryID = 1
)

func openEmbedded(name string, protobuf bool) (io.ReadCloser, error) {
	file := "documents/" + strings.ReplaceAll(name, "/", "__") + ".json.zst"
	if protobuf {
		file = strings.TrimSuffix(file, ".json.zst") + ".pb.zst"
	}
	if file == baseFile {
		return open(file)
	}
	base, err := open(baseFile)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	text, err := io.ReadAll(base)
	if err != nil {
		return nil, err
	}
	return open(file, zstd.WithDecoderDictRaw(dictionaryID, text))
}

// open gives a packed file's content as it is read.
func open(file string, options ...zstd.DOption) (io.ReadCloser, error) {
	f, err := embedded.Open(file)
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(f, append(options, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))...)
	if err != nil {
		f.Close()
		return nil, err
	}
	return decoder{dec.IOReadCloser(), f}, nil
}

type decoder struct {
	io.ReadCloser
	file fs.File
}

func (d decoder) Close() error {
	d.ReadCloser.Close()
	return d.file.Close()
}

// ServeHTTP answers /openapi/v2, /openapi/v3 and /openapi/v3/....
func (d *Documents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/"), "/"); {
	case path == "v3":
		d.serveIndex(w, r)
	case path == "v2", strings.HasPrefix(path, "v3/"):
		doc, ok := d.find(r.Context(), path)
		if !ok {
			http.NotFound(w, r)
			return
		}
		if want := r.URL.Query().Get("hash"); want != "" {
			if want != doc.Hash {
				http.Redirect(w, r, link(path, doc.Hash), http.StatusMovedPermanently)
				return
			}
			// The address changes with the content, so a client may keep it for good.
			w.Header().Set("Cache-Control", "public, immutable")
			w.Header().Set("Expires", time.Now().UTC().AddDate(1, 0, 0).Format(http.TimeFormat))
		}
		serve(w, r, doc, path[:2])
	default:
		http.NotFound(w, r)
	}
}

// find looks a document up, among those of other servers first.
func (d *Documents) find(ctx context.Context, name string) (Document, bool) {
	doc, ok := d.documents()[name]
	if d.others == nil {
		return doc, ok
	}
	if name == "v2" {
		return d.joined(doc, d.others.V2(ctx)), ok
	}
	path := strings.TrimPrefix(name, "v3/")
	if strings.HasPrefix(path, "apis/") && strings.Count(path, "/") == 2 {
		if theirs, found := d.others.V3(ctx)[path]; found {
			return theirs, true
		}
	}
	return doc, ok
}

func link(path, hash string) string { return "/openapi/" + path + "?hash=" + url.QueryEscape(hash) }

func (d *Documents) serveIndex(w http.ResponseWriter, r *http.Request) {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	for name, doc := range d.documents() {
		if path, ok := strings.CutPrefix(name, "v3/"); ok {
			paths[path] = entry{link(name, doc.Hash)}
		}
	}
	if d.others != nil {
		for path, doc := range d.others.V3(r.Context()) {
			paths[path] = entry{link("v3/"+path, doc.Hash)}
		}
	}
	data, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vary", "Accept")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// mediaType picks the answer's type; ok is false where the client accepts neither.
func mediaType(accept, version string) (name string, protobuf, ok bool) {
	if accept == "" {
		return "application/json", false, true
	}
	for clause := range strings.SplitSeq(accept, ",") {
		t, _, _ := strings.Cut(clause, ";")
		switch strings.TrimSpace(t) {
		case "application/json", "application/*", "*/*":
			return "application/json", false, true
		case "application/com.github.proto-openapi.spec." + version + "@v1.0+protobuf", "application/com.github.proto-openapi.spec." + version + ".v1.0+protobuf":
			return "application/com.github.proto-openapi.spec." + version + ".v1.0+protobuf", true, true
		}
	}
	return "", false, false
}

func serve(w http.ResponseWriter, r *http.Request, doc Document, version string) {
	h := w.Header()
	h.Add("Vary", "Accept")
	h.Add("Vary", "Accept-Encoding")
	contentType, protobuf, ok := mediaType(r.Header.Get("Accept"), version)
	if !ok {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	etag := `"` + doc.Hash + `"`
	h.Set("Content-Type", contentType)
	h.Set("Etag", etag)
	if match := r.Header.Get("If-None-Match"); match == "*" || strings.Contains(match, etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body, err := doc.Open(protobuf)
	if err != nil {
		h.Del("Etag")
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer body.Close()
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		_, _ = io.Copy(w, body) // the client is gone if this fails
		return
	}
	h.Set("Content-Encoding", "gzip")
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return
	}
	_, _ = io.Copy(zip, body)
	_ = zip.Close()
}
