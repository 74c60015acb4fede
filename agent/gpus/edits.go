package gpus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/agent/host"
	"orch/gpu/alloc"
	"orch/gpu/cdi"
	"orch/gpu/cdi/ldcache"
	"orch/gpu/device"
	"orch/gpu/health"
	"orch/runtime/engine"
)

const (
	loaderCache     = "/etc/ld.so.cache"
	envCapabilities = "NVIDIA_DRIVER_CAPABILITIES"
)

// Edits are the device nodes, driver files and variables of a container's units.
func (g *GPUs) Edits(ctx context.Context, c host.DeviceHolder, resource string, ids []string) (host.DeviceEdits, error) {
	m := g.config.Look().Machine
	var uuids []string
	for _, id := range ids {
		if uuid := alloc.DeviceOf(id); !slices.Contains(uuids, uuid) {
			uuids = append(uuids, uuid)
		}
		if id == alloc.DeviceOf(id) { // not shared: nobody else may be on it
			if err := g.handOver(ctx, m, id); err != nil {
				return host.DeviceEdits{}, err
			}
		}
	}
	out, err := g.given(ctx, c, m, uuids)
	if err != nil {
		return host.DeviceEdits{}, err
	}
	more, err := g.guard(ctx, c, ids)
	if err != nil {
		return host.DeviceEdits{}, err
	}
	out.Add(more)
	return out, nil
}

// given are the edits for a container that has these cards and MIG devices.
func (g *GPUs) given(ctx context.Context, c host.DeviceHolder, m device.Machine, uuids []string) (host.DeviceEdits, error) {
	capabilities, err := cdi.Capabilities(capabilitiesOf(c))
	if err != nil {
		return host.DeviceEdits{}, err
	}
	files, err := g.driverFiles(m)
	if err != nil {
		return host.DeviceEdits{}, err
	}
	e, err := cdi.For(m, files, cdi.Request{Devices: uuids, Capabilities: capabilities})
	if err != nil {
		return host.DeviceEdits{}, err
	}
	out := host.DeviceEdits{}
	for _, n := range e.Nodes {
		out.Devices = append(out.Devices, engine.Device{Host: filepath.Join("/", g.config.DevRoot, n.Path), Target: n.Path, Permissions: "rw"})
	}
	for _, mount := range e.Mounts {
		out.Mounts = append(out.Mounts, engine.Mount{Type: "bind", Source: mount.Source, Target: mount.Target, ReadOnly: true, Options: []string{"nosuid", "nodev"}})
	}
	for _, v := range e.Env {
		name, value, _ := strings.Cut(v, "=")
		out.Env = append(out.Env, core.EnvVar{Name: name, Value: value})
	}
	cache, err := g.cacheFor(ctx, c.Image, e.Cache)
	if err != nil {
		return host.DeviceEdits{}, err
	}
	if cache != "" {
		out.Mounts = append(out.Mounts, engine.Mount{Type: "bind", Source: cache, Target: loaderCache, ReadOnly: true, Options: []string{"nosuid", "nodev"}})
	}
	return out, nil
}

// handOver refuses a device on which a process still computes, the last holder's or one of
// the host's, or whose memory a zombie keeps. It is asked again with the container's back-off.
func (g *GPUs) handOver(ctx context.Context, m device.Machine, uuid string) error {
	if g.config.Use == nil {
		return nil
	}
	card, gi := uuid, -1
	if d, ok := m.MIGDevice(uuid); ok {
		card, gi = d.Parent, d.GI
	}
	figures, processes, err := g.config.Use(ctx, card)
	if err != nil {
		return nil // health has been told, or there is no way to know: the ledger alone decides
	}
	var own device.Figures
	if i := slices.IndexFunc(figures, func(f device.Figures) bool { return f.UUID == uuid }); i >= 0 {
		own = figures[i]
	}
	if why, clean := health.HandOver(own, health.Within(processes, gi)); !clean {
		return fmt.Errorf("GPU %s is not free: %s", uuid, why)
	}
	return nil
}

// capabilitiesOf is what the pod says, else what the image says.
func capabilitiesOf(c host.DeviceHolder) string {
	for _, e := range c.Container.Env {
		if e.Name == envCapabilities && e.ValueFrom == nil {
			return e.Value
		}
	}
	for _, e := range c.Image.Env {
		if v, ok := strings.CutPrefix(e, envCapabilities+"="); ok {
			return v
		}
	}
	return ""
}

func (g *GPUs) driverFiles(m device.Machine) (cdi.Files, error) {
	version := m.Driver.Version
	if version == "" {
		version = m.Module.Version
	}
	if f := g.files.Load(); f != nil && f.version == version {
		return f.files, f.err
	}
	f := &found{version: version}
	f.files, f.err = g.config.Files(m)
	if f.err == nil {
		g.files.Store(f)
	}
	return f.files, f.err
}

// maxCaches bounds the loader caches that are kept; running containers keep theirs open.
const maxCaches = 64

// cacheFor makes the loader's cache of an image with the driver's libraries in front.
// The file is named by what is in it, so containers of one image share one.
func (g *GPUs) cacheFor(ctx context.Context, image engine.Image, ours []ldcache.Entry) (string, error) {
	if len(ours) == 0 {
		return "", nil
	}
	var theirs []ldcache.Entry
	b, err := g.config.ImageCache(ctx, image)
	switch {
	case err == nil:
		if theirs, err = ldcache.Parse(b); err != nil {
			theirs = nil // the loader would not read it either
		}
	case !errors.Is(err, engine.ErrNotFound):
		return "", err
	}
	text := ldcache.Append(nil, append(slices.Clone(ours), theirs...))
	sum := sha256.Sum256(text)
	path := filepath.Join(g.config.Dir, hex.EncodeToString(sum[:16])+".cache")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	g.prune()
	if err := os.MkdirAll(g.config.Dir, 0o755); err != nil {
		return "", fmt.Errorf("writing the loader's cache: %w", err)
	}
	f, err := os.CreateTemp(g.config.Dir, "new-")
	if err != nil {
		return "", fmt.Errorf("writing the loader's cache: %w", err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("writing the loader's cache: %w", err), os.Remove(f.Name()))
	}
	return path, nil
}

// prune deletes the oldest caches beyond the bound.
func (g *GPUs) prune() {
	entries, err := os.ReadDir(g.config.Dir)
	if err != nil || len(entries) < maxCaches {
		return
	}
	age := func(e os.DirEntry) int64 {
		if i, err := e.Info(); err == nil {
			return i.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return int(min(1, max(-1, age(a)-age(b)))) })
	for _, e := range entries[:len(entries)-maxCaches+1] {
		if err := os.Remove(filepath.Join(g.config.Dir, e.Name())); err != nil {
			g.config.Log.Warn("deleting an old loader cache failed", "err", err)
		}
	}
}
