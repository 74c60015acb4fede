// Package columns is the Table output of every kind: which columns kubectl get
// shows and what stands in a cell, as upstream's printers do it. Columns are
// values; cells are pure functions of the object and the time. Nothing here knows
// how a table is sent (see server/rest). Start reading at Column, then Pod.
package columns

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Column is one column of Table output.
type Column[T any] = Of[*T]

// Of is Column by the pointer to the Go type: code that is generic over pointers is
// compiled once, not once a kind.
type Of[P any] struct {
	Name string
	// Type and Format as in OpenAPI: "string", "integer", "boolean", "date"; the
	// format "name" marks the object's name.
	Type, Format string
	Description  string
	// Wide columns show with -o wide only (priority 1).
	Wide bool
	// Cell gives a string, int64, bool, or nil; now is the time of the answer.
	Cell func(o P, now time.Time) any
}

const (
	none    = "<none>"
	unknown = "<unknown>"
	unset   = "<unset>"
)

// Default is what a kind without columns of its own shows: name and age.
func Default[T any]() []Column[T] { return DefaultOf[*T]() }

// DefaultOf is Default by the pointer.
func DefaultOf[P any]() []Of[P] { return list(nameOf[P](), ageOf[P]()) }

// Convert shows a kind by the columns of another one that it can become.
func Convert[T, S any](columns []Column[S], to func(*T) *S) []Column[T] {
	out := make([]Column[T], len(columns))
	for i, c := range columns {
		out[i] = Column[T]{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Wide: c.Wide,
			Cell: func(o *T, now time.Time) any { return c.Cell(to(o), now) }}
	}
	return out
}

func list[P any](c ...Of[P]) []Of[P] { return c }

func meta[P any](o P) metav1.Object { return any(o).(metav1.Object) }

func name[T any]() Column[T] { return nameOf[*T]() }

func nameOf[P any]() Of[P] {
	return Of[P]{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
		Cell: func(o P, _ time.Time) any { return meta(o).GetName() }}
}

func age[T any]() Column[T] { return ageOf[*T]() }

func ageOf[P any]() Of[P] {
	return Of[P]{Name: "Age", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Cell: func(o P, now time.Time) any { return since(meta(o).GetCreationTimestamp().Time, now) }}
}

// createdAt is the column of kinds that show the moment instead of the age.
func createdAt[T any]() Column[T] { return createdAtOf[*T]() }

func createdAtOf[P any]() Of[P] {
	return Of[P]{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Cell: func(o P, _ time.Time) any {
			return meta(o).GetCreationTimestamp().Time.UTC().Format(time.RFC3339)
		}}
}

func text[P any](name, about string, cell func(P) string) Of[P] {
	return Of[P]{Name: name, Type: "string", Description: about, Cell: func(o P, _ time.Time) any { return cell(o) }}
}

func timed[P any](name, about string, cell func(P, time.Time) string) Of[P] {
	return Of[P]{Name: name, Type: "string", Description: about, Cell: func(o P, now time.Time) any { return cell(o, now) }}
}

func number[P any](name, about string, cell func(P) int) Of[P] {
	return Of[P]{Name: name, Type: "integer", Description: about, Cell: func(o P, _ time.Time) any { return int64(cell(o)) }}
}

func truth[P any](name, about string, cell func(P) bool) Of[P] {
	return Of[P]{Name: name, Type: "boolean", Description: about, Cell: func(o P, _ time.Time) any { return cell(o) }}
}

func wide[P any](c Of[P]) Of[P] {
	c.Wide = true
	return c
}

// asText shows a count in a column that upstream declares as a string.
func asText[P any](c Of[P]) Of[P] {
	c.Type = "string"
	return c
}

// since is the human form of the time that passed.
func since(t, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t))
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// firstFew joins up to three words and counts the rest.
func firstFew(words []string, otherwise string) string {
	const limit = 3
	if len(words) == 0 {
		return otherwise
	}
	if len(words) > limit {
		return fmt.Sprintf("%s + %d more...", strings.Join(words[:limit], ","), len(words)-limit)
	}
	return strings.Join(words, ",")
}

func switched(b *bool) string {
	switch {
	case b == nil:
		return unset
	case *b:
		return "True"
	}
	return "False"
}
