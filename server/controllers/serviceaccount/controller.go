// Package serviceaccount keeps a ServiceAccount called default in every
// namespace, as pods run under it that name no other. Start reading at Specs.
package serviceaccount

import (
	"context"
	"fmt"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

const name = "default"

// Specs is the controller of default service accounts; its keys are namespaces.
func Specs(c *client.Client) []reconcile.Spec {
	return []reconcile.Spec{{
		Name:    "serviceaccount",
		Workers: 2,
		Watches: []reconcile.Watch{
			reconcile.For(api.Namespaces),
			reconcile.Map(api.ServiceAccounts, func(was, is *core.ServiceAccount) []reconcile.Key {
				if is != nil || was.Name != name {
					return nil
				}
				return []reconcile.Key{{Name: was.Namespace}}
			}),
		},
		Do: func(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
			ns := client.Cached(c, api.Namespaces, "", key.Name)
			if ns == nil || ns.DeletionTimestamp != nil || client.Cached(c, api.ServiceAccounts, ns.Name, name) != nil {
				return reconcile.Result{}, nil
			}
			sa := &core.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: name}}
			_, err := client.Create(ctx, c, api.ServiceAccounts, sa)
			if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
				return reconcile.Result{}, fmt.Errorf("creating service account: %w", err)
			}
			return reconcile.Result{}, nil
		},
	}}
}
