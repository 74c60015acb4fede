// Command deviceplugin is a device plugin for the end-to-end tests, a process of its own
// as vendors' plugins are. It offers two devices of example.com/widget and gives a device
// node, a mount, a variable and a CDI device. Its arguments are the folder of the
// kubelet's sockets, a folder of the host to mount, and the CDI kind of its devices. Start reading at main.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"orch/agent/plugins/fakeplugin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &fakeplugin.Plugin{Dir: os.Args[1], Resource: "example.com/widget", Endpoint: "widget.sock",
		Give: func(_ context.Context, ids []string) (*api.ContainerAllocateResponse, error) {
			return &api.ContainerAllocateResponse{
				Envs:       map[string]string{"WIDGETS": strings.Join(ids, ",")},
				Mounts:     []*api.Mount{{HostPath: os.Args[2], ContainerPath: "/opt/widget", ReadOnly: true}},
				Devices:    []*api.DeviceSpec{{HostPath: "/dev/full", ContainerPath: "/dev/widget", Permissions: "rw"}},
				CdiDevices: []*api.CDIDevice{{Name: os.Args[3] + "=" + ids[0]}},
			}, nil
		},
		Registered: func(err error) { fmt.Println("registered:", err) },
	}
	p.Set(fakeplugin.Devices("w0", "w1"))
	if err := p.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
