package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	core "k8s.io/api/core/v1"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"orch/agent/devices"
	"orch/agent/host"
	"orch/runtime/engine"
)

// Offer lists the devices of all plugins, also of those that may still come back.
func (p *Plugins) Offer() map[string][]devices.Device {
	return p.offer(func(s state) bool { return s == served || s == lost })
}

func (p *Plugins) offer(in func(state) bool) map[string][]devices.Device {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string][]devices.Device, len(p.resources))
	for name, r := range p.resources {
		if in(r.state()) {
			out[name] = r.devices
		}
	}
	return out
}

// Gone offers nothing of each resource whose plugin is gone for good: the node says 0, as
// upstream's does. It comes last, so that whoever has such devices offers them.
type Gone struct{ *Plugins }

func (g Gone) Offer() map[string][]devices.Device {
	return g.offer(func(s state) bool { return s == gone })
}

// asked is the plugin that answers for a resource.
func (p *Plugins) asked(name string) (*connection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.resources[name]; r != nil {
		if c := r.current(); c != nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("endpoint not found in cache for a registered resource: %s", name)
}

// Choose asks the plugin for its preference, if it has one. One that does not answer in
// time has none.
func (p *Plugins) Choose(c devices.Choice) ([]string, error) {
	plugin, err := p.asked(c.Resource)
	if err != nil || !plugin.options.GetGetPreferredAllocationAvailable() || len(c.Free) == c.Count {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.limits.prefer)
	defer cancel()
	answer, err := plugin.client.GetPreferredAllocation(ctx, &deviceplugin.PreferredAllocationRequest{
		ContainerRequests: []*deviceplugin.ContainerPreferredAllocationRequest{{
			AvailableDeviceIDs: slices.Concat(c.Free, c.Must), MustIncludeDeviceIDs: c.Must, AllocationSize: int32(c.Count + len(c.Must)),
		}},
	})
	switch {
	case ctx.Err() != nil || status.Code(err) == codes.DeadlineExceeded:
		p.config.Log.Warn("a device plugin is slow to say what it prefers, any device is taken", "resource", c.Resource)
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	case len(answer.GetContainerResponses()) == 0:
		return nil, nil
	}
	return answer.ContainerResponses[0].GetDeviceIDs(), nil
}

// Prepare has the plugin allocate a container's devices. The answer is its own, encoded.
func (p *Plugins) Prepare(ctx context.Context, name string, ids []string) ([]byte, error) {
	plugin, err := p.asked(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.limits.allocate)
	defer cancel()
	answer, err := plugin.client.Allocate(ctx, &deviceplugin.AllocateRequest{
		ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: ids}},
	})
	if err != nil {
		return nil, err
	}
	if len(answer.GetContainerResponses()) == 0 {
		return nil, fmt.Errorf("no containers return in allocation response %v", answer)
	}
	if err := checkAnswer(answer.ContainerResponses[0]); err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(answer.ContainerResponses[0])
	if err != nil {
		return nil, err
	}
	return json.Marshal(prepared{Answer: text, PreStart: plugin.options.GetPreStartRequired()})
}

// prepared is what the ledger keeps for us. It outlives orch: fields are only added.
type prepared struct {
	// Answer is a ContainerAllocateResponse.
	Answer json.RawMessage `json:"answer"`
	// PreStart: the plugin wants to be told of each start, so none is without it.
	PreStart bool `json:"preStart,omitempty"`
}

// checkAnswer refuses what no container could be made of.
func checkAnswer(a *deviceplugin.ContainerAllocateResponse) error {
	for _, m := range a.GetMounts() {
		if !strings.HasPrefix(m.GetHostPath(), "/") || !strings.HasPrefix(m.GetContainerPath(), "/") {
			return fmt.Errorf("the device plugin's mount of %q at %q not having absolute paths", clip(m.GetHostPath()), clip(m.GetContainerPath()))
		}
	}
	for _, d := range a.GetDevices() {
		if !strings.HasPrefix(d.GetHostPath(), "/") || strings.Trim(d.GetPermissions(), "rwm") != "" {
			return fmt.Errorf("the device plugin's device %q with permissions %q not being one", clip(d.GetHostPath()), clip(d.GetPermissions()))
		}
	}
	for _, d := range a.GetCdiDevices() {
		if !parser.IsQualifiedName(d.GetName()) {
			return fmt.Errorf("the device plugin's CDI device %q not being a qualified name", clip(d.GetName()))
		}
	}
	for name := range a.GetEnvs() {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("the device plugin's variable %q not being one", clip(name))
		}
	}
	return nil
}

