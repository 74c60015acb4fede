package admission

import (
	"context"
	"fmt"
	"slices"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

// immortal namespaces may not be deleted.
var immortal = []string{api.NamespaceDefault, api.NamespaceSystem, api.NamespacePublic}

// namespaceLifecycle: nothing is written into a namespace that does not exist,
// nothing new into one that ends.
func (l *List) namespaceLifecycle(_ context.Context, a *registry.Attributes) error {
	if a.Resource.Facts == api.Namespaces.Facts {
		if a.Operation == registry.Delete && a.Subresource == "" && slices.Contains(immortal, a.Name) {
			return forbid(a, "this namespace may not be deleted")
		}
		return nil
	}
	if a.Resource.Cluster || a.Namespace == "" || a.Operation == registry.Delete || a.Resource.Facts == api.LocalSubjectAccessReviews.Facts {
		return nil
	}
	ns := client.Cached(l.cache, api.Namespaces, "", a.Namespace)
	if ns == nil {
		return apierrors.NewNotFound(api.Namespaces.GroupResource(), a.Namespace)
	}
	if a.Operation != registry.Create || ns.Status.Phase != core.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	err := forbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: core.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace), Field: "metadata.namespace",
	})
	return err
}
