// Package rootca publishes the cluster's CA certificate in every namespace, as
// the ConfigMap kube-root-ca.crt that pods mount beside their tokens.
// Start reading at Specs.
package rootca

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

const (
	dataKey = "ca.crt"
	// descriptionAnnotation is for people who find the object.
	descriptionAnnotation = "kubernetes.io/description"
	description           = "The certificate authority that signs this cluster's API server. Pods check the server's certificate with it."
)

// Specs is the publisher of the CA's PEM; its keys are namespaces.
func Specs(c *client.Client, pem []byte) []reconcile.Spec {
	p := publisher{c, string(pem)}
	return []reconcile.Spec{{Name: "rootca", Workers: 2, Do: p.do, Watches: []reconcile.Watch{
		reconcile.For(api.Namespaces),
		reconcile.Map(api.ConfigMaps, func(was, is *core.ConfigMap) []reconcile.Key {
			if is == nil {
				is = was
			}
			if is.Name != api.RootCAConfigMap {
				return nil
			}
			return []reconcile.Key{{Name: is.Namespace}}
		}),
	}}}
}

type publisher struct {
	client *client.Client
	pem    string
}

func (p publisher) do(ctx context.Context, key reconcile.Key) (reconcile.Result, error) {
	ns := client.Cached(p.client, api.Namespaces, "", key.Name)
	if ns == nil || ns.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	now := client.Cached(p.client, api.ConfigMaps, ns.Name, api.RootCAConfigMap)
	if now == nil {
		return reconcile.Result{}, p.create(ctx, ns.Name)
	}
	if len(now.Data) == 1 && now.Data[dataKey] == p.pem && len(now.BinaryData) == 0 {
		return reconcile.Result{}, nil
	}
	next := now.DeepCopy()
	next.Data, next.BinaryData = map[string]string{dataKey: p.pem}, nil
	if _, err := client.Update(ctx, p.client, api.ConfigMaps, next); err != nil {
		return reconcile.Result{}, fmt.Errorf("restoring %s: %w", api.RootCAConfigMap, err)
	}
	return reconcile.Result{}, nil
}

func (p publisher) create(ctx context.Context, namespace string) error {
	_, err := client.Create(ctx, p.client, api.ConfigMaps, &core.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: api.RootCAConfigMap, Annotations: map[string]string{descriptionAnnotation: description}},
		Data:       map[string]string{dataKey: p.pem},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, core.NamespaceTerminatingCause) {
		return fmt.Errorf("creating %s: %w", api.RootCAConfigMap, err)
	}
	return nil
}
