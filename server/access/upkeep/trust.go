package upkeep

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// servingSigner names who signs the API server's own certificate.
const servingSigner = "kubernetes.io/kube-apiserver-serving"

// trustBundle publishes the authority of the API server's certificate, so that pods can
// mount it by the signer's name. Its bundle is named by the content: another authority
// makes another object, and the one before goes only when the new one is there.
func trustBundle(d Deps) reconcile.Spec {
	only := reconcile.Key{Name: servingSigner}
	return reconcile.Spec{
		Name: "kube-apiserver-serving-clustertrustbundle-publisher",
		Watches: []reconcile.Watch{reconcile.Map(api.ClusterTrustBundles, func(was, is *certificates.ClusterTrustBundle) []reconcile.Key {
			if b := either(was, is); b.Spec.SignerName != servingSigner {
				return nil
			}
			return []reconcile.Key{only}
		})},
		Source: func(_ context.Context, add func(...reconcile.Key)) error {
			add(only) // the first time nothing changes that would say so
			return nil
		},
		Do: func(ctx context.Context, _ reconcile.Key) (reconcile.Result, error) {
			return reconcile.Result{}, publish(ctx, d.Client, string(d.PKI.ServerCA()))
		},
	}
}

func either[T any](was, is *T) *T {
	if is != nil {
		return is
	}
	return was
}

// bundleName is upstream's: the signer, and the beginning of the content's hash.
func bundleName(signer, content string) string {
	sum := sha256.Sum256([]byte(content))
	return fmt.Sprintf("%s:%x", strings.ReplaceAll(signer, "/", ":"), sum[:12])
}

func publish(ctx context.Context, c *client.Client, content string) error {
	name := bundleName(servingSigner, content)
	if err := ensureBundle(ctx, c, name, content); err != nil {
		return fmt.Errorf("publishing the API server's authority: %w", err)
	}
	var errs []error
	for _, b := range client.CachedList(c, api.ClusterTrustBundles, "", nil) {
		if b.Spec.SignerName != servingSigner || b.Name == name {
			continue
		}
		if err := client.Delete(ctx, c, api.ClusterTrustBundles, "", b.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting the bundle %s of an earlier authority: %w", b.Name, err))
		}
	}
	return errors.Join(errs...)
}

func ensureBundle(ctx context.Context, c *client.Client, name, content string) error {
	have := client.Cached(c, api.ClusterTrustBundles, "", name)
	if have == nil {
		_, err := client.Create(ctx, c, api.ClusterTrustBundles, &certificates.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       certificates.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: content},
		})
		return err
	}
	if have.Spec.TrustBundle == content {
		return nil
	}
	next := have.DeepCopy()
	next.Spec.TrustBundle = content
	_, err := client.Update(ctx, c, api.ClusterTrustBundles, next)
	return err
}

// keepPodRequests is how long requests for certificates of pods stay, whatever came of
// them; a node takes what it asked for within minutes.
const keepPodRequests = 30 * time.Minute

// podRequestCleanup deletes the old ones.
func podRequestCleanup(d Deps) reconcile.Spec {
	return reconcile.Spec{
		Name: "podcertificaterequestcleaner", Watches: []reconcile.Watch{reconcile.For(api.PodCertificateRequests)},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			r := client.Cached(d.Client, api.PodCertificateRequests, k.Namespace, k.Name)
			if r == nil {
				return reconcile.Result{}, nil
			}
			if left := r.CreationTimestamp.Add(keepPodRequests).Sub(d.Now()); left > 0 {
				return reconcile.Result{After: left}, nil
			}
			err := client.Delete(ctx, d.Client, api.PodCertificateRequests, r.Namespace, r.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID}})
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return reconcile.Result{}, err
		},
	}
}
