package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"orch/api"
	"orch/api/events"
	"orch/api/reconcile"
	"orch/datastore/bolt"
	"orch/server"
	"orch/server/controllers"
	"orch/server/scheduler"
)

// serverPart is `orch server`: the control plane and, unless told not to, a node.
type serverPart struct {
	log    *slog.Logger
	config server.Config
	node   nodeConfig
	// ready closes when the local node is Ready; nil without one.
	ready <-chan struct{}
}

func (s *serverPart) AddFlags(f *pflag.FlagSet) {
	s.config.AddFlags(f)
	s.node.AddFlags(f)
}

// Run opens the store, then runs control plane and node until ctx ends. The node
// stops first: it leaves its containers running.
func (s *serverPart) Run(ctx context.Context) (err error) {
	takeLibraryLogs(s.log)
	s.config.Version, s.config.Commit = kubernetesVersion+"+orch", version
	if err := s.config.Validate(); err != nil {
		return err
	}
	if !s.config.DisableAgent {
		if err := needsRoot(os.Geteuid()); err != nil {
			return err
		}
	}
	store, err := bolt.Open(bolt.Config{Path: filepath.Join(s.config.DataDir, "server", "db", "state.db"), Log: s.log})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := store.Close(); err == nil {
			err = cerr
		}
	}()
	control, err := server.New(s.config, store, s.log)
	if err != nil {
		return err
	}
	parts, err := controlParts(control, s.log)
	if err != nil {
		return err
	}
	control.Add(parts...)
	if !s.config.DisableAgent {
		part, err := s.nodePart(control)
		if err != nil {
			return err
		}
		control.Add(part)
	}
	go s.announce(ctx, control)
	return control.Run(ctx)
}

// takeLibraryLogs brings what Kubernetes' libraries log into our log. The embedded
// kubectl keeps its own form.
func takeLibraryLogs(log *slog.Logger) { klog.SetLogger(logr.FromSlogHandler(log.Handler())) }

// announce says that the cluster may be used: the API serves, the system's
// objects are there, and the local node is Ready.
func (s *serverPart) announce(ctx context.Context, control *server.Server) {
	for _, ready := range []<-chan struct{}{control.Ready(), s.ready} {
		if ready == nil {
			continue
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return
		}
	}
	s.log.Info("orch is ready", "kubeconfig", control.KubeconfigPath(), "port", control.Port())
	notify("READY=1")
}

// controlParts are the controllers and the scheduler, each with the identity and
// the event source that upstream's have.
func controlParts(control *server.Server, log *slog.Logger) ([]server.Part, error) {
	c := control.Client(api.ControllerUser)
	said, err := events.New(events.Config{Client: c, Component: "kube-controller-manager"})
	if err != nil {
		return nil, err
	}
	specs, err := controllers.Specs(controllers.Deps{Client: c, Events: said, ClusterCIDR: control.Resolved().ClusterCIDR,
		RootCA: control.PKI().ServerCA(), Kinds: control.Collected, Changed: control.KindsChanged,
		Others: control.Others("namespace-controller"), Owned: control.Others("generic-garbage-collector"),
		Migrated: control.Others("storage-version-migrator-controller"), GPUTaint: control.Resolved().GPUTaint, MIGPlanner: control.Resolved().MIGPlanner})
	if err != nil {
		return nil, err
	}
	loop, err := reconcile.New(c, specs...)
	if err != nil {
		return nil, err
	}
	control.Measure(loop)
	sc := control.Client(api.SchedulerUser)
	decided, err := events.New(events.Config{Client: sc, Component: api.DefaultSchedulerName, Series: true})
	if err != nil {
		return nil, err
	}
	sched, err := scheduler.New(scheduler.Config{Client: sc, Events: decided, Log: log})
	if err != nil {
		return nil, err
	}
	control.Expose(sched.Collector())
	return []server.Part{
		{Name: "memory", Run: giveBack},
		{Name: "events", Run: both(said.Run, decided.Run)},
		{Name: "controllers", Run: loop.Run},
		{Name: "scheduler", Run: sched.Run},
	}, nil
}

// both runs all of them until ctx ends or one fails.
func both(runs ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, run := range runs {
			g.Go(func() error { return run(ctx) })
		}
		return g.Wait()
	}
}
