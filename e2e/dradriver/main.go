// Command dradriver is a DRA driver for the end-to-end tests, a process of its own as vendors'
// are, made with the library that they use. It offers the devices w0 and w1 of the driver
// widgets.example.com on one node, and describes those of a claim by a file in the CDI folder: a
// variable with their names, and one that says that they are a widget. Its arguments are the node's
// name, the kubelet's root directory, and the CDI kind of its devices. Start reading at main.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
)

const (
	name   = "widgets.example.com"
	folder = "/var/run/cdi"
)

type driver struct{ node, kind string }

// file describes the devices of a claim.
func (d driver) file(claim types.UID) string {
	return filepath.Join(folder, strings.ReplaceAll(d.kind, "/", "-")+"-"+string(claim)+".json")
}

// PrepareResourceClaims writes a file for each claim.
func (d driver) PrepareResourceClaims(_ context.Context, claims []*resource.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	out := map[types.UID]kubeletplugin.PrepareResult{}
	for _, c := range claims {
		var names []string
		var r kubeletplugin.PrepareResult
		for _, a := range c.Status.Allocation.Devices.Results {
			if a.Driver == name {
				names = append(names, a.Device)
				r.Devices = append(r.Devices, kubeletplugin.Device{Requests: []string{a.Request}, PoolName: a.Pool, DeviceName: a.Device, CDIDeviceIDs: []string{d.kind + "=" + string(c.UID)}})
			}
		}
		spec := fmt.Sprintf(`{"cdiVersion":"0.5.0","kind":%q,"devices":[{"name":%q,"containerEdits":{"env":["WIDGETS=%s"]}}]}`, d.kind, c.UID, strings.Join(names, ","))
		r.Err = os.WriteFile(d.file(c.UID), []byte(spec), 0o644)
		out[c.UID] = r
		fmt.Println("prepared", c.Name)
	}
	return out, nil
}

// UnprepareResourceClaims takes the files away.
func (d driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	out := map[types.UID]error{}
	for _, c := range claims {
		if err := os.Remove(d.file(c.UID)); err != nil && !os.IsNotExist(err) {
			out[c.UID] = err
			continue
		}
		out[c.UID] = nil
		fmt.Println("unprepared", c.Name)
	}
	return out, nil
}

// HandleError says what went wrong.
func (driver) HandleError(_ context.Context, err error, msg string) {
	fmt.Fprintln(os.Stderr, msg, err)
}

// WatchHealthStatus says that w0 and w1 are fine.
func (d driver) WatchHealthStatus(ctx context.Context, reports chan<- kubeletplugin.DeviceHealthReport) error {
	for {
		var r kubeletplugin.DeviceHealthReport
		for _, n := range devices {
			r.Devices = append(r.Devices, kubeletplugin.DeviceHealth{PoolName: d.node, DeviceName: n, Health: kubeletplugin.HealthStatusHealthy, Message: "it spins"})
		}
		select {
		case <-ctx.Done():
			return nil
		case reports <- r:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Second):
		}
	}
}

var devices = []string{"w0", "w1"}

func run(ctx context.Context, node, root, kind string) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	data := filepath.Join(root, "plugins", name)
	if err := os.MkdirAll(data, 0o750); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	helper, err := kubeletplugin.Start(ctx, driver{node, kind}, kubeletplugin.DriverName(name), kubeletplugin.NodeName(node), kubeletplugin.KubeClient(client),
		kubeletplugin.PluginDataDirectoryPath(data), kubeletplugin.RegistrarDirectoryPath(filepath.Join(root, "plugins_registry")))
	if err != nil {
		return err
	}
	defer helper.Stop()
	var slice resourceslice.Slice
	for _, n := range devices {
		slice.Devices = append(slice.Devices, resource.Device{Name: n})
	}
	err = helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{node: {Slices: []resourceslice.Slice{slice}}}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
