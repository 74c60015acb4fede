// Package rule is the small change of validation: the checks that the rules of
// every kind are made of (names, labels, ports, addresses, quantities, choices),
// with upstream's error types and words. It knows no kind. Everything is pure.
// Start reading at Errors, then the functions by need.
package rule

import (
	"reflect"
	"slices"
	"strings"

	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Words that upstream uses again and again.
const (
	NotNegative = "must be greater than or equal to 0"
	Positive    = "must be greater than zero"
	Integer     = "must be an integer"
	Immutable   = "field is immutable"
	FileMode    = "must be a number between 0 and 0777 (octal), both inclusive"
)

// Errors collects field errors. The zero value is ready.
type Errors struct{ list field.ErrorList }

// List is what was collected, nil if nothing.
func (e *Errors) List() field.ErrorList { return e.list }

// Len counts them.
func (e *Errors) Len() int { return len(e.list) }

func (e *Errors) Add(more ...*field.Error) { e.list = append(e.list, more...) }

// Join adds whole lists.
func (e *Errors) Join(lists ...field.ErrorList) {
	for _, l := range lists {
		e.list = append(e.list, l...)
	}
}

func (e *Errors) Required(p *field.Path, detail string)  { e.Add(field.Required(p, detail)) }
func (e *Errors) Forbidden(p *field.Path, detail string) { e.Add(field.Forbidden(p, detail)) }
func (e *Errors) Duplicate(p *field.Path, value any)     { e.Add(field.Duplicate(p, value)) }
func (e *Errors) NotFound(p *field.Path, value any)      { e.Add(field.NotFound(p, value)) }
func (e *Errors) Invalid(p *field.Path, value any, detail string) {
	e.Add(field.Invalid(p, value, detail))
}

// Each makes an error of every complaint about a value.
func (e *Errors) Each(p *field.Path, value any, complaints []string) {
	for _, c := range complaints {
		e.Invalid(p, value, c)
	}
}

// Need wants a string that is not empty.
func (e *Errors) Need(p *field.Path, value string) {
	if value == "" {
		e.Required(p, "")
	}
}

// NotNegative wants a number of at least 0.
func (e *Errors) NotNegative(p *field.Path, value int64) {
	if value < 0 {
		e.Invalid(p, value, NotNegative)
	}
}

// Range wants low <= value <= high.
func (e *Errors) Range(p *field.Path, value, low, high int64) {
	if value < low || value > high {
		e.Invalid(p, value, validation.InclusiveRangeError(int(low), int(high)))
	}
}

// Port wants a port number.
func (e *Errors) Port(p *field.Path, port int32) {
	e.Each(p, port, validation.IsValidPortNum(int(port)))
}

// PortOrName wants a port number or the name of one.
func (e *Errors) PortOrName(p *field.Path, port intstr.IntOrString) {
	if port.Type == intstr.Int {
		e.Each(p, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
		return
	}
	e.Each(p, port.StrVal, validation.IsValidPortName(port.StrVal))
}

// DNSLabel wants a DNS-1123 label, DNSSubdomain a subdomain, Qualified a
// qualified name (prefix/name), all of them not empty.
func (e *Errors) DNSLabel(p *field.Path, v string) { e.Each(p, v, validation.IsDNS1123Label(v)) }
func (e *Errors) DNSSubdomain(p *field.Path, v string) {
	e.Each(p, v, validation.IsDNS1123Subdomain(v))
}
func (e *Errors) Qualified(p *field.Path, v string) { e.Each(p, v, validation.IsQualifiedName(v)) }

// ObjectName wants the name of an object of an ordinary kind.
func (e *Errors) ObjectName(p *field.Path, name string) {
	e.Each(p, name, apimachinery.NameIsDNSSubdomain(name, false))
}

// Labels and LabelName check labels; Selector a label selector (nil is fine).
func (e *Errors) Labels(p *field.Path, l map[string]string) {
	e.Join(metavalidation.ValidateLabels(l, p))
}
func (e *Errors) LabelName(p *field.Path, name string) {
	e.Join(metavalidation.ValidateLabelName(name, p))
}
func (e *Errors) Selector(p *field.Path, s *metav1.LabelSelector) {
	e.Join(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, p))
}

// Unchanged wants new and old to be alike.
func (e *Errors) Unchanged(p *field.Path, new, old any) {
	e.Join(apimachinery.ValidateImmutableField(new, old, p))
}

// OneOf wants one of the given values; an empty one is missing.
func OneOf[T ~string](e *Errors, p *field.Path, value T, allowed ...T) {
	if value == "" {
		e.Required(p, "")
		return
	}
	Among(e, p, value, allowed...)
}

// Among wants one of the given values, as NotSupported even when it is empty.
func Among[T ~string](e *Errors, p *field.Path, value T, allowed ...T) {
	if !slices.Contains(allowed, value) {
		slices.Sort(allowed)
		e.Add(field.NotSupported(p, value, allowed))
	}
}

// Unique says of each word whether it was seen before.
type Unique map[string]bool

// Again notes the word and tells whether it was there already.
func (u Unique) Again(word string) bool {
	seen := u[word]
	u[word] = true
	return seen
}

// TemplateMeta checks the metadata of an object that is made from a template: it
// has labels and annotations, and nothing else.
func (e *Errors) TemplateMeta(p *field.Path, meta *metav1.ObjectMeta) {
	e.Join(apimachinery.ValidateAnnotations(meta.Annotations, p.Child("annotations")))
	e.Labels(p.Child("labels"), meta.Labels)
	v := reflect.ValueOf(*meta)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name != "labels" && name != "annotations" && !v.Field(i).IsZero() {
			e.Forbidden(p.Child(name), "cannot be set")
		}
	}
}

// LabelValue checks the value of a label.
func (e *Errors) LabelValue(p *field.Path, v string) { e.Each(p, v, validation.IsValidLabelValue(v)) }

// AtMost wants no more than most entries; it tells whether that is so.
func (e *Errors) AtMost(p *field.Path, n, most int) bool {
	if n > most {
		e.Add(field.TooMany(p, n, most))
	}
	return n <= most
}

// Shorter wants a text of at most that many bytes.
func (e *Errors) Shorter(p *field.Path, text string, most int) {
	if len(text) > most {
		e.Add(field.TooLong(p, "", most))
	}
}

// Signer wants the name of a signer, example.com/name, with a dot before the slash.
func (e *Errors) Signer(p *field.Path, name string) {
	const longest = 571 // a domain of 253, a slash, a path of 317
	if name == "" {
		e.Required(p, "")
		return
	}
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(rest, "/") {
		e.Invalid(p, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	e.Each(p, domain, validation.IsDNS1123Subdomain(domain))
	if !strings.Contains(domain, ".") {
		e.Invalid(p, domain, "should be a domain with at least two segments separated by dots")
	}
	if len(name) > longest {
		e.Add(field.TooLong(p, "", longest))
	}
	for part := range strings.SplitSeq(rest, ".") {
		e.Each(p, part, validation.IsDNS1123Subdomain(part))
	}
}
