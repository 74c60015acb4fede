package rest

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	autoscaling "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/server/registry"
	"orch/server/rest/table"
	"orch/server/rest/wire"
)

// buffers are where answers are put together. One that a giant object has grown
// is not kept.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 8<<10)) }}

const maxKept = 512 << 10

func putBuffer(p *[]byte, b []byte) {
	if cap(b) <= maxKept {
		*p = b[:0]
		buffers.Put(p)
	}
}

// answer writes what the registry gave.
func (s *Server) answer(q *request, m wire.Media, code int, res registry.Result) error {
	if q.record != nil {
		s.noteAnswer(q, m, res)
	}
	p := buffers.Get().(*[]byte)
	data, err := s.encode((*p)[:0], q, m, res)
	if err == nil {
		s.send(q, m, code, data)
	}
	putBuffer(p, data)
	return err
}

func (s *Server) encode(dst []byte, q *request, m wire.Media, res registry.Result) ([]byte, error) {
	if res.Item != nil {
		if m.Shape == wire.Table {
			t, err := s.tableOf(q, m, []*registry.Item{res.Item}, metav1.ListMeta{ResourceVersion: res.Item.Object().GetResourceVersion()})
			if err != nil {
				return dst, err
			}
			return wire.AppendObject(dst, m, t, tableGVK(m))
		}
		return wire.AppendItem(dst, m, res.Item)
	}
	if scale, is := res.Object.(*autoscaling.Scale); is && m.Shape == wire.Table {
		t, err := table.Scale(scale, s.tableOptions(q, m))
		if err != nil {
			return dst, err
		}
		return wire.AppendObject(dst, m, t, tableGVK(m))
	}
	gvk := s.config.Registry.BodyFor(q.row.Facts, q.sub).GVK()
	if _, is := res.Object.(*metav1.Status); is {
		gvk = wire.StatusGVK()
	}
	return wire.AppendObject(dst, m, res.Object, gvk)
}

// tableOf renders items as rows for people.
func (s *Server) tableOf(q *request, m wire.Media, items []*registry.Item, head metav1.ListMeta) (*metav1.Table, error) {
	return table.Build(q.row, items, head, s.tableOptions(q, m))
}

func (s *Server) tableOptions(q *request, m wire.Media) table.Options {
	return table.Options{Include: metav1.IncludeObjectPolicy(q.query.Get("includeObject")), Version: m.Version, Now: s.now()}
}

func tableGVK(m wire.Media) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: metav1.GroupName, Version: m.Version, Kind: "Table"}
}

// gzipFrom is the size from which answers are compressed, as upstream does.
const gzipFrom = 128 << 10

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	return w
}}

// wantsGzip tells whether compressing is worth it: a client on this host reads
// faster than we compress.
func wantsGzip(r *http.Request) bool {
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		return false
	}
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return true
	}
	if ip := net.ParseIP(remote); ip != nil && ip.IsLoopback() {
		return false
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && local.IP.String() == remote {
		return false
	}
	return true
}

// send writes a whole answer.
func (s *Server) send(q *request, m wire.Media, code int, data []byte) {
	q.code, q.size = code, int64(len(data))
	h := q.w.Header()
	q.warn.write(h)
	h["Content-Type"] = contentTypes[m.Format]
	if len(data) >= gzipFrom && wantsGzip(q.Request) {
		b := body{w: q.w, r: q.Request, code: code}
		_, _ = b.Write(data) // the client is gone if this fails
		b.close()
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	q.w.WriteHeader(code)
	_, _ = q.w.Write(data) // the client is gone if this fails
}

var contentTypes = [...][]string{{wire.JSON.ContentType()}, {wire.YAML.ContentType()}, {wire.Protobuf.ContentType()}}

// body writes an answer in parts and decides at the first part whether to compress.
type body struct {
	w    http.ResponseWriter
	r    *http.Request
	code int
	zip  *gzip.Writer
	open bool
	size int64
}

func (b *body) Write(p []byte) (int, error) {
	b.size += int64(len(p))
	if !b.open {
		b.open = true
		h := b.w.Header()
		h.Add("Vary", "Accept-Encoding")
		if len(p) >= gzipFrom && wantsGzip(b.r) {
			h.Set("Content-Encoding", "gzip")
			b.zip = gzipWriters.Get().(*gzip.Writer)
			b.zip.Reset(b.w)
		}
		b.w.WriteHeader(b.code)
	}
	if b.zip != nil {
		return b.zip.Write(p)
	}
	return b.w.Write(p)
}

func (b *body) close() {
	if b.zip != nil {
		_ = b.zip.Close() // the client is gone if this fails
		gzipWriters.Put(b.zip)
	}
}
