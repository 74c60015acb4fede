package gpus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"sigs.k8s.io/yaml"

	"orch/gpu/cdi"
	"orch/gpu/device"
)

// SpecFile is what the CDI file of the cards is called. NVIDIA's tools write others:
// nvidia.yaml, k8s.device-plugin.nvidia.com-gpu.json.
const SpecFile = "orch-nvidia.com-gpu.json"

const (
	// settle is how long the folder must be quiet before it is looked at: tools write in steps.
	settle = 200 * time.Millisecond
	// maxSpec bounds what is read of the files of others.
	maxSpec = 4 << 20
)

// publisher keeps the CDI file; it belongs to one goroutine.
type publisher struct {
	*GPUs
	dir  string
	said string // what kept the file from being written, so that it is said once
}

// Publish keeps a CDI file of the cards and MIG devices in dir, for container engines
// that are not ours, until ctx ends. It is rewritten when the driver or the layout is
// another, and gone while there is no working driver, or another file of the folder
// describes the same kind: of two, an engine takes neither.
func (g *GPUs) Publish(ctx context.Context, dir string) error {
	p := publisher{GPUs: g, dir: dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("publishing the GPUs for other container engines: %w", err)
	}
	watch, err := fsnotify.NewWatcher()
	if err == nil {
		defer watch.Close()
		err = watch.Add(dir)
	}
	if err != nil {
		return fmt.Errorf("watching the CDI folder %s: %w", dir, err)
	}
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	for {
		changed := g.Changed()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			quiet.Reset(0)
		case e, ok := <-watch.Events:
			if !ok {
				return nil
			}
			if isSpec(e.Name) {
				quiet.Reset(settle)
			}
		case err := <-watch.Errors:
			g.config.Log.Warn("watching the CDI folder", "dir", dir, "err", err)
			quiet.Reset(settle)
		case <-quiet.C:
			p.once()
		}
	}
}

// once brings the file up to date.
func (p *publisher) once() {
	text, why := p.text()
	if err := errors.Join(why, p.put(text)); err != nil && err.Error() != p.said {
		p.said = err.Error()
		p.config.Log.Warn("the GPUs are not published for other container engines", "dir", p.dir, "err", err)
	} else if err == nil {
		p.said = ""
	}
}

// text is what the file should be; nil for no file.
func (p *publisher) text() ([]byte, error) {
	m := p.config.Look().Machine
	if m.Module.State != device.ModuleLoaded || len(m.GPUs) == 0 {
		return nil, nil
	}
	other, err := p.other()
	if err == nil && other != "" {
		err = fmt.Errorf("%s describes %s already", other, cdi.Kind)
	}
	if err != nil {
		return nil, err
	}
	files, err := p.driverFiles(m)
	if err != nil {
		return nil, err
	}
	return cdi.Spec(m, files, p.config.DevRoot)
}

// other finds a file of somebody else for the same kind.
func (p *publisher) other() (string, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name() == SpecFile || !isSpec(e.Name()) {
			continue
		}
		if kindOf(filepath.Join(p.dir, e.Name())) == cdi.Kind {
			return e.Name(), nil
		}
	}
	return "", nil
}

func isSpec(name string) bool {
	switch filepath.Ext(name) {
	case ".json", ".yaml", ".yml":
		return true
	}
	return false
}

// kindOf is what a CDI file describes; a file that is none describes nothing.
func kindOf(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return ""
	}
	var head struct {
		Kind string `json:"kind"`
	}
	if yaml.Unmarshal(b, &head) != nil {
		return ""
	}
	return head.Kind
}

// put makes the file be text, whole or not at all; nil removes it.
func (p *publisher) put(text []byte) error {
	path := filepath.Join(p.dir, SpecFile)
	if text == nil {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil { // an ending that no engine reads
		return err
	}
	return os.Rename(path+".new", path)
}
