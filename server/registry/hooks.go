package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/columns"
)

// Hooks is the behaviour of one kind, typed. The zero value is an ordinary kind:
// namespaced or not as its facts say; spec and status kept apart when it has a
// status; generation bumped when the spec changes; unconditional update allowed;
// deletion at once. An absent hook is nil. Hooks are pure: what needs the store or
// the clock of another part is an admission step.
//
// The code behind it is written once for all kinds: it is parametrised by the pointer,
// because Go compiles generic code anew for each struct, but once for all pointers.
type Hooks[T any] = hooks[*T]

type hooks[P any] struct {
	// Default fills what the client left out, as upstream's defaulting does. It
	// runs on every object that comes in, before PrepareCreate and PrepareUpdate.
	Default func(o P)
	// PrepareCreate drops and sets what a client must not decide (beyond status,
	// which the engine resets). PrepareUpdate likewise; old is what is stored.
	PrepareCreate func(o P)
	PrepareUpdate func(o, old P)
	// PrepareStatus runs on a write to the status subresource, after the engine
	// has put back everything but the status from old.
	PrepareStatus func(o, old P)

	// Validate checks an object that is created, and again on update. The engine
	// has checked the metadata (server/validate.ObjectMeta) with NameRule.
	Validate       func(o P) field.ErrorList
	ValidateUpdate func(o, old P) field.ErrorList
	ValidateStatus func(o, old P) field.ErrorList
	// Ratchets: Validate is for new objects only, ValidateUpdate does all of it, as it lets
	// pass what was there before.
	Ratchets bool
	// NameRule says what is wrong with a name; nil means DNS-1123 subdomain. With prefix the
	// name is a generateName.
	NameRule func(name string, prefix bool) []string
	// Warn gives sentences for Warning headers; old is nil on create.
	Warn func(o, old P) []string

	// Fields gives the selectable fields beyond metadata.name and metadata.namespace;
	// FieldNames lists their names, so that a list can refuse others.
	Fields     func(o P) fields.Set
	FieldNames []string

	// Grace makes deletion graceful: it returns the seconds that the object may
	// take to end (0: gone at once). Pods only, today.
	Grace func(o P, d *metav1.DeleteOptions) int64
	// Held keeps a deleted object although it has no finalizers in its metadata
	// (namespaces: while spec.finalizers is not empty). MarkDeleting notes in the object
	// itself that its deletion has begun.
	Held         func(o P) bool
	MarkDeleting func(o P)
	// OrphanByDefault leaves dependents behind when a deletion names no policy (batch/v1
	// Jobs). NoGC switches the garbage collector's finalizers off (events).
	OrphanByDefault, NoGC bool
	// ReturnDeleted answers a deletion with the object instead of a Status (pods,
	// services and some others, as upstream).
	ReturnDeleted bool

	// Generation says when metadata.generation moves; the zero value: when the
	// kind has a spec and a status, with the spec.
	Generation Generation

	ForbidUnconditional bool // update without resourceVersion is refused
	KeepStatus          bool // a create may bring a status (nodes register with it)
	CreateOnUpdate      bool // PUT of a missing object creates it (leases, events, ... as upstream)

	// Columns is the Table output; nil means columns.Default: Name and Age.
	Columns []columns.Of[P]
	// TableOrder sorts the rows of a Table of several; nil leaves them by name.
	TableOrder func(a, b P) int

	// Scale maps the scale subresource; required where the facts say Scale.
	Scale *scaleOf[P]

	// Subs are the subresources beyond status and scale that are written with the
	// whole object as their body: ephemeralcontainers, resize, approval, finalize.
	Subs map[string]subOf[P]

	// Compute answers a create of a Computed kind. Set at wiring time by the
	// parts that can (access): it is not pure.
	Compute func(ctx context.Context, user User, o P) (runtime.Object, error)

	// Lazy stores the kind in the lazy durability class (leases, events).
	Lazy bool

	// ToStored and FromStored convert between this kind and Facts.SameAs.
	ToStored   func(o P) (runtime.Object, error)
	FromStored func(o runtime.Object) (P, error)
	// Convert is there instead of FromStored where conversion asks a webhook: it takes many
	// at once, gives those that need none as they are, and changes none.
	Convert func(in []P) ([]P, error)

	// Loaded brings an object that the store held into the present version and form.
	Loaded func(o P)

	// Only kinds made at run time have the following. Coerce drops what the kind's schema
	// does not know from an object that was just read, and lists it when asked to. An
	// error is the answer to the client. Default runs after it, and has to coerce objects
	// that come in without being read.
	Coerce func(o P, list bool) (unknown []string, err error)
	// Closed refuses creates: the kind is about to go.
	Closed bool
}

// Generation says when metadata.generation is counted.
type Generation int

const (
	// GenerationAuto counts changes of the spec of kinds that have spec and status.
	GenerationAuto Generation = iota
	// GenerationAlways counts every change outside metadata and status.
	GenerationAlways
	// GenerationNever leaves it unset (services, nodes, volumes, ... as upstream).
	GenerationNever
)

// ScaleHooks reads and writes replicas through the scale subresource.
type ScaleHooks[T any] = scaleOf[*T]

type scaleOf[P any] struct {
	// Spec returns the wanted replicas, Status the observed ones, Selector the
	// pods' label selector in string form.
	Spec     func(o P) int32
	SetSpec  func(o P, replicas int32)
	Status   func(o P) int32
	Selector func(o P) string
}

// Sub is the behaviour of a subresource that is written with the whole object.
type Sub[T any] = subOf[*T]

type subOf[P any] struct {
	// Prepare puts back from old everything that the subresource must not change.
	Prepare func(o, old P)
	// Validate checks the outcome; nil means ValidateUpdate.
	Validate func(o, old P) field.ErrorList
}

// Column is one column of Table output.
type Column[T any] = columns.Column[T]

// User is who makes a request.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
	// By is who acts as this user, by impersonation; nil for everybody who is themselves.
	By *User
	// Mode is the right that let them do so where it was one for some requests only.
	Mode string
	// Credential is what is to be told about what the user has shown; nil for nothing.
	Credential *Credential
}

// Credential is what a user and the audit log are to learn of a credential.
type Credential struct {
	// Warning comes with every answer; may be empty.
	Warning string
	// Notes are annotations of the audit log.
	Notes map[string]string
}
