package upkeep

import (
	"bytes"
	"context"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// passwordSuffix ends the names of node password secrets; server/join makes them.
const passwordSuffix = ".node-password.orch"

// tokenSecrets fills secrets of type kubernetes.io/service-account-token, and
// deletes those whose account is gone.
func tokenSecrets(d Deps) reconcile.Spec {
	c := d.Client
	own := func(o api.Object) bool {
		s, ok := o.(*core.Secret)
		return ok && s.Type == core.SecretTypeServiceAccountToken
	}
	secrets := reconcile.Watch{Kind: api.Secrets.Facts, Keys: func(ch client.Change) []reconcile.Key {
		if ch.New == nil || !own(ch.New) {
			return nil
		}
		return []reconcile.Key{{Namespace: ch.New.GetNamespace(), Name: ch.New.GetName()}}
	}}
	// Only an account that goes away concerns secrets that are filled already.
	accounts := reconcile.Watch{Kind: api.ServiceAccounts.Facts, Keys: func(ch client.Change) []reconcile.Key {
		if ch.New != nil || ch.Old == nil {
			return nil
		}
		var keys []reconcile.Key
		c.Each(api.Secrets.Facts, ch.Old.GetNamespace(), func(o api.Object) bool {
			if own(o) && o.GetAnnotations()[core.ServiceAccountNameKey] == ch.Old.GetName() {
				keys = append(keys, reconcile.Key{Namespace: o.GetNamespace(), Name: o.GetName()})
			}
			return true
		})
		return keys
	}}
	return reconcile.Spec{
		Name: "service-account-token", Watches: []reconcile.Watch{secrets, accounts},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			s := client.Cached(c, api.Secrets, k.Namespace, k.Name)
			if s == nil || !own(s) || s.DeletionTimestamp != nil {
				return reconcile.Result{}, nil
			}
			err := fillToken(ctx, d, s)
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return reconcile.Result{}, err
		},
	}
}

func fillToken(ctx context.Context, d Deps, s *core.Secret) error {
	name, uid := s.Annotations[core.ServiceAccountNameKey], s.Annotations[core.ServiceAccountUIDKey]
	sa := client.Cached(d.Client, api.ServiceAccounts, s.Namespace, name)
	if sa == nil || (uid != "" && uid != string(sa.UID)) {
		return client.Delete(ctx, d.Client, api.Secrets, s.Namespace, s.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &s.UID},
		})
	}
	ca := d.PKI.ServerCA()
	if uid != "" && len(s.Data[core.ServiceAccountTokenKey]) > 0 && bytes.Equal(s.Data[core.ServiceAccountRootCAKey], ca) && len(s.Data[core.ServiceAccountNamespaceKey]) > 0 {
		return nil
	}
	n := s.DeepCopy()
	if n.Data == nil {
		n.Data = map[string][]byte{}
	}
	if len(n.Data[core.ServiceAccountTokenKey]) == 0 {
		token, err := d.Access.Legacy(s.Namespace, sa.Name, string(sa.UID), s.Name)
		if err != nil {
			return err
		}
		n.Data[core.ServiceAccountTokenKey] = []byte(token)
	}
	n.Data[core.ServiceAccountRootCAKey] = ca
	n.Data[core.ServiceAccountNamespaceKey] = []byte(s.Namespace)
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	n.Annotations[core.ServiceAccountUIDKey] = string(sa.UID)
	_, err := client.Update(ctx, d.Client, api.Secrets, n)
	return err
}

// nodePasswords frees the name of a node that was deleted, so that another machine
// may join under it.
func nodePasswords(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "node-password",
		Watches: []reconcile.Watch{{Kind: api.Nodes.Facts, Keys: func(ch client.Change) []reconcile.Key {
			if ch.New != nil || ch.Old == nil {
				return nil
			}
			return []reconcile.Key{{Name: ch.Old.GetName()}}
		}}},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			if client.Cached(d.Client, api.Nodes, "", k.Name) != nil {
				return reconcile.Result{}, nil
			}
			err := client.Delete(ctx, d.Client, api.Secrets, api.NamespaceSystem, k.Name+passwordSuffix, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return reconcile.Result{}, err
		},
	}
}
