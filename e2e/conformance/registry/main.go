// Command registry serves packed images over the distribution protocol, read-only, to
// the nodes of a conformance run: tests whose pods have the pull policy Always want one.
// Usage: registry ADDRESS ARCHIVE... Any host's images are served by their path alone. Start reading at serve.
package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// registry is what the archives hold. It does not change.
type registry struct {
	blobs map[string]blob // by digest
	// tags gives the digest of a manifest by repository:tag.
	tags map[string]string
}

// blob is a part of an archive.
type blob struct {
	kind string // of manifests: the media type
	*io.SectionReader
}

// index is the part of an archive's index.json that counts.
type index struct {
	Manifests []struct {
		MediaType, Digest string
		Annotations       map[string]string
	}
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: registry ADDRESS ARCHIVE...")
		os.Exit(2)
	}
	r := registry{blobs: map[string]blob{}, tags: map[string]string{}}
	for _, path := range os.Args[2:] {
		if err := r.add(path); err != nil {
			fmt.Fprintf(os.Stderr, "registry: reading %s: %v\n", path, err)
			os.Exit(1)
		}
	}
	server := &http.Server{Addr: os.Args[1], Handler: http.HandlerFunc(r.serve), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, "registry:", server.ListenAndServe())
	os.Exit(1)
}

// add takes in one archive, which stays open.
func (r registry) add(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	var names index
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Name == "index.json" {
			if err := json.NewDecoder(t).Decode(&names); err != nil {
				return err
			}
		}
		at, err := f.Seek(0, io.SeekCurrent) // the reader stands where the content begins
		if err != nil {
			return err
		}
		if digest, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			r.blobs["sha256:"+digest] = blob{"application/octet-stream", io.NewSectionReader(f, at, h.Size)}
		}
	}
	for _, m := range names.Manifests {
		b := r.blobs[m.Digest]
		b.kind = m.MediaType
		r.blobs[m.Digest] = b
		_, repository, _ := strings.Cut(m.Annotations["io.containerd.image.name"], "/")
		r.tags[repository] = m.Digest
	}
	return nil
}

// serve answers GET and HEAD of /v2/, /v2/NAME/manifests/REFERENCE and /v2/NAME/blobs/DIGEST.
func (r registry) serve(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/v2/" {
		return
	}
	name, reference, manifest := strings.Cut(strings.TrimPrefix(q.URL.Path, "/v2/"), "/manifests/")
	if !manifest {
		_, reference, _ = strings.Cut(name, "/blobs/")
	}
	digest := reference
	if tagged, ok := r.tags[name+":"+reference]; ok {
		digest = tagged
	}
	b, ok := r.blobs[digest]
	if !ok || q.Method != http.MethodGet && q.Method != http.MethodHead {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not among the packed images"}]}`)
		return
	}
	w.Header().Set("Content-Type", b.kind)
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, q, "", time.Time{}, io.NewSectionReader(b, 0, b.Size()))
}
