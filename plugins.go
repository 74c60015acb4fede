package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	core "k8s.io/api/core/v1"

	"orch/agent/devices"
	"orch/agent/draplugins"
	"orch/agent/gpus"
	"orch/agent/host"
	"orch/agent/plugins"
	"orch/agent/podresources"
	"orch/api"
	"orch/api/client"
	"orch/gpu/alloc"
	"orch/gpu/share"
)

// nodePlugins are the device plugins of others on a node, beside the GPUs that orch
// offers itself.
type nodePlugins struct {
	*plugins.Plugins
	gpus    *gpus.GPUs
	log     *slog.Logger
	notices chan notice
}

// notice says that plugins serve a resource now, or do no more.
type notice struct {
	resource string
	serving  bool
}

// maxNotices bounds those that are not told yet; one more is only logged.
const maxNotices = 64

func newPlugins(c nodeConfig, own *gpus.GPUs, log *slog.Logger) (*nodePlugins, error) {
	n := &nodePlugins{gpus: own, log: log, notices: make(chan notice, maxNotices)}
	var err error
	n.Plugins, err = plugins.New(plugins.Config{
		Dir: filepath.Join(c.RootDir, "device-plugins"), Path: filepath.Join(c.DataDir, "agent", "device-plugins.json"),
		Native: n.native, Served: n.served, Log: log,
	})
	return n, err
}

// native injects NVIDIA's driver where NVIDIA's plugin leaves that to NVIDIA's container
// runtime: it sets a variable for it and names no device.
func (n *nodePlugins) native(ctx context.Context, c host.DeviceHolder, resource string, ids []string) (host.DeviceEdits, bool, error) {
	if !strings.HasPrefix(resource, share.Prefix) {
		return host.DeviceEdits{}, false, nil
	}
	parts := map[string]bool{}
	for _, list := range n.gpus.Offer() {
		for _, d := range list {
			parts[d.Part] = true
		}
	}
	for _, id := range ids {
		if !parts[alloc.DeviceOf(id)] {
			return host.DeviceEdits{}, false, nil
		}
	}
	e, err := n.gpus.Edits(ctx, c, resource, ids)
	return e, err == nil, err
}

func (n *nodePlugins) served(resource string, serving bool) {
	select {
	case n.notices <- notice{resource, serving}:
	default:
		n.log.Warn("too many device plugins come and go to tell of each", "resource", resource, "serving", serving)
	}
}

// run serves the plugins, and says once when they take the place of the built-in provider.
func (n *nodePlugins) run(ctx context.Context, event func(eventType, reason, message string)) error {
	return both(n.Run, func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case w := <-n.notices:
				if _, ours := n.gpus.Offer()[w.resource]; ours {
					reason, message := n.word(w)
					n.log.Info(message, "resource", w.resource)
					event(core.EventTypeNormal, reason, message)
				}
			}
		}
	})(ctx)
}

func (n *nodePlugins) word(w notice) (reason, message string) {
	if w.serving {
		return "DevicePluginServes", fmt.Sprintf("A device plugin serves %s: the built-in GPU provider steps aside for it", w.resource)
	}
	return "DevicePluginGone", fmt.Sprintf("The device plugin of %s is gone: the built-in GPU provider serves it again", w.resource)
}

// newDrivers are the DRA drivers of others on a node.
func newDrivers(c nodeConfig, cl *client.Client, log *slog.Logger) (*draplugins.Plugins, error) {
	return draplugins.New(draplugins.Config{Dir: filepath.Join(c.RootDir, "plugins_registry"), Node: c.NodeName, Client: cl, Own: api.GPUDriver, Log: log})
}

// follow has pods' statuses looked at when drivers come, go, or say something of their devices.
func follow(ctx context.Context, drivers *draplugins.Plugins, tell func()) error {
	for {
		changed := drivers.Changed()
		tell()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// podResources tells exporters which container holds which device.
func podResources(c nodeConfig, cl *client.Client, m *devices.Manager, log *slog.Logger) (*podresources.Server, error) {
	return podresources.New(podresources.Config{
		Socket: filepath.Join(c.RootDir, "pod-resources", "kubelet.sock"),
		Pods: func() []*core.Pod {
			var mine []*core.Pod
			for _, pod := range client.CachedList(cl, api.Pods, "", nil) {
				if pod.Spec.NodeName == c.NodeName {
					mine = append(mine, pod)
				}
			}
			return mine
		},
		Holdings: m.Holdings, Offer: m.Offer, Claims: m.ClaimsOf, Log: log,
	})
}
