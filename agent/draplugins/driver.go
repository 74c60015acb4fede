package draplugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	resource "k8s.io/api/resource/v1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	drabeta "k8s.io/kubelet/pkg/apis/dra/v1beta1"

	"orch/agent/claims"
	"orch/agent/devices"
)

// instance is one program of a driver.
type instance struct {
	driver, endpoint string
	// service and health are what was agreed upon; health is empty without.
	service, health string
	timeout         time.Duration
	conn            *grpc.ClientConn
	// What follows is guarded by Plugins.mu. connected: the endpoint answers. reports are what it
	// said of its devices; stale runs until the first of them holds no more.
	connected bool
	reports   map[named]report
	stale     *time.Timer
}

func (i *instance) close() { _ = i.conn.Close() } // it says only that it is closed already

// watch keeps the connection up and tells how it is, until ctx ends.
func (i *instance) watch(ctx context.Context, tell func(*instance, bool)) {
	for {
		state := i.conn.GetState()
		if state == connectivity.Idle {
			i.conn.Connect()
		}
		tell(i, state == connectivity.Ready)
		if !i.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (i *instance) client() dra.DRAPluginClient {
	if i.service == drabeta.DRAPluginService {
		return drabeta.V1Beta1ClientWrapper{DRAPluginClient: drabeta.NewDRAPluginClient(i.conn)}
	}
	return dra.NewDRAPluginClient(i.conn)
}

// driver is one by its name: whichever of its programs is there is asked.
type driver struct {
	plugins *Plugins
	name    string
}

var (
	_ claims.Driver = driver{}
	_ claims.Nurse  = driver{}
)

// Driver is the one with that name; false if it is not there.
func (p *Plugins) Driver(name string) (claims.Driver, bool) {
	return driver{p, name}, p.Registered(name)
}

// kept is what the ledger keeps for us of a claim.
type kept struct {
	// Leave: none of the devices needs the driver to be told when the claim is given up.
	Leave bool `json:"leave,omitempty"`
}

// Prepare has the driver make the claim's devices ready.
func (d driver) Prepare(ctx context.Context, claim *resource.ResourceClaim, known devices.ClaimDriver) (devices.ClaimDriver, error) {
	asked := &dra.Claim{Namespace: claim.Namespace, Name: claim.Name, Uid: string(claim.UID)}
	r, err := call(ctx, d, asked.Uid, func(ctx context.Context, c dra.DRAPluginClient) (map[string]*dra.NodePrepareResourceResponse, error) {
		answer, err := c.NodePrepareResources(ctx, &dra.NodePrepareResourcesRequest{Claims: []*dra.Claim{asked}})
		return answer.GetClaims(), err
	})
	if err != nil {
		return known, err
	}
	known.Devices = nil
	for _, x := range r.GetDevices() {
		known.Devices = append(known.Devices, devices.ClaimDevice{Requests: x.GetRequestNames(), Pool: x.GetPoolName(), Device: x.GetDeviceName(), ShareID: x.GetShareId(), CDI: x.GetCdiDeviceIds()})
	}
	known.State, err = json.Marshal(kept{Leave: !slices.ContainsFunc(claim.Status.Allocation.Devices.Results, func(r resource.DeviceRequestAllocationResult) bool {
		return r.Driver == d.name && !slices.Contains(r.SkipNodeOperations, resource.SkipNodeOperationAll) && !slices.Contains(r.SkipNodeOperations, resource.SkipNodeOperationNodeUnprepareResources)
	})})
	return known, err
}

// Unprepare has the driver take the claim's devices back.
func (d driver) Unprepare(ctx context.Context, claim devices.Claim, known devices.ClaimDriver) error {
	var k kept
	if json.Unmarshal(known.State, &k) == nil && k.Leave {
		return nil
	}
	asked := &dra.Claim{Namespace: claim.Namespace, Name: claim.Name, Uid: string(claim.UID)}
	_, err := call(ctx, d, asked.Uid, func(ctx context.Context, c dra.DRAPluginClient) (map[string]*dra.NodeUnprepareResourceResponse, error) {
		answer, err := c.NodeUnprepareResources(ctx, &dra.NodeUnprepareResourcesRequest{Claims: []*dra.Claim{asked}})
		return answer.GetClaims(), err
	})
	return err
}

// call asks the driver about one claim and wants an answer for that and for no other.
func call[R interface{ GetError() string }](ctx context.Context, d driver, uid string, do func(context.Context, dra.DRAPluginClient) (map[string]R, error)) (answer R, err error) {
	i, err := d.plugins.get(d.name)
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeout(ctx, i.timeout)
	defer cancel()
	answers, err := do(ctx, i.client())
	if err != nil {
		return answer, err
	}
	for other := range answers {
		if other != uid {
			return answer, fmt.Errorf("the driver answered for the unknown claim UID %s", other)
		}
	}
	answer, ok := answers[uid]
	switch {
	case !ok:
		return answer, errors.New("the driver skipped the claim")
	case answer.GetError() != "":
		return answer, errors.New(answer.GetError())
	}
	return answer, nil
}
