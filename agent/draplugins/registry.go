package draplugins

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/time/rate"
)

// socket is one file of the registry. A program that starts again makes another file of
// the same name.
type socket struct {
	path string
	made time.Time
}

// follow keeps a goroutine for each socket of the folder until ctx ends.
func (p *Plugins) follow(ctx context.Context) error {
	if err := os.MkdirAll(p.config.Dir, 0o750); err != nil {
		return fmt.Errorf("making the folder of plugins: %w", err)
	}
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching the folder of plugins: %w", err)
	}
	defer watch.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lives := map[socket]context.CancelFunc{}
	for pace := rate.NewLimiter(looksPerSecond, looksPerSecond); pace.Wait(ctx) == nil; {
		// The watch on a folder is set before it is read, so nothing is missed.
		now, err := sockets(p.config.Dir, watch)
		if err != nil {
			p.config.Log.Warn("a folder of plugins cannot be read", "err", err)
		}
		for s, stop := range lives {
			if !now[s] {
				stop()
				delete(lives, s)
			}
		}
		for s := range now {
			if lives[s] != nil {
				continue
			}
			if len(lives) >= maxSockets {
				p.config.Log.Warn("too many plugins: one is not looked at", "socket", s.path, "most", maxSockets)
				continue
			}
			life, stop := context.WithCancel(ctx)
			lives[s] = stop
			wg.Go(func() { p.live(life, s.path) })
		}
		select {
		case <-ctx.Done():
		case <-watch.Events:
		case err := <-watch.Errors: // lost events: the folder is read anyway
			p.config.Log.Warn("watching the folder of plugins", "err", err)
		}
	}
	return nil
}

// sockets are those below dir, with a watch on every folder. Names that begin with a dot are
// left out, as upstream does: drivers make their sockets under such names first.
func sockets(dir string, watch *fsnotify.Watcher) (map[socket]bool, error) {
	out, folders := map[socket]bool{}, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path == dir:
			return err
		case err != nil:
			return nil // gone meanwhile
		case path != dir && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.IsDir():
			if folders++; folders > maxFolders {
				return fs.SkipDir
			}
			if err := watch.Add(path); err != nil && path == dir {
				return err
			}
		case d.Type() == fs.ModeSocket:
			if info, err := d.Info(); err == nil {
				out[socket{path, info.ModTime()}] = true
			}
		}
		return nil
	})
	return out, err
}
