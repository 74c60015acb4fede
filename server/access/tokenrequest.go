package access

import (
	"context"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/api/client"
	"orch/server/registry"
)

const (
	minTokenSeconds     = 10 * 60
	maxTokenSeconds     = 1 << 32
	defaultTokenSeconds = 3600
	// PodTokenSeconds is the odd life that marks the tokens admission puts into
	// pods. Clients that never read their token again get a year instead; the
	// token says from when on they deserve a warning.
	PodTokenSeconds = 3607
	extendedSeconds = 365 * 24 * 3600
)

// TokenSubresource answers a create of serviceaccounts/token.
func (a *Access) TokenSubresource(_ context.Context, q registry.Request, parent api.Object, body runtime.Object) (runtime.Object, error) {
	req, ok := body.(*authn.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a TokenRequest, got a %T", body))
	}
	sa, ok := parent.(*core.ServiceAccount)
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, q.Name)
	}
	if req.Name != "" && req.Name != sa.Name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("metadata.name in the token request (%s) does not match the service account name (%s)", req.Name, sa.Name))
	}
	if req.Namespace != "" && req.Namespace != sa.Namespace {
		return nil, apierrors.NewBadRequest("namespace in the token request does not match the service account's namespace")
	}
	return a.IssueToken(sa, req)
}

// IssueToken completes req for the service account. Nothing is stored, so a dry
// run is no different.
func (a *Access) IssueToken(sa *core.ServiceAccount, req *authn.TokenRequest) (*authn.TokenRequest, error) {
	out := req.DeepCopy()
	if out.Spec.ExpirationSeconds == nil {
		out.Spec.ExpirationSeconds = new(int64(defaultTokenSeconds))
	}
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = a.tokens.audiences
	}
	if err := validateTokenRequest(sa.Name, out); err != nil {
		return nil, err
	}
	bound, err := a.bind(sa, out.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	now := a.cfg.Now()
	life := *out.Spec.ExpirationSeconds
	seconds := life
	if life == PodTokenSeconds && bound.Pod != nil && onlyOwn(out.Spec.Audiences, a.tokens.audiences) {
		bound.WarnAfter = jwt.NewNumericDate(now.Add(time.Duration(life) * time.Second))
		seconds = extendedSeconds
	}
	out.Name, out.Namespace = sa.Name, sa.Namespace
	out.CreationTimestamp = metav1.NewTime(now)
	out.Status.ExpirationTimestamp = metav1.NewTime(now.Add(time.Duration(life) * time.Second).Truncate(time.Second))
	out.Status.Token, err = a.tokens.sign(claims{
		Claims: jwt.Claims{
			Issuer: a.tokens.issuer, Subject: serviceAccountUser(sa.Namespace, sa.Name), Audience: out.Spec.Audiences,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now),
			Expiry: jwt.NewNumericDate(now.Add(time.Duration(seconds) * time.Second)), ID: uuid.NewString(),
		},
		Bound: bound,
	})
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	return out, nil
}

func onlyOwn(audiences, own []string) bool {
	for _, a := range audiences {
		if len(own) == 0 || a != own[0] {
			return false
		}
	}
	return true
}

func validateTokenRequest(name string, r *authn.TokenRequest) error {
	var errs field.ErrorList
	path := field.NewPath("spec", "expirationSeconds")
	if *r.Spec.ExpirationSeconds < minTokenSeconds {
		errs = append(errs, field.Invalid(path, *r.Spec.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if *r.Spec.ExpirationSeconds > maxTokenSeconds {
		errs = append(errs, field.Invalid(path, *r.Spec.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: "authentication.k8s.io", Kind: "TokenRequest"}, name, errs)
	}
	return nil
}

// bind looks up what the token shall live and die with.
func (a *Access) bind(sa *core.ServiceAccount, ref *authn.BoundObjectReference) (boundTo, error) {
	b := boundTo{Namespace: sa.Namespace, Account: named{sa.Name, string(sa.UID)}}
	if ref == nil {
		return b, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	if gvk.Group != "" || gvk.Version != "v1" {
		return b, notBindable(sa.Name, gvk)
	}
	switch gvk.Kind {
	case "Pod":
		p := client.Cached(a.cfg.Cache, api.Pods, sa.Namespace, ref.Name)
		if p == nil {
			return b, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, ref.Name)
		}
		if p.Spec.ServiceAccountName != sa.Name {
			return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		b.Pod = &named{p.Name, string(p.UID)}
		if p.Spec.NodeName != "" {
			b.Node = &named{Name: p.Spec.NodeName}
			if n := client.Cached(a.cfg.Cache, api.Nodes, "", p.Spec.NodeName); n != nil {
				b.Node.UID = string(n.UID)
			}
		}
		return b, sameUID("pods", ref, p.UID)
	case "Secret":
		s := client.Cached(a.cfg.Cache, api.Secrets, sa.Namespace, ref.Name)
		if s == nil {
			return b, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, ref.Name)
		}
		b.Secret = &named{s.Name, string(s.UID)}
		return b, sameUID("secrets", ref, s.UID)
	case "Node":
		n := client.Cached(a.cfg.Cache, api.Nodes, "", ref.Name)
		if n == nil {
			return b, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, ref.Name)
		}
		b.Node = &named{n.Name, string(n.UID)}
		return b, sameUID("nodes", ref, n.UID)
	}
	return b, notBindable(sa.Name, gvk)
}

func notBindable(account string, gvk schema.GroupVersionKind) error {
	return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to object type %s", account, gvk.String()))
}

func sameUID(resource string, ref *authn.BoundObjectReference, have types.UID) error {
	if ref.UID == "" || ref.UID == have {
		return nil
	}
	return apierrors.NewConflict(schema.GroupResource{Resource: resource}, ref.Name,
		fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
}
