package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"orch/agent/host"
)

// madeUp images hold /etc/passwd, and links that lead in and out.
type madeUp struct{}

func (madeUp) Mount(_ context.Context, _, target string) error {
	if err := os.MkdirAll(filepath.Join(target, "etc"), 0o755); err != nil {
		return err
	}
	for to, from := range map[string]string{"etc": "in", "/etc": "out"} {
		if err := os.Symlink(to, filepath.Join(target, from)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return os.WriteFile(filepath.Join(target, "etc/passwd"), []byte("root:x:0:0"), 0o644)
}

func (madeUp) Unmount(_ context.Context, target string) error { return os.RemoveAll(target) }

// TestImageVolume: volumes of type image were refused.
func TestImageVolume(t *testing.T) {
	f := newFixture(t)
	p := pod("p", core.Volume{Name: "v", VolumeSource: core.VolumeSource{Image: &core.ImageVolumeSource{Reference: "x:1"}}})
	if m := f.mustMount(p); len(m) != 0 {
		t.Errorf("mounted before its image is known: %v", m)
	}
	for _, tt := range []struct{ path, file, err string }{
		{"", "etc/passwd", ""},
		{"etc", "passwd", ""},
		{"in", "passwd", ""},
		{"out", "", "escapes"},
		{"etc/passwd", "", "only directories"},
		{"none", "", "no such file"},
	} {
		got, err := f.Image(t.Context(), host.ImageVolume{Pod: p.UID, Volume: "v", Image: "sha256:abc", Path: tt.path})
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.HasPrefix(err.Error(), "ImageVolumeMountFailed: ") {
				t.Errorf("%q: %v %v, want %q", tt.path, got, err, tt.err)
			}
		case err != nil || !got.ReadOnly:
			t.Errorf("%q: %v %v", tt.path, got, err)
		default:
			if _, err := os.Stat(filepath.Join(got.Path, tt.file)); err != nil {
				t.Error(err)
			}
		}
	}
	if used, err := f.Images(); err != nil || !reflect.DeepEqual(used, []string{"sha256:abc"}) {
		t.Errorf("mounted images: %v %v", used, err)
	}
	if err := f.Unmount(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if used, _ := f.Images(); len(used) > 0 {
		t.Errorf("left: %v", used)
	}
}
