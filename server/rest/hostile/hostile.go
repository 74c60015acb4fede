// Package hostile makes requests that no well-meant client sends: the corpus of the
// tests of server/rest and server. It is deterministic: a seed and a number are a
// request. It refuses to judge answers, beyond saying which may last. Start reading at
// Make.
package hostile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// Request is one request as it goes over the wire, HTTP/1.1.
type Request struct {
	Raw []byte
	// Short requests promise a longer body than they send: the sender must close.
	Short bool
}

// Make gives the request with that number.
func Make(seed, number uint64) Request {
	m := maker{rand.New(rand.NewPCG(seed, number))}
	method := pick(m, methods)
	target := m.target()
	body, contentType := m.body(method)
	return m.assemble(method, target, contentType, body)
}

// maker draws everything from one source.
type maker struct{ *rand.Rand }

func pick[T any](m maker, list []T) T { return list[m.IntN(len(list))] }

// in tells whether one in n times is now.
func (m maker) in(n int) bool { return m.IntN(n) == 0 }

var methods = []string{"GET", "GET", "GET", "POST", "POST", "POST", "PUT", "PUT", "PATCH", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW", "get"}

func (m maker) target() string {
	path := pick(m, paths)
	for m.in(3) {
		path = m.bend(path)
	}
	if m.in(3) {
		return path
	}
	var query []string
	for range 1 + m.IntN(4) {
		p := pick(m, parameters)
		v := pick(m, p.values)
		if m.in(6) {
			v = pick(m, strange)
		}
		query = append(query, p.name+"="+v)
	}
	if m.in(50) {
		query = append(query, "labelSelector="+strings.Repeat("a%3Db,", 150_000)+"c")
	}
	if m.in(50) {
		query = append(query, "fieldSelector=metadata.name%3D"+strings.Repeat("x", 900_000))
	}
	if m.in(20) {
		query = append(query, strings.Repeat("k=v&", 1+m.IntN(5000)))
	}
	return path + "?" + strings.Join(query, "&")
}

// bend does something to a path that people do not.
func (m maker) bend(path string) string {
	parts := strings.Split(path, "/")
	i := m.IntN(len(parts))
	switch m.IntN(9) {
	case 0:
		parts[i] = pick(m, strange)
	case 1:
		parts[i] += pick(m, strange)
	case 2:
		parts = append(parts[:i], append([]string{pick(m, strange)}, parts[i:]...)...)
	case 3:
		parts = append(parts[:i:i], parts[i+1:]...)
	case 4:
		return path + "/"
	case 5:
		return path + strings.Repeat("/", 1+m.IntN(1000))
	case 6:
		parts[i] = strings.Repeat("n", 1+m.IntN(100_000))
	case 7:
		parts[i] = strings.ToUpper(parts[i])
	default:
		return path + "/" + pick(m, []string{"status", "scale", "proxy", "log", "exec", "eviction", "binding", "token", "finalize", "approval", "ephemeralcontainers", "resize"})
	}
	out := strings.Join(parts, "/")
	if !strings.HasPrefix(out, "/") {
		out = "/" + out
	}
	return out
}

func (m maker) assemble(method, target, contentType string, body []byte) Request {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: h\r\n", method, target)
	if contentType != "" {
		fmt.Fprintf(&b, "Content-Type: %s\r\n", contentType)
	}
	if !m.in(3) {
		fmt.Fprintf(&b, "Accept: %s\r\n", pick(m, accepts))
	}
	for range m.IntN(4) {
		b.WriteString(pick(m, headers) + "\r\n")
	}
	if m.in(200) {
		for i := range 400 {
			fmt.Fprintf(&b, "X-Filler-%d: %d\r\n", i, i)
		}
	}
	r := Request{}
	switch {
	case body == nil && m.in(2):
		b.WriteString("\r\n")
	case m.in(8):
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", max(len(body), 1), orSpace(body))
	case m.in(60):
		r.Short = true
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body)+100, body)
	default:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	r.Raw = b.Bytes()
	return r
}

func orSpace(b []byte) []byte {
	if len(b) == 0 {
		return []byte(" ")
	}
	return b
}
