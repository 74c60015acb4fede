package aggregator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Document is an OpenAPI document that is fetched when somebody reads it.
type Document struct {
	// Hash changes with the content.
	Hash string
	Open func(protobuf bool) (io.ReadCloser, error)
}

// documents are what is known of a server's OpenAPI documents.
type documents struct {
	fetching sync.Mutex

	mu sync.Mutex
	// link is where the document of version 3 lies, empty where the server has none; hash
	// is its. All guarded by mu.
	link, hash  string
	indexTag    string
	indexAt     time.Time
	indexFailed bool
	// v2 is the part of the old document that is about the version, as JSON.
	v2       []byte
	v2Hash   string
	v2Tag    string
	v2At     time.Time
	v2Failed bool
}

// OpenAPIV3 gives the documents of others by path: apis/GROUP/VERSION.
func (a *Aggregator) OpenAPIV3(ctx context.Context) map[string]Document {
	out := map[string]Document{}
	a.eachDocument(ctx, a.fetchIndex, func(r *route) {
		d := &r.docs
		switch path := strings.TrimPrefix(r.root(), "/"); {
		case d.link != "":
			link := d.link
			out[path] = Document{Hash: d.hash, Open: func(protobuf bool) (io.ReadCloser, error) { return a.open(r, link, protobuf) }}
		case d.v2 != nil:
			v2 := d.v2
			out[path] = Document{Hash: d.v2Hash, Open: func(protobuf bool) (io.ReadCloser, error) { return convertedDocument(v2, protobuf) }}
		}
	})
	return out
}

// OpenAPIV2 gives what others add to the document of version 2, as JSON: their paths,
// and the definitions that these need.
func (a *Aggregator) OpenAPIV2(ctx context.Context) []Document {
	var out []Document
	a.eachDocument(ctx, a.fetchV2, func(r *route) {
		if v2 := r.docs.v2; v2 != nil {
			out = append(out, Document{Hash: r.docs.v2Hash, Open: func(bool) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(v2)), nil }})
		}
	})
	return out
}

// eachDocument brings what is known of all servers up to date, then shows it.
func (a *Aggregator) eachDocument(ctx context.Context, fetch func(context.Context, *route), show func(*route)) {
	if len(*a.routes.Load()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range a.all() {
		if r.available.Load() {
			wg.Go(func() {
				r.docs.fetching.Lock()
				defer r.docs.fetching.Unlock()
				fetch(ctx, r)
			})
		}
	}
	wg.Wait()
	for _, r := range a.all() {
		if r.available.Load() {
			r.docs.mu.Lock()
			show(r)
			r.docs.mu.Unlock()
		}
	}
}

// lapsed tells whether a document is to be asked for again.
func lapsed(now, at time.Time, failed bool) bool {
	if failed {
		return now.Sub(at) > retryAfter
	}
	return now.Sub(at) > refreshAfter
}

// fetchIndex finds out where a server's document of version 3 lies; one that has none is
// asked for version 2.
func (a *Aggregator) fetchIndex(ctx context.Context, r *route) {
	d := &r.docs
	d.mu.Lock()
	due, tag := lapsed(a.Now(), d.indexAt, d.indexFailed), d.indexTag
	d.mu.Unlock()
	if due {
		resp, body, err := a.fetch(ctx, r, "/openapi/v3", "application/json", tag)
		link, failed := "", err != nil
		if err == nil && resp.StatusCode == http.StatusOK {
			link, err = linkIn(body, strings.TrimPrefix(r.root(), "/"))
			failed = err != nil
		}
		d.mu.Lock()
		d.indexAt, d.indexFailed = a.Now(), failed && err != errUnchanged
		if !failed {
			d.link, d.indexTag = link, resp.Header.Get("Etag")
			d.hash = hashOf([]byte(link))
		}
		d.mu.Unlock()
	}
	d.mu.Lock()
	none := d.link == "" && !d.indexFailed
	d.mu.Unlock()
	if none {
		a.fetchV2(ctx, r)
	}
}

func linkIn(index []byte, path string) (string, error) {
	var doc struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		}
	}
	err := json.Unmarshal(index, &doc)
	return doc.Paths[path].URL, err
}

func (a *Aggregator) fetchV2(ctx context.Context, r *route) {
	d := &r.docs
	d.mu.Lock()
	due, tag := lapsed(a.Now(), d.v2At, d.v2Failed), d.v2Tag
	d.mu.Unlock()
	if !due {
		return
	}
	resp, body, err := a.fetch(ctx, r, "/openapi/v2", "application/json", tag)
	var part []byte
	if err == nil && resp.StatusCode == http.StatusOK {
		part, err = partOf(body, r.root())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.v2At, d.v2Failed = a.Now(), err != nil && err != errUnchanged
	if err == nil {
		d.v2, d.v2Tag, d.v2Hash = part, resp.Header.Get("Etag"), hashOf(part)
	}
}

func hashOf(b []byte) string { return fmt.Sprintf("%X", sha256.Sum256(b)) }

// open fetches a document of version 3.
func (a *Aggregator) open(r *route, link string, protobuf bool) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(a.life, fetchTime)
	defer cancel()
	resp, body, err := a.fetch(ctx, r, link, "application/json", "")
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the server of %s answers %s", r.name, resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("fetching an OpenAPI document: %w", err)
	}
	return inV3(body, protobuf)
}

func inV3(doc []byte, protobuf bool) (io.ReadCloser, error) {
	if !protobuf {
		return io.NopCloser(bytes.NewReader(doc)), nil
	}
	d, err := openapiv3.ParseDocument(doc)
	if err != nil {
		return nil, err
	}
	return encoded(d)
}

func encoded(m proto.Message) (io.ReadCloser, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// convertedDocument makes a document of version 3 of one of version 2.
func convertedDocument(v2 []byte, protobuf bool) (io.ReadCloser, error) {
	var doc spec.Swagger
	if err := json.Unmarshal(v2, &doc); err != nil {
		return nil, err
	}
	data, err := json.Marshal(openapiconv.ConvertV2ToV3(&doc))
	if err != nil {
		return nil, err
	}
	return inV3(data, protobuf)
}
