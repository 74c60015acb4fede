package server

import (
	"context"
	"errors"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/datastore"
	"orch/server/rest"
)

// componentStatuses tells how the parts are, under the names that upstream's
// programs have. A part that fails ends the server, so those that have started run.
func (s *Server) componentStatuses(ctx context.Context) []api.Object {
	waiting := passed(s.ready)(ctx)
	return []api.Object{componentStatus("controller-manager", waiting), componentStatus("etcd-0", s.stored(ctx)), componentStatus("scheduler", waiting)}
}

// storeAnswers tells whether a read of the store succeeds.
func storeAnswers(store datastore.Store) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := store.Get(ctx, api.Namespaces.Key("", api.NamespaceSystem), 0)
		if errors.Is(err, datastore.ErrNotFound) {
			err = nil
		}
		return err
	}
}

// passed is a check that a part has got as far as closing the channel.
func passed(c <-chan struct{}) func(context.Context) error {
	return func(context.Context) error {
		select {
		case <-c:
			return nil
		default:
			return errors.New("not finished")
		}
	}
}

// checks are what /livez, /readyz and /healthz look at. Where upstream has the like they have its names: probes ask
// for them one by one.
func (s *Server) checks() []rest.Check {
	list := []rest.Check{
		{Name: "log", Check: func(context.Context) error { return nil }}, // it is written at once: no flush that may hang
		{Name: "etcd", Check: s.stored},
		{Name: "informer-sync", Ready: true, Check: passed(s.registry.Ready())},
		{Name: "started", Ready: true, Check: passed(s.serving)},
	}
	for _, part := range []struct {
		has   func(context.Context) error
		hooks []string
	}{
		{passed(s.registry.Ready()), []string{"generic-apiserver-start-informers", "storage-readiness"}},
		{passed(s.admit.Ready()), []string{"start-apiserver-admission-initializer"}},
		{passed(s.boot.Ready()), []string{"rbac/bootstrap-roles", "scheduling/bootstrap-system-priority-classes", "start-system-namespaces-controller",
			"bootstrap-controller", "start-cluster-authentication-info-controller", "apiservice-registration-controller", "kube-apiserver-autoregistration"}},
		{func(ctx context.Context) error { return passed(s.crd.Ready())(ctx) }, []string{"start-apiextensions-informers", "start-apiextensions-controllers", "crd-informer-synced"}},
		{passed(s.flow.Synced()), []string{"priority-and-fairness-config-producer", "priority-and-fairness-config-consumer"}},
		{passed(s.serving), []string{"start-service-ip-repair-controllers", "start-kube-aggregator-informers", "apiservice-status-local-available-controller",
			"apiservice-status-remote-available-controller", "apiservice-discovery-controller", "apiservice-openapi-controller", "apiservice-openapiv3-controller"}},
	} {
		for _, name := range part.hooks {
			list = append(list, rest.Check{Name: "poststarthook/" + name, Check: part.has})
		}
	}
	list = append(list, rest.Check{Name: "autoregister-completion", Check: passed(s.boot.Ready())})
	if s.encryption.HasPlugins() {
		list = append(list, rest.Check{Name: "kms-providers", Check: s.encryption.Check})
	}
	return list
}

func componentStatus(name string, err error) *core.ComponentStatus {
	c := core.ComponentCondition{Type: core.ComponentHealthy, Status: core.ConditionTrue, Message: "ok"}
	if err != nil {
		c = core.ComponentCondition{Type: core.ComponentHealthy, Status: core.ConditionFalse, Error: err.Error()}
	}
	return &core.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []core.ComponentCondition{c}}
}
