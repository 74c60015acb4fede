package draplugins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthalpha "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	drabeta "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Times between attempts to have a socket say who it is; upstream's.
const (
	firstRetry = 500 * time.Millisecond
	maxRetry   = 2 * time.Minute
)

var (
	// reconnect is how soon a driver that went away is found again.
	reconnect = backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}

	services       = []string{dra.DRAPluginService, drabeta.DRAPluginService}
	healthServices = []string{health.DRAResourceHealthService, healthalpha.DRAResourceHealthService}
)

// live registers what is behind a socket, again and again if need be, and follows it until
// ctx ends, which is when the socket is gone.
func (p *Plugins) live(ctx context.Context, path string) {
	for wait := firstRetry; ; wait = min(2*wait, maxRetry) {
		i, err := p.register(ctx, path)
		if err == nil {
			p.config.Log.Info("a DRA driver registered", "driver", i.driver, "endpoint", i.endpoint, "service", i.service)
			var nursing sync.WaitGroup
			nursing.Go(func() { p.nurse(ctx, i) })
			i.watch(ctx, p.connected)
			nursing.Wait()
			p.remove(i)
			i.close()
			p.config.Log.Info("a DRA driver is gone", "driver", i.driver, "endpoint", i.endpoint)
			return
		}
		if ctx.Err() != nil {
			return
		}
		p.config.Log.Warn("a plugin did not register", "socket", path, "err", err, "again", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// register asks who is there and tells it whether it was taken.
func (p *Plugins) register(ctx context.Context, path string) (*instance, error) {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	conn, err := dial(path, maxInfo)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := registration.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registration.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("failed to get plugin info: %w", err)
	}
	i, err := p.take(info, path)
	answer := &registration.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		answer.Error = err.Error()
	}
	if _, told := client.NotifyRegistrationStatus(ctx, answer); told != nil && err == nil {
		// It has been taken all the same, as with upstream: it serves already.
		p.config.Log.Warn("a DRA driver could not be told that it is registered", "driver", i.driver, "err", told)
	}
	return i, err
}

// take checks what a plugin says of itself and lists it.
func (p *Plugins) take(info *registration.PluginInfo, path string) (*instance, error) {
	if info.GetType() != registration.DRAPlugin {
		return nil, fmt.Errorf("RegisterPlugin error -- no handler registered for plugin type: %s at socket %s", info.GetType(), path)
	}
	i := &instance{driver: info.GetName(), endpoint: cmp.Or(info.GetEndpoint(), path), timeout: callTimeout}
	i.service = offered(info.GetSupportedVersions(), services)
	i.health = offered(info.GetSupportedVersions(), healthServices)
	switch {
	case i.driver == "":
		return nil, errors.New("RegisterPlugin error -- plugin validation failed with err: DRA driver name is empty")
	case i.service == "":
		return nil, fmt.Errorf("RegisterPlugin error -- plugin validation failed with err: invalid supported gRPC versions of DRA driver plugin %s at endpoint %s: none of services supported by the plugin (%q) are supported by the kubelet (%q)",
			i.driver, i.endpoint, info.GetSupportedVersions(), services)
	}
	var err error
	if i.conn, err = dial(i.endpoint, maxMessage); err == nil {
		err = p.add(i)
	}
	if err != nil {
		if i.conn != nil {
			i.close()
		}
		return nil, fmt.Errorf("RegisterPlugin error -- plugin registration failed with err: %w", err)
	}
	return i, nil
}

// offered is the newest service that both know; empty for none.
func offered(theirs, ours []string) string {
	for _, s := range ours {
		if slices.Contains(theirs, s) {
			return s
		}
	}
	return ""
}

func dial(path string, most int) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+path, grpc.WithAuthority("localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: infoTimeout}), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most), grpc.MaxCallSendMsgSize(maxMessage)))
}
