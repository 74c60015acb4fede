package server

import (
	"context"
	"errors"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/datastore"
)

// componentStatuses tells how the parts are, under the names that upstream's
// programs have. A part that fails ends the server, so those that have started run.
func (s *Server) componentStatuses(store datastore.Store) func(context.Context) []api.Object {
	return func(ctx context.Context) []api.Object {
		var waiting error
		select {
		case <-s.ready:
		default:
			waiting = errors.New("has not started")
		}
		_, err := store.Get(ctx, api.Namespaces.Key("", api.NamespaceSystem), 0)
		if errors.Is(err, datastore.ErrNotFound) {
			err = nil
		}
		return []api.Object{componentStatus("controller-manager", waiting), componentStatus("etcd-0", err), componentStatus("scheduler", waiting)}
	}
}

func componentStatus(name string, err error) *core.ComponentStatus {
	c := core.ComponentCondition{Type: core.ComponentHealthy, Status: core.ConditionTrue, Message: "ok"}
	if err != nil {
		c = core.ComponentCondition{Type: core.ComponentHealthy, Status: core.ConditionFalse, Error: err.Error()}
	}
	return &core.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []core.ComponentCondition{c}}
}
