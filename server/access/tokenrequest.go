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
	"orch/server/audit"
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
func (a *Access) TokenSubresource(ctx context.Context, q registry.Request, parent api.Object, body runtime.Object) (runtime.Object, error) {
	req, ok := body.(*authn.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a TokenRequest, got a %T", body))
	}
	sa, ok := parent.(*core.ServiceAccount)
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, q.Name)
	}
	at := field.NewPath("metadata")
	switch {
	case req.Name != "" && req.Name != sa.Name:
		return nil, apierrors.NewInvalid(tokenRequestKind, sa.Name, field.ErrorList{field.Invalid(at.Child("name"), req.Name, "must match the service account name if specified")})
	case req.Namespace != "" && req.Namespace != sa.Namespace:
		return nil, apierrors.NewInvalid(tokenRequestKind, sa.Name, field.ErrorList{field.Invalid(at.Child("namespace"), req.Namespace, "must match the service account namespace if specified")})
	case req.UID != "" && req.UID != sa.UID:
		return nil, apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, sa.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, sa.UID))
	}
	out, id, err := a.issueToken(sa, req)
	if err == nil {
		audit.Annotate(ctx, "authentication.kubernetes.io/issued-credential-id", "JTI="+id)
	}
	return out, err
}

var tokenRequestKind = schema.GroupKind{Group: "authentication.k8s.io", Kind: "TokenRequest"}

// IssueToken completes req for the service account. Nothing is stored, so a dry
// run is no different.
func (a *Access) IssueToken(sa *core.ServiceAccount, req *authn.TokenRequest) (*authn.TokenRequest, error) {
	out, _, err := a.issueToken(sa, req)
	return out, err
}

// issueToken also names the token.
func (a *Access) issueToken(sa *core.ServiceAccount, req *authn.TokenRequest) (*authn.TokenRequest, string, error) {
	out := req.DeepCopy()
	if out.Spec.ExpirationSeconds == nil {
		out.Spec.ExpirationSeconds = new(int64(defaultTokenSeconds))
	}
	if len(out.Spec.Audiences) == 0 {
		out.Spec.Audiences = a.tokens.audiences
	}
	if err := validateTokenRequest(out); err != nil {
		return nil, "", err
	}
	bound, err := a.bind(sa, out.Spec.BoundObjectRef)
	if err != nil {
		return nil, "", err
	}
	now := a.cfg.Now()
	life := *out.Spec.ExpirationSeconds
	seconds := life
	if life == PodTokenSeconds && bound.Pod != nil && onlyOwn(out.Spec.Audiences, a.tokens.audiences) {
		bound.WarnAfter = jwt.NewNumericDate(now.Add(time.Duration(life) * time.Second))
		seconds = extendedSeconds
	}
	out.Name, out.Namespace, out.UID = sa.Name, sa.Namespace, sa.UID
	id := uuid.NewString()
	out.CreationTimestamp = metav1.NewTime(now)
	out.Status.ExpirationTimestamp = metav1.NewTime(now.Add(time.Duration(life) * time.Second).Truncate(time.Second))
	out.Status.Token, err = a.tokens.sign(claims{
		Claims: jwt.Claims{
			Issuer: a.tokens.issuer, Subject: serviceAccountUser(sa.Namespace, sa.Name), Audience: out.Spec.Audiences,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now),
			Expiry: jwt.NewNumericDate(now.Add(time.Duration(seconds) * time.Second)), ID: id,
		},
		Bound: bound,
	})
	if err != nil {
		return nil, "", apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	return out, id, nil
}

func onlyOwn(audiences, own []string) bool {
	for _, a := range audiences {
		if len(own) == 0 || a != own[0] {
			return false
		}
	}
	return true
}

func validateTokenRequest(r *authn.TokenRequest) error {
	var errs field.ErrorList
	path := field.NewPath("spec", "expirationSeconds")
	if *r.Spec.ExpirationSeconds < minTokenSeconds {
		errs = append(errs, field.Invalid(path, *r.Spec.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if *r.Spec.ExpirationSeconds > maxTokenSeconds {
		errs = append(errs, field.Invalid(path, *r.Spec.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(tokenRequestKind, "", errs)
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
	if gvk.Group != "" {
		return b, notBindable(gvk)
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
		return b, sameUID("Pod", ref, p.UID)
	case "Secret":
		s := client.Cached(a.cfg.Cache, api.Secrets, sa.Namespace, ref.Name)
		if s == nil {
			return b, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, ref.Name)
		}
		b.Secret = &named{s.Name, string(s.UID)}
		return b, sameUID("Secret", ref, s.UID)
	case "Node":
		n := client.Cached(a.cfg.Cache, api.Nodes, "", ref.Name)
		if n == nil {
			return b, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, ref.Name)
		}
		b.Node = &named{n.Name, string(n.UID)}
		return b, sameUID("Node", ref, n.UID)
	}
	return b, notBindable(gvk)
}

func notBindable(gvk schema.GroupVersionKind) error {
	return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
}

func sameUID(kind string, ref *authn.BoundObjectReference, have types.UID) error {
	if ref.UID == "" || ref.UID == have {
		return nil
	}
	return apierrors.NewConflict(schema.GroupResource{Resource: kind}, ref.Name,
		fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
}
