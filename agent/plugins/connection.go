package plugins

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"orch/agent/devices"
)

// connection is one plugin that registered.
type connection struct {
	resource, endpoint string
	options            *deviceplugin.DevicePluginOptions
	conn               *grpc.ClientConn
	client             deviceplugin.DevicePluginClient
	// listed are the devices of its last list, not nil once there was one. Guarded by Plugins.mu.
	listed []devices.Device
}

// connect calls a plugin back and asks what it can do.
func (p *Plugins) connect(ctx context.Context, name, endpoint string) (*connection, error) {
	path := filepath.Join(p.config.Dir, endpoint)
	conn, err := grpc.NewClient("passthrough:///"+endpoint,
		grpc.WithAuthority("localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		return nil, fmt.Errorf("failed to dial device plugin: %w", err)
	}
	c := &connection{resource: name, endpoint: endpoint, conn: conn, client: deviceplugin.NewDevicePluginClient(conn)}
	ctx, cancel := context.WithTimeout(ctx, p.limits.connect)
	defer cancel()
	if c.options, err = c.client.GetDevicePluginOptions(ctx, &deviceplugin.Empty{}, grpc.WaitForReady(true)); err != nil {
		c.close()
		return nil, fmt.Errorf("failed to get device plugin options: %w", err)
	}
	return c, nil
}

// close ends the connection; follow returns.
func (c *connection) close() { _ = c.conn.Close() } // it says only that it is closed already

// follow hands each list over until the plugin is gone, and says why it is.
func (c *connection) follow(ctx context.Context, take func(*connection, []devices.Device)) error {
	stream, err := c.client.ListAndWatch(ctx, &deviceplugin.Empty{})
	if err != nil {
		return err
	}
	pace := rate.NewLimiter(listsPerSecond, listsPerSecond)
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		list, err := listOf(c.resource, answer.GetDevices())
		if err != nil {
			return err
		}
		take(c, list)
		if err := pace.Wait(ctx); err != nil {
			return err
		}
	}
}

// listOf turns a plugin's list into devices: never nil, in the plugin's order. Of an id
// that is named twice the last counts, as with upstream.
func listOf(name string, in []*deviceplugin.Device) ([]devices.Device, error) {
	if len(in) > maxDevices {
		return nil, fmt.Errorf("the plugin lists %d devices, %d are the most", len(in), maxDevices)
	}
	out, at := make([]devices.Device, 0, len(in)), make(map[string]int, len(in))
	for _, d := range in {
		if d.GetID() == "" || len(d.GetID()) > maxID {
			continue
		}
		var numa []int64
		for _, n := range d.GetTopology().GetNodes() {
			numa = append(numa, n.GetID())
		}
		device := deviceOf(name, d.GetID(), numa)
		device.Healthy = d.GetHealth() == deviceplugin.Healthy
		if i, twice := at[d.GetID()]; twice {
			out[i] = device
			continue
		}
		at[d.GetID()] = len(out)
		out = append(out, device)
	}
	return out, nil
}

// deviceOf says what stands behind an id. NVIDIA's plugin names cards by UUID and their
// replicas "UUID::n", as the provider inside orch does: a card that is held under one of
// their resources is not given under another. Other vendors' ids mean nothing outside
// of their resource.
func deviceOf(resource, id string, numa []int64) devices.Device {
	d := devices.Device{ID: id, Part: resource + "/" + id, NUMA: numa}
	if strings.HasPrefix(resource, nvidia) {
		d.Part, _, d.Shared = strings.Cut(id, "::")
	}
	return d
}

const nvidia = "nvidia.com/"
