package gpus

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/gpu/alloc"
	"orch/gpu/cdi"
	"orch/gpu/device"
	"orch/gpu/mps"
	"orch/gpu/share"
	"orch/runtime/engine"
)

// MPSProgram finds the control program among the driver's files.
func (g *GPUs) MPSProgram() (mps.Program, error) { return g.mpsProgram(g.config.Look().Machine) }

func (g *GPUs) mpsProgram(m device.Machine) (mps.Program, error) {
	path, env, err := g.driverProgram(m, mps.Name, "libcuda.so.")
	if err == nil && path == "" {
		err = fmt.Errorf("%s is not among the driver's files: install the driver's compute utilities, or share GPUs in another way", mps.Name)
	}
	return mps.Program{Path: path, Env: env}, err
}

// driverProgram finds a program of the driver's files, and the environment in which it finds the
// driver's library whose name begins so; an empty file is none.
func (g *GPUs) driverProgram(m device.Machine, name, library string) (file string, env []string, err error) {
	files, err := g.driverFiles(m)
	if err != nil {
		return "", nil, err
	}
	for _, f := range files.Others {
		if path.Base(f.Path) != name {
			continue
		}
		env = []string{"PATH=" + filepath.Join("/", files.Root, path.Dir(f.Path)) + ":/usr/bin:/bin"}
		if i := slices.IndexFunc(files.Libraries, func(l cdi.File) bool { return strings.HasPrefix(path.Base(l.Path), library) }); i >= 0 {
			env = append(env, "LD_LIBRARY_PATH="+filepath.Join("/", files.Root, path.Dir(files.Libraries[i].Path)))
		}
		return filepath.Join("/", files.Root, f.Path), env, nil
	}
	return "", nil, nil
}

// mpsKey names the daemon of a device.
func mpsKey(uuid string) string { return strings.ReplaceAll(uuid, "/", "_") }

// services are the daemons that the ledger wants.
func (g *GPUs) services(m device.Machine) []mps.Service {
	out := map[string]mps.Service{}
	var order []string
	add := func(s mps.Service) {
		if _, ok := out[s.Key]; !ok {
			order = append(order, s.Key)
			out[s.Key] = s
		}
	}
	for _, h := range g.config.Guard.Holdings() {
		if !strings.HasPrefix(h.Name, share.Prefix) {
			continue
		}
		parts := g.parts(m, h.IDs)
		if g.level(m, parts) != share.ByMPS {
			continue
		}
		for _, p := range parts {
			s := mps.Service{Key: mpsKey(p.Device), Devices: []string{p.Device}}
			if !p.cut { // replicas are alike, and say nothing themselves
				s.Limits = mps.Limits{ThreadPercent: int(p.CorePercent), MemoryMiB: []int64{p.MemoryMiB}}
			}
			add(s)
		}
	}
	if g.config.Guard.Claims != nil {
		for _, s := range claimServices(g.config.Guard.Claims()) {
			add(s)
		}
	}
	var list []mps.Service
	for _, key := range order {
		list = append(list, out[key])
	}
	return list
}

// wantMPS has those daemons run that the ledger wants, and no others.
func (g *GPUs) wantMPS() error {
	if g.config.Guard.MPS == nil || g.config.Guard.Holdings == nil {
		return nil
	}
	m := g.config.Look().Machine
	if _, err := g.driverFiles(m); err != nil {
		return nil // a driver that is being replaced: nothing is started, and nobody's daemon stopped
	}
	return g.config.Guard.MPS.Want(g.services(m))
}

// MPSClient is what a container gets whose devices a claim's service serves; Guard.Claims
// lists that one already.
func (g *GPUs) MPSClient(ctx context.Context, c *core.Container, key string) (host.DeviceEdits, error) {
	if g.config.Guard.MPS == nil {
		return host.DeviceEdits{}, fmt.Errorf("this node does not run MPS")
	}
	if err := g.wantMPS(); err != nil {
		return host.DeviceEdits{}, err
	}
	return g.mpsClient(ctx, c, key)
}

// mpsClient waits until the daemon answers, and says where it is.
func (g *GPUs) mpsClient(ctx context.Context, c *core.Container, key string) (host.DeviceEdits, error) {
	for _, v := range c.VolumeMounts {
		if path.Clean(v.MountPath) == mps.TargetShm {
			return host.DeviceEdits{}, fmt.Errorf("the container mounts the volume %s at %s, where clients of MPS meet their server: leave it out, the server's has no limit of its own", v.Name, mps.TargetShm)
		}
	}
	if _, err := g.MPSProgram(); err != nil {
		return host.DeviceEdits{}, err
	}
	at, err := g.config.Guard.MPS.Ready(ctx, key)
	if err != nil {
		return host.DeviceEdits{}, err
	}
	return host.DeviceEdits{
		Env: []core.EnvVar{{Name: "CUDA_MPS_PIPE_DIRECTORY", Value: mps.TargetPipe}},
		Mounts: []engine.Mount{
			{Type: "bind", Source: at.Pipe, Target: mps.TargetPipe, Options: []string{"nosuid", "nodev"}},
			{Type: "bind", Source: at.Shm, Target: mps.TargetShm, Options: []string{"nosuid", "nodev"}},
		},
	}, nil
}

// mpsCondition is the node's: there while daemons are wanted.
func (g *GPUs) mpsCondition() []core.NodeCondition {
	if g.config.Guard.MPS == nil {
		return nil
	}
	all := g.config.Guard.MPS.Status()
	if len(all) == 0 {
		return nil
	}
	for _, s := range all {
		if !s.Ready {
			return []core.NodeCondition{{Type: "GPUMPSReady", Status: core.ConditionFalse, Reason: "DaemonNotReady", Message: fmt.Sprintf("the MPS daemon of %s is not ready: %s", s.Key, s.Why)}}
		}
	}
	return []core.NodeCondition{{Type: "GPUMPSReady", Status: core.ConditionTrue, Reason: "DaemonsReady", Message: "every MPS daemon that is wanted answers"}}
}

// clientsOf are who holds a part of a daemon's devices.
func (g *GPUs) clientsOf(s mps.Service) []devices.Holding {
	var out []devices.Holding
	for _, h := range g.config.Guard.Holdings() {
		if slices.ContainsFunc(h.IDs, func(id string) bool { return slices.Contains(s.Devices, alloc.DeviceOf(id)) }) {
			out = append(out, h)
		}
	}
	return out
}
