// Package apply knows how documents are patched and who owns which field: JSON
// patch, merge patch, strategic merge patch, server-side apply, and the
// managedFields that every other write keeps as well.
//
// It never loads upstream's schemas (25 MB, 0.1 s): plans (plan.go) and the types for
// server-side apply (types.go) are made of the Go types and a small table of what
// these do not tell (schema.txt: which lists are maps or sets, what is atomic).
//
// It is pure but for that cache: it knows no store and no requests. Start reading
// at Applier, then managed.go and compare.go, then ssa.go.
package apply

import (
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"orch/api"
)

// Errors that callers tell apart; all others mean that the request is bad.
var (
	// ErrTooManyOperations: a JSON patch has more operations than allowed.
	ErrTooManyOperations = errors.New("too many operations in a JSON patch")
	// ErrTooLarge: a patched document outgrew the limit.
	ErrTooLarge = errors.New("patched document is too large")
	// ErrCannotApply: a well-formed patch does not fit the document.
	ErrCannotApply = errors.New("patch cannot be applied")
	// ErrUnsupported: the kind does not take this type of patch.
	ErrUnsupported = errors.New("unsupported patch type")
)

// Manager is who writes, as managedFields know it.
type Manager struct {
	Kind *api.Facts
	// Name is the field manager; empty is recorded as "unknown".
	Name string
	// Subresource is empty for the object itself.
	Subresource string
}

// Convert gives a custom resource in another version of its kind.
type Convert func(o *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error)

// Applier is safe for many goroutines. Make one with New.
type Applier struct {
	now  func() time.Time
	sets setCache

	planMu sync.RWMutex
	plans  map[*api.Facts]*kindPlan

	mu       sync.Mutex
	managers map[Manager]*managedfields.FieldManager
	taught   map[*api.Facts]func() (managedfields.TypeConverter, error)
	converts map[*api.Facts]Convert
	dynamic  map[*api.Facts]*dynamicTypes
	typed    map[*api.Facts]*kindTypes
}

// New returns an Applier whose managedFields carry the times of now.
func New(now func() time.Time) *Applier {
	return &Applier{now: now, plans: map[*api.Facts]*kindPlan{}, managers: map[Manager]*managedfields.FieldManager{}, dynamic: map[*api.Facts]*dynamicTypes{}, typed: map[*api.Facts]*kindTypes{}, converts: map[*api.Facts]Convert{}, taught: map[*api.Facts]func() (managedfields.TypeConverter, error){},
		sets: setCache{sets: map[string]*fieldpath.Set{}}}
}
