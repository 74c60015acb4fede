package upkeep

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/server/access"
)

// Names of the ConfigMap that machines read before they trust anything, upstream's.
const (
	clusterInfo     = "cluster-info"
	clusterInfoText = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

func isBootstrapToken(o api.Object) bool {
	s, ok := o.(*core.Secret)
	return ok && s.Namespace == api.NamespaceSystem && s.Type == core.SecretTypeBootstrapToken
}

// tokenCleaner deletes bootstrap tokens when their time is over.
func tokenCleaner(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "token-cleaner",
		Watches: []reconcile.Watch{{Kind: api.Secrets.Facts, Keys: func(ch client.Change) []reconcile.Key {
			if ch.New == nil || !isBootstrapToken(ch.New) {
				return nil
			}
			return []reconcile.Key{{Namespace: ch.New.GetNamespace(), Name: ch.New.GetName()}}
		}}},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			s := client.Cached(d.Client, api.Secrets, k.Namespace, k.Name)
			if s == nil || !isBootstrapToken(s) || s.DeletionTimestamp != nil {
				return reconcile.Result{}, nil
			}
			text := string(s.Data["expiration"])
			if text == "" {
				return reconcile.Result{}, nil
			}
			// A time that cannot be read counts as over, as upstream has it.
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				if left := at.Sub(d.Now()); left > 0 {
					return reconcile.Result{After: left}, nil
				}
			}
			err := client.Delete(ctx, d.Client, api.Secrets, s.Namespace, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return reconcile.Result{}, err
		},
	}
}

// bootstrapSigner keeps a signature of cluster-info by every bootstrap token for signing.
func bootstrapSigner(d Deps) reconcile.Spec {
	key := reconcile.Key{Namespace: "kube-public", Name: clusterInfo}
	return reconcile.Spec{
		Name: "bootstrap-signer",
		Watches: []reconcile.Watch{
			{Kind: api.ConfigMaps.Facts, Keys: func(ch client.Change) []reconcile.Key {
				if ch.New == nil || ch.New.GetNamespace() != key.Namespace || ch.New.GetName() != key.Name {
					return nil
				}
				return []reconcile.Key{key}
			}},
			{Kind: api.Secrets.Facts, Keys: func(ch client.Change) []reconcile.Key {
				if ch.New != nil && isBootstrapToken(ch.New) || ch.Old != nil && isBootstrapToken(ch.Old) {
					return []reconcile.Key{key}
				}
				return nil
			}},
		},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			m := client.Cached(d.Client, api.ConfigMaps, k.Namespace, k.Name)
			if m == nil || m.Data[clusterInfoText] == "" {
				return reconcile.Result{}, nil
			}
			data := signed(m.Data, client.CachedList(d.Client, api.Secrets, api.NamespaceSystem, nil), d.Now())
			if maps.Equal(data, m.Data) {
				return reconcile.Result{}, nil
			}
			n := m.DeepCopy()
			n.Data = data
			_, err := client.Update(ctx, d.Client, api.ConfigMaps, n)
			return reconcile.Result{}, err
		},
	}
}

// signed is pure: data with the signatures of the tokens that there are, and no others.
func signed(data map[string]string, secrets []*core.Secret, now time.Time) map[string]string {
	out := map[string]string{}
	for k, v := range data {
		if !strings.HasPrefix(k, signaturePrefix) {
			out[k] = v
		}
	}
	for _, s := range secrets {
		id, secret := string(s.Data["token-id"]), string(s.Data["token-secret"])
		if !isBootstrapToken(s) || s.Name != access.BootstrapPrefix+id || secret == "" || string(s.Data["usage-bootstrap-signing"]) != "true" {
			continue
		}
		if at, err := time.Parse(time.RFC3339, string(s.Data["expiration"])); len(s.Data["expiration"]) > 0 && (err != nil || !now.Before(at)) {
			continue
		}
		out[signaturePrefix+id] = detached(data[clusterInfoText], id, secret)
	}
	return out
}

// detached signs without repeating what is signed: header..signature, a JWS by HS256. It
// gives the same each time. Libraries refuse such short keys; upstream's form has them.
func detached(content, id, secret string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	header := b64(fmt.Appendf(nil, `{"alg":"HS256","kid":%q}`, id))
	mac := hmac.New(sha256.New, []byte(id+"."+secret))
	_, _ = mac.Write([]byte(header + "." + b64([]byte(content)))) // a hash takes everything
	return header + ".." + b64(mac.Sum(nil))
}
