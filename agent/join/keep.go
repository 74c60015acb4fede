package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"orch/api"
)

// kept is what a node remembers between starts, in one file that only root reads.
type kept struct {
	Server   string         `json:"server"`
	Password string         `json:"password"`
	Key      string         `json:"key"`
	Answer   api.JoinAnswer `json:"answer"`
}

const keptFile = "membership.json"

// load returns the zero value if the node has never joined.
func load(dir string) (k kept, err error) {
	b, err := os.ReadFile(filepath.Join(dir, keptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err != nil {
		return k, fmt.Errorf("reading what this node remembers of its cluster: %w (remove %s to join anew)", err, filepath.Join(dir, keptFile))
	}
	return k, nil
}

// save replaces the file in one step, durably.
func (k kept) save(dir string) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping the node's membership: %w", err)
	}
	f, err := os.CreateTemp(dir, keptFile+".*")
	if err != nil {
		return fmt.Errorf("keeping the node's membership: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, keptFile))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("keeping the node's membership: %w", err)
	}
	return nil
}

// syncDir makes a rename in dir outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
