package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"orch/datastore"
	"orch/datastore/watch"
)

const (
	layoutVersion = 1
	// reserve is how many revisions the ceiling is moved ahead for lazy commits.
	reserve = 100_000
	// lockTimeout is how long Open waits for another process to let go of the file.
	lockTimeout = time.Second
)

var (
	bucketMeta, bucketRecords             = []byte("meta"), []byte("records")
	metaVersion, metaCeiling, metaCompact = []byte("version"), []byte("ceiling"), []byte("compacted")

	// errCorrupt: the file is damaged; it was left as it is.
	errCorrupt = errors.New("the file is damaged; it was left untouched: restore a snapshot, or move it away to start empty")
)

// Config of a Store. Only Path is required.
type Config struct {
	Path string
	// FlushAfter bounds how long a lazy commit stays in memory only; 0 means a minute.
	FlushAfter time.Duration
	// KeepHistory is the least time that replaced versions stay readable; 0 means 5 minutes.
	KeepHistory time.Duration
	// KeepBytes bounds the replaced versions whatever their age; 0 means 64 MiB.
	KeepBytes int64
	// CompactAt is how many replaced versions are worth a compaction; 0 means 1,000.
	CompactAt int
	Log       *slog.Logger
}

func (c *Config) complete() error {
	if c.Path == "" {
		return fmt.Errorf("opening the datastore: no path")
	}
	c.FlushAfter = orDefault(c.FlushAfter, time.Minute)
	c.KeepHistory = orDefault(c.KeepHistory, 5*time.Minute)
	c.KeepBytes = orDefault(c.KeepBytes, 64<<20)
	c.CompactAt = orDefault(c.CompactAt, 1000)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

var _ datastore.Store = (*Store)(nil)

// Store is a datastore.Store on a file. Make one with Open.
type Store struct {
	cfg      Config
	db       *bbolt.DB
	hub      *watch.Hub
	writer   *writer // to be used inside the writer's goroutine only
	requests chan *request
	quit     chan struct{}
	done     chan struct{} // closed when the writer has ended

	// mu guards what readers see. The writer takes it only after the records it
	// adds are in the file (or in pending), so whoever holds it and then begins a
	// bbolt transaction finds every record that the index names.
	mu        sync.RWMutex
	index     *index
	pending   map[position]record // lazy records that are not in the file yet
	revision  int64
	compacted int64
	// oldest is the newest revision that was replaced longer than KeepHistory ago; compaction
	// to it may wait until it is worth a write.
	oldest    int64
	closed    bool
	closeOnce sync.Once
}

// Open opens or creates the file at cfg.Path. The error is one line that says
// what is wrong (locked, damaged, from a newer version) and leaves the file alone.
func Open(cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("opening the datastore: %w", err)
	}
	s := &Store{cfg: cfg, index: newIndex(), pending: map[position]record{},
		requests: make(chan *request, maxWaiting), quit: make(chan struct{}), done: make(chan struct{})}
	s.writer = newWriter(s)
	if err := s.load(); err != nil {
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		return nil, fmt.Errorf("opening the datastore %s: %w", cfg.Path, err)
	}
	s.hub = watch.New(s.revision, s.past)
	s.writer.forgetPages()
	go s.writer.run()
	return s, nil
}

// load opens the file and builds the index. A damaged file makes bbolt panic or
// fault on its memory map; both come back as errCorrupt.
func (s *Store) load() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			s.db, err = nil, errCorrupt // the map may be unusable: do not touch it again
		}
	}()
	s.db, err = bbolt.Open(s.cfg.Path, 0o600, &bbolt.Options{
		// The free list is kept on disk: bbolt rebuilds a missing one in a goroutine of
		// its own, where the panic that a damaged page causes could not be caught.
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, PreLoadFreelist: true,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("another process holds it: is an orch server running on this data directory?")
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return errCorrupt
	case err != nil:
		return err
	}
	fresh := false
	if err := s.db.View(func(tx *bbolt.Tx) error { fresh = tx.Bucket(bucketMeta) == nil; return nil }); err != nil {
		return err
	}
	if fresh {
		if err := s.db.Update(create); err != nil {
			return err
		}
	}
	return s.db.View(s.scan)
}

func create(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(bucketRecords); err != nil {
		return err
	}
	return errors.Join(putUint(meta, metaVersion, layoutVersion), putUint(meta, metaCeiling, 1), putUint(meta, metaCompact, 0))
}

func putUint(b *bbolt.Bucket, key []byte, v uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, v))
}

func getUint(b *bbolt.Bucket, key []byte) (uint64, error) {
	v := b.Get(key)
	if len(v) != 8 {
		return 0, errCorrupt
	}
	return binary.BigEndian.Uint64(v), nil
}

// scan reads the meta values and every record once.
func (s *Store) scan(tx *bbolt.Tx) error {
	w := s.writer
	meta, records := tx.Bucket(bucketMeta), tx.Bucket(bucketRecords)
	if records == nil {
		return errCorrupt
	}
	version, err := getUint(meta, metaVersion)
	if err != nil {
		return err
	}
	if version > layoutVersion {
		return fmt.Errorf("its layout is version %d and this orch knows up to %d: start a newer orch, or restore a snapshot made by this one", version, layoutVersion)
	}
	ceiling, err1 := getUint(meta, metaCeiling)
	compacted, err2 := getUint(meta, metaCompact)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	s.compacted, s.revision = int64(compacted), int64(ceiling)
	c := records.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		r, err := decode(v)
		if len(k) != 12 || err != nil {
			return errCorrupt
		}
		p := positionOf(k)
		s.index.add(r.key, versionOf(p, r))
		w.track(p, r, len(v))
		s.revision = max(s.revision, p.revision)
	}
	w.ceiling = s.revision
	return nil
}

func versionOf(p position, r record) version { return version{p, r.create, r.delete} }

// Close writes lazy commits out, ends watchers and lets go of the file.
func (s *Store) Close() error {
	s.closeOnce.Do(func() { close(s.quit) })
	<-s.done
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.hub.Close()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing the datastore: %w", err)
	}
	return nil
}
