// Package wire knows the formats of bodies: which of them a client asks for,
// how a request body becomes an object, and how objects, lists and watch events
// become bytes. It serves nothing and stores nothing. Start reading at Negotiate,
// then Decode, then Object and List.
package wire

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Format is how values are written.
type Format uint8

const (
	JSON Format = iota
	YAML
	Protobuf
)

// Media types that are offered, in the order in which errors list them.
const (
	jsonType     = "application/json"
	yamlType     = "application/yaml"
	protobufType = "application/vnd.kubernetes.protobuf"
	accepted     = jsonType + ", " + yamlType + ", " + protobufType
)

// ContentType is the format's media type.
func (f Format) ContentType() string { return [...]string{jsonType, yamlType, protobufType}[f] }

// Shape is what a client wants to be told of objects.
type Shape uint8

const (
	// Whole objects.
	Whole Shape = iota
	// Table rows, for people.
	Table
	// Metadata only: PartialObjectMetadata.
	Metadata
)

// Media is what a client asked for.
type Media struct {
	Format Format
	Shape  Shape
	// Version of meta.k8s.io in which a Table or PartialObjectMetadata is wanted.
	Version string
	// Pretty indents JSON.
	Pretty bool
}

// Offer says what an endpoint can give besides whole objects as JSON and YAML.
type Offer struct{ Protobuf, Table, Metadata bool }

func (o Offer) String() string {
	if o.Protobuf {
		return accepted
	}
	return jsonType + ", " + yamlType
}

// Negotiate picks the best of what is offered. Its error is a 406 Status.
func Negotiate(accept string, can Offer) (Media, error) {
	switch accept { // what nearly all clients send
	case "", "*/*", jsonType:
		return Media{}, nil
	case protobufType, protobufType + ",application/json", protobufType + ", application/json":
		if can.Protobuf {
			return Media{Format: Protobuf}, nil
		}
	}
	for _, c := range clauses(accept) {
		if m, ok := c.media(can); ok {
			return m, nil
		}
	}
	return Media{}, NotAcceptable(can.String())
}

// clause is one part of an Accept header.
type clause struct {
	name   string
	params map[string]string
	q      float64
}

// maxClauses bounds the work that a header can cause.
const maxClauses = 32

func clauses(accept string) []clause {
	var list []clause
	for part := range strings.SplitSeq(accept, ",") {
		if len(list) == maxClauses {
			break
		}
		c := clause{q: 1}
		for i, field := range strings.Split(part, ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(field), "=")
			switch {
			case i == 0:
				c.name = strings.ToLower(key)
			case key == "q":
				if q, err := strconv.ParseFloat(value, 64); err == nil {
					c.q = q
				}
			default:
				if c.params == nil {
					c.params = map[string]string{}
				}
				c.params[key] = strings.Trim(value, `"`)
			}
		}
		if c.name != "" {
			list = append(list, c)
		}
	}
	slices.SortStableFunc(list, func(a, b clause) int { return cmp.Compare(b.q, a.q) })
	return list
}

func (c clause) media(can Offer) (Media, bool) {
	var m Media
	switch c.name {
	case jsonType, "application/*", "*/*":
	case yamlType:
		m.Format = YAML
	case protobufType:
		if !can.Protobuf {
			return m, false
		}
		m.Format = Protobuf
	default:
		return m, false
	}
	for key, value := range c.params {
		switch key {
		case "pretty":
			m.Pretty = value == "1" || value == "true"
		case "stream":
			if value != "watch" {
				return m, false
			}
		case "profile":
			return m, false // aggregated discovery's kind of words; no endpoint here knows any
		}
	}
	as := c.params["as"]
	if as == "" {
		return m, true
	}
	m.Version = c.params["v"]
	if c.params["g"] != metav1.GroupName || m.Version != "v1" && m.Version != "v1beta1" {
		return m, false
	}
	switch as {
	case "Table":
		m.Shape = Table
		return m, can.Table && m.Format != Protobuf // tables have no protobuf form
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		m.Shape = Metadata
		return m, can.Metadata
	}
	return m, false
}

// PrettyFor applies the query's pretty and the habit of indenting for browsers
// and command-line HTTP tools.
func (m Media) PrettyFor(r *http.Request) Media {
	if m.Format != JSON {
		return m
	}
	if i := strings.Index(r.URL.RawQuery, "pretty="); i >= 0 && (i == 0 || r.URL.RawQuery[i-1] == '&') {
		switch v, _, _ := strings.Cut(r.URL.RawQuery[i+len("pretty="):], "&"); v {
		case "1", "true", "":
			m.Pretty = true
		case "0", "false":
			m.Pretty = false
		}
		return m
	}
	ua := r.UserAgent()
	if strings.HasPrefix(ua, "curl") || strings.HasPrefix(ua, "Wget") || strings.HasPrefix(ua, "Mozilla/5.0") {
		m.Pretty = true
	}
	return m
}

// NotAcceptable is the 406 Status that lists what is offered.
func NotAcceptable(offers string) error {
	return failure(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: "+offers)
}

// UnsupportedMedia is the 415 Status that lists what bodies may be.
func UnsupportedMedia(offers string) error {
	return failure(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+offers)
}

func failure(code int32, reason metav1.StatusReason, message string) error {
	return &errors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

// BodyFormat is the format a Content-Type header names; none means JSON.
func BodyFormat(contentType string) (Format, error) {
	name, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "", jsonType:
		return JSON, nil
	case protobufType:
		return Protobuf, nil
	case yamlType:
		return YAML, nil
	}
	return JSON, UnsupportedMedia(accepted)
}
