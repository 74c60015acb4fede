package audit

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

const (
	usualMegabytes = 100
	// backupTime is in the names of old files, as upstream's rotation has it.
	backupTime = "2006-01-02T15-04-05.000"
)

// file is an append-only file that is renamed when it has its size.
type file struct {
	cfg LogConfig
	max int64

	mu   sync.Mutex
	out  io.Writer
	f    *os.File // nil for standard output
	size int64
}

func newFileSink(cfg LogConfig, log *slog.Logger) (sink, error) {
	f := &file{cfg: cfg, max: int64(cfg.MaxSize) << 20}
	if f.max == 0 {
		f.max = usualMegabytes << 20
	}
	if cfg.Path == "-" {
		f.out = os.Stdout
	} else if err := f.open(); err != nil {
		return nil, fmt.Errorf("--audit-log-path: %w", err)
	}
	d := &delivery{mode: cfg.Mode, trunc: cfg.Truncate, queue: newQueue("log", cfg.Batch, cfg.Truncate, log, f.write)}
	if cfg.Format == "legacy" {
		return &legacy{delivery: d, f: f}, nil
	}
	return d, nil
}

func (f *file) open() error {
	if err := os.MkdirAll(filepath.Dir(f.cfg.Path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(f.cfg.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := out.Stat()
	if err != nil {
		return errors.Join(err, out.Close())
	}
	f.f, f.out, f.size = out, out, st.Size()
	return nil
}

func (f *file) write(_ context.Context, lines [][]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, line := range lines {
		if f.f != nil && f.size > 0 && f.size+int64(len(line))+1 > f.max {
			errs = append(errs, f.rotateLocked())
		}
		n, err := f.out.Write(append(line, '\n'))
		f.size += int64(n)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// rotateLocked sets the file aside and begins a new one.
func (f *file) rotateLocked() error {
	old := f.backup(time.Now())
	if err := errors.Join(f.f.Close(), os.Rename(f.cfg.Path, old)); err != nil {
		return errors.Join(err, f.open())
	}
	if err := f.open(); err != nil {
		return err
	}
	if f.cfg.Compress {
		if err := compress(old); err != nil {
			return err
		}
	}
	return f.prune(time.Now())
}

func (f *file) backup(at time.Time) string {
	ext := filepath.Ext(f.cfg.Path)
	return strings.TrimSuffix(f.cfg.Path, ext) + "-" + at.UTC().Format(backupTime) + ext
}

// prune deletes old files beyond their number and age.
func (f *file) prune(now time.Time) error {
	ext := filepath.Ext(f.cfg.Path)
	prefix := strings.TrimSuffix(filepath.Base(f.cfg.Path), ext) + "-"
	entries, err := os.ReadDir(filepath.Dir(f.cfg.Path))
	if err != nil {
		return err
	}
	type backup struct {
		name string
		at   time.Time
	}
	var all []backup
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		rest = strings.TrimSuffix(strings.TrimSuffix(rest, ".gz"), ext)
		if at, err := time.Parse(backupTime, rest); err == nil {
			all = append(all, backup{e.Name(), at})
		}
	}
	slices.SortFunc(all, func(a, b backup) int { return b.at.Compare(a.at) })
	var errs []error
	for i, b := range all {
		many := f.cfg.MaxBackup > 0 && i >= f.cfg.MaxBackup
		old := f.cfg.MaxAge > 0 && now.Sub(b.at) > time.Duration(f.cfg.MaxAge)*24*time.Hour
		if many || old {
			errs = append(errs, os.Remove(filepath.Join(filepath.Dir(f.cfg.Path), b.name)))
		}
	}
	return errors.Join(errs...)
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(path+".gz", os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(path+".gz"))
	}
	return os.Remove(path)
}

// legacy writes upstream's old line of text instead of JSON.
type legacy struct {
	*delivery
	f *file
}

func (l *legacy) take(ev *auditv1.Event) bool {
	line := legacyLine(ev)
	if l.mode == modeBatch {
		l.queue.put(line)
		return true
	}
	if err := l.f.write(context.Background(), [][]byte{line}); err != nil {
		l.queue.drops.Add(1)
		return l.mode != modeStrict
	}
	return true
}

func legacyLine(ev *auditv1.Event) []byte {
	or := func(s, none string) string {
		if s == "" {
			return none
		}
		return s
	}
	quoted := func(list []string) string {
		q := make([]string, len(list))
		for i, s := range list {
			q[i] = fmt.Sprintf("%q", s)
		}
		return strings.Join(q, ",")
	}
	user, groups, as, asGroups, ns, response, ip := or(ev.User.Username, "<none>"), "<none>", "<self>", "<lookup>", "<none>", "<deferred>", "<unknown>"
	if len(ev.User.Groups) > 0 {
		groups = quoted(ev.User.Groups)
	}
	if u := ev.ImpersonatedUser; u != nil {
		as = or(u.Username, "<none>")
		if len(u.Groups) > 0 {
			asGroups = quoted(u.Groups)
		}
	}
	if ev.ObjectRef != nil {
		ns = or(ev.ObjectRef.Namespace, "<none>")
	}
	if ev.ResponseStatus != nil {
		response = fmt.Sprint(ev.ResponseStatus.Code)
	}
	if len(ev.SourceIPs) > 0 {
		ip = ev.SourceIPs[0]
	}
	return fmt.Appendf(nil, "%s AUDIT: id=%q stage=%q ip=%q method=%q user=%q groups=%q as=%q asgroups=%q user-agent=%q namespace=%q uri=%q response=\"%s\"",
		ev.RequestReceivedTimestamp.Format(time.RFC3339Nano), ev.AuditID, ev.Stage, ip, ev.Verb, user, groups, as, asGroups, ev.UserAgent, ns, ev.RequestURI, response)
}
