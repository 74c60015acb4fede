// Package datastore is the contract of the cluster's store: bytes under keys,
// one revision counter, transactions and watches. It knows no kinds.
//
// The life of a write. A caller hands Commit a Txn: a list of operations, each
// with the revision it expects of its key. The store checks all conditions
// against its newest state; if one fails nothing happens. Otherwise the store
// takes the next revision R, applies every operation at R, makes them durable,
// and only then tells watchers and the caller. Commits that wait at the same
// time share one fsync, but each keeps a revision of its own.
//
// Terms.
//   - revision: a number that grows with every commit and is never given twice,
//     not even across a crash. A fresh store is at revision 1.
//   - durable: survives kill -9 and a power cut. Commit returns after that.
//   - lazy: visible at once, durable at the next durable commit or flush timer.
//     For high-churn state that can be made again (leases, events).
//   - history: old versions, kept for a bounded window, so that a watch or a
//     list can go on from a past revision. Compact moves the window's start.
//
// Implementations: bolt (default), memory (the model, and for tests). All of
// them pass storetest.
package datastore

import (
	"context"
	"errors"
	"io"
)

// Errors of this package are a closed set. Match them with errors.Is.
var (
	// ErrConflict: an operation's Expect did not hold. It comes as *ConflictError.
	ErrConflict = errors.New("revision conflict")
	// ErrNotFound: Get found no such key at that revision.
	ErrNotFound = errors.New("key not found")
	// ErrCompacted: the revision asked for is older than the history kept.
	ErrCompacted = errors.New("revision has been compacted")
	// ErrFuture: the revision asked for has not been given out yet.
	ErrFuture = errors.New("revision is in the future")
	// ErrNoSpace: the disk is full. Reads go on; writes work again once there is room.
	ErrNoSpace = errors.New("no space left for the datastore")
	// ErrTooLarge: a value or a transaction is over the limit (MaxTxnBytes).
	ErrTooLarge = errors.New("transaction too large")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("datastore is closed")
	// ErrLagged ends a watch whose reader fell too far behind.
	ErrLagged = errors.New("watcher fell too far behind")
)

// MaxTxnBytes bounds the keys and values of one transaction.
const MaxTxnBytes = 8 << 20

// Any as Op.Expect lets an operation apply whatever the key's state is.
const Any int64 = -1

// ConflictError names the operation that could not be applied.
type ConflictError struct {
	Key string
	// Current is the key's version now; its ModRevision is 0 if the key does not exist.
	Current KV
}

func (e *ConflictError) Error() string        { return ErrConflict.Error() + " on " + e.Key }
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// KV is one version of one key. Values are shared: readers must not change them.
type KV struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
}

// Op puts or deletes one key.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	// Expect is the ModRevision the key must have now: 0 means that it must not
	// exist, Any switches the check off.
	Expect int64
	// Object is opaque to the store and handed to live watchers in Event.Object,
	// so that a cache in this process need not decode Value. May be nil.
	Object any
}

// Txn is applied whole or not at all, at one revision. A key may occur once.
type Txn struct {
	Ops []Op
	// Lazy trades durability for fewer disk writes; see the package comment.
	Lazy bool
}

// Event is one change of one key, as watchers see it.
type Event struct {
	// KV is the new version; for a deletion Value is nil and ModRevision is the
	// revision of the deletion.
	KV
	Delete bool
	// Prev is the version before; ModRevision 0 for a creation.
	Prev KV
	// Object is Op.Object when the event is delivered live, nil when it was
	// read back from history.
	Object any
}

// ListRequest selects keys in ascending order.
type ListRequest struct {
	Prefix string
	// After continues behind this key; empty starts at the prefix.
	After string
	// Limit bounds the number of keys; 0 means all.
	Limit int
	// Revision reads a past state; 0 means the newest.
	Revision int64
}

// ListResult is what a list found.
type ListResult struct {
	KVs []KV
	// Revision of the state that was read.
	Revision int64
	// More keys follow the last one.
	More bool
}

// Watcher delivers the changes under a prefix, in revision order, without gaps.
type Watcher interface {
	// Events carries batches; all events of one revision are in one batch. The
	// channel closes when the watch ends. An empty batch never comes.
	Events() <-chan []Event
	// Err says why Events closed: nil after Close or the context's end,
	// ErrLagged, ErrCompacted or ErrClosed else.
	Err() error
	Close()
}

// Store is the contract. Every method may be called from many goroutines.
type Store interface {
	// Commit applies t and returns its revision once it is durable (at once if
	// Lazy). Errors: *ConflictError, ErrNoSpace, ErrTooLarge, ErrClosed. An empty
	// transaction is an error. If ctx ends before the commit was taken up nothing
	// happened; afterwards Commit waits for the outcome.
	Commit(ctx context.Context, t Txn) (int64, error)
	// Get reads a key at a revision (0: newest).
	Get(ctx context.Context, key string, revision int64) (KV, error)
	List(ctx context.Context, r ListRequest) (ListResult, error)
	// Watch delivers every change under prefix with a revision above after.
	// ErrCompacted if that history is gone, ErrFuture if after is ahead.
	Watch(ctx context.Context, prefix string, after int64) (Watcher, error)
	// Revision is the newest one that readers can see.
	Revision() int64
	// Oldest is the oldest revision that pages of a list may still show. It moves with Compact
	// and, while there are commits, with time, also where older states can still be read.
	Oldest() int64
	// Compact drops history: versions replaced at or before revision.
	Compact(ctx context.Context, revision int64) error
	// Snapshot writes a copy of the store as of now, while it is in use.
	Snapshot(ctx context.Context, w io.Writer) error
	Close() error
}
