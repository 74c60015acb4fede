package draplugins

import (
	"cmp"
	"context"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	core "k8s.io/api/core/v1"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthalpha "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"

	"orch/agent/devices"
)

const (
	// maxDevices is how many devices of one program are known by health.
	maxDevices = 16384
	// reportsPerSecond is how often a program may change its mind; a quicker one is read slower.
	reportsPerSecond = 10
	// defaultFresh is how long a report holds that says nothing else; upstream's.
	defaultFresh = 30 * time.Second
	maxFresh     = 24 * 60 * 60 // seconds
	healthRetry  = 5 * time.Second
)

// named is a device of a driver.
type named struct{ pool, device string }

// report is what a driver said of a device.
type report struct {
	healthy core.ResourceHealthStatus
	message string
	until   time.Time
}

// ClaimHealth says how a device is, by the latest word of any program of the driver that still
// holds.
func (d driver) ClaimHealth(x devices.ClaimDevice) (core.ResourceHealthStatus, string) {
	d.plugins.mu.Lock()
	defer d.plugins.mu.Unlock()
	list := d.plugins.drivers[d.name]
	for n := len(list) - 1; n >= 0; n-- {
		if r, ok := list[n].reports[named{x.Pool, x.Device}]; ok && time.Now().Before(r.until) {
			return r.healthy, r.message
		}
	}
	return core.ResourceHealthStatusUnknown, ""
}

// nurse follows what a program says of its devices until ctx ends. What it said is forgotten
// with the stream.
func (p *Plugins) nurse(ctx context.Context, i *instance) {
	if i.health == "" {
		return
	}
	for ctx.Err() == nil {
		err := p.followHealth(ctx, i)
		p.report(i, nil, true)
		if status.Code(err) == codes.Unimplemented {
			return // it names the service and does not have it
		}
		select {
		case <-ctx.Done():
		case <-time.After(healthRetry):
		}
	}
}

func (p *Plugins) followHealth(ctx context.Context, i *instance) error {
	var client health.DRAResourceHealthClient = health.NewDRAResourceHealthClient(i.conn)
	if i.health == healthalpha.DRAResourceHealthService {
		client = health.V1Alpha1ClientWrapper{Client: healthalpha.NewDRAResourceHealthClient(i.conn)}
	}
	stream, err := client.NodeWatchResources(ctx, &health.NodeWatchResourcesRequest{})
	if err != nil {
		return err
	}
	pace := rate.NewLimiter(reportsPerSecond, reportsPerSecond)
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		p.report(i, answer.GetDevices(), false)
		if err := pace.Wait(ctx); err != nil {
			return err
		}
	}
}

// report takes up what a program said, or forgets it, and has the pods' statuses looked at if that
// changed anything. Devices beyond the bound are left out.
func (p *Plugins) report(i *instance, list []*health.DeviceHealth, forget bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := forget && len(i.reports) > 0
	if forget || i.reports == nil {
		i.reports = map[named]report{}
	}
	soonest := time.Duration(0)
	for _, h := range list {
		k := named{h.GetDevice().GetPoolName(), h.GetDevice().GetDeviceName()}
		was, known := i.reports[k]
		if !known && len(i.reports) >= maxDevices {
			continue
		}
		fresh := cmp.Or(time.Duration(min(max(h.GetHealthCheckTimeoutSeconds(), 0), maxFresh))*time.Second, defaultFresh)
		now := report{core.ResourceHealthStatusUnknown, h.GetMessage(), time.Now().Add(fresh)}
		switch h.GetHealth() {
		case health.HealthStatus_HEALTHY:
			now.healthy = core.ResourceHealthStatusHealthy
		case health.HealthStatus_UNHEALTHY:
			now.healthy = core.ResourceHealthStatusUnhealthy
		}
		i.reports[k] = now
		changed = changed || !known || was.healthy != now.healthy || was.message != now.message || was.until.Before(time.Now())
		if soonest == 0 || fresh < soonest {
			soonest = fresh
		}
	}
	if changed {
		p.tellLocked()
	}
	if i.stale != nil {
		i.stale.Stop()
		i.stale = nil
	}
	if soonest > 0 { // a driver that falls silent is unknown then
		i.stale = time.AfterFunc(soonest, p.tell)
	}
}

func (p *Plugins) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellLocked()
}