// Edits are what the plugin answered. It is told that the container starts, if it wants to be.
func (p *Plugins) Edits(ctx context.Context, c host.DeviceHolder, name string, ids []string) (host.DeviceEdits, error) {
	var answer deviceplugin.ContainerAllocateResponse
	if c.Prepared == nil {
		return host.DeviceEdits{}, errors.New("the device plugin was not asked")
	}
	var kept prepared
	err := json.Unmarshal(c.Prepared, &kept)
	if err == nil {
		err = protojson.Unmarshal(kept.Answer, &answer)
	}
	if err != nil {
		return host.DeviceEdits{}, fmt.Errorf("reading the device plugin's answer: %w", err)
	}
	if kept.PreStart {
		if err := p.preStart(ctx, name, ids); err != nil {
			return host.DeviceEdits{}, err
		}
	}
	out := editsOf(&answer)
	for _, m := range out.Mounts {
		if err := makeMissing(m.Source); err != nil {
			return host.DeviceEdits{}, fmt.Errorf("making the folder that the device plugin mounts: %w", err)
		}
	}
	if p.config.Native == nil || len(out.Devices)+len(out.CDI) > 0 {
		return out, nil
	}
	native, ok, err := p.config.Native(ctx, c, name, ids)
	if err != nil || !ok {
		return out, err
	}
	native.Add(out)
	return native, nil
}

// makeMissing makes a folder of what is not there, as containerd's CRI does and plugins rely on: a path may
// be one of their own container.
func makeMissing(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil // whatever else is wrong shows when it is mounted
	}
	return os.MkdirAll(path, 0o755)
}

func (p *Plugins) preStart(ctx context.Context, name string, ids []string) error {
	plugin, err := p.asked(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.limits.preStart)
	defer cancel()
	if _, err := plugin.client.PreStartContainer(ctx, &deviceplugin.PreStartContainerRequest{DevicesIds: ids}); err != nil {
		return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
	}
	return nil
}

// cdiAnnotations are those in which plugins name CDI devices for runtimes that know no better way.
const cdiAnnotations = "cdi.k8s.io/"

func editsOf(a *deviceplugin.ContainerAllocateResponse) host.DeviceEdits {
	out := host.DeviceEdits{}
	for _, k := range slices.Sorted(maps.Keys(a.GetEnvs())) {
		out.Env = append(out.Env, core.EnvVar{Name: k, Value: a.Envs[k]})
	}
	for _, m := range a.GetMounts() {
		out.Mounts = append(out.Mounts, engine.Mount{Type: "bind", Source: m.GetHostPath(), Target: m.GetContainerPath(), ReadOnly: m.GetReadOnly()})
	}
	for _, d := range a.GetDevices() {
		out.Devices = append(out.Devices, engine.Device{Host: d.GetHostPath(), Target: d.GetContainerPath(), Permissions: d.GetPermissions()})
	}
	add := func(name string) {
		if parser.IsQualifiedName(name) && !slices.Contains(out.CDI, name) {
			out.CDI = append(out.CDI, name)
		}
	}
	for _, d := range a.GetCdiDevices() {
		add(d.GetName())
	}
	for _, k := range slices.Sorted(maps.Keys(a.GetAnnotations())) {
		if strings.HasPrefix(k, cdiAnnotations) {
			for _, name := range strings.Split(a.Annotations[k], ",") {
				add(name)
			}
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[k] = a.Annotations[k]
	}
	return out
}
