package access

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	authn "k8s.io/api/authentication/v1"
	authz "k8s.io/api/authorization/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/api"
	"orch/server/registry"
)

// Install makes the registry ask a for reviews and tokens.
func (a *Access) Install(r *registry.Registry) {
	for f, fn := range map[*api.Facts]func(context.Context, registry.Request, runtime.Object) (runtime.Object, error){
		api.TokenReviews.Facts:              answer(a.tokenReview),
		api.SelfSubjectReviews.Facts:        answer(a.selfSubjectReview),
		api.SubjectAccessReviews.Facts:      answer(a.subjectAccessReview),
		api.LocalSubjectAccessReviews.Facts: answer(a.localSubjectAccessReview),
		api.SelfSubjectAccessReviews.Facts:  answer(a.selfSubjectAccessReview),
		api.SelfSubjectRulesReviews.Facts:   answer(a.selfSubjectRulesReview),
	} {
		r.SetCompute(f, fn)
	}
	r.SetSub(api.ServiceAccounts.Facts, "token", a.TokenSubresource)
}

// answer makes a typed review untyped; it works on a copy.
func answer[T any, P interface {
	*T
	runtime.Object
}](fn func(context.Context, registry.Request, P) error) func(context.Context, registry.Request, runtime.Object) (runtime.Object, error) {
	return func(ctx context.Context, q registry.Request, o runtime.Object) (runtime.Object, error) {
		in, ok := o.(P)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("not a %T: %T", in, o))
		}
		out := in.DeepCopyObject().(P)
		if err := fn(ctx, q, out); err != nil {
			return nil, err
		}
		return out, nil
	}
}

func (a *Access) tokenReview(ctx context.Context, _ registry.Request, r *authn.TokenReview) error {
	if r.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	r.Status = authn.TokenReviewStatus{}
	u, audiences, err := a.byToken(ctx, r.Spec.Token, r.Spec.Audiences)
	if err != nil {
		r.Status.Error = err.Error()
		if err != errNotValid {
			r.Status.Error = fmt.Sprintf("[%s, %s]", errNotValid, err)
		}
		return nil
	}
	r.Status.Authenticated = true
	r.Status.User = userInfo(authenticated(u))
	r.Status.Audiences = audiences
	return nil
}

func userInfo(u registry.User) authn.UserInfo {
	i := authn.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if i.Extra == nil {
			i.Extra = map[string]authn.ExtraValue{}
		}
		i.Extra[k] = v
	}
	return i
}

func (a *Access) selfSubjectReview(_ context.Context, q registry.Request, r *authn.SelfSubjectReview) error {
	r.CreationTimestamp = metav1.NewTime(a.cfg.Now())
	r.Status.UserInfo = userInfo(q.User)
	return nil
}

func (a *Access) subjectAccessReview(ctx context.Context, _ registry.Request, r *authz.SubjectAccessReview) error {
	if errs := append(checkSubject(&r.Spec), checkBare(r.ObjectMeta, "must be empty")...); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: "authorization.k8s.io", Kind: "SubjectAccessReview"}, "", errs)
	}
	r.Status = a.review(ctx, reviewUser(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return nil
}

func (a *Access) localSubjectAccessReview(ctx context.Context, q registry.Request, r *authz.LocalSubjectAccessReview) error {
	meta := r.ObjectMeta
	meta.Namespace = ""
	errs := append(checkSubject(&r.Spec), checkBare(meta, "must be empty except for namespace")...)
	if ra := r.Spec.ResourceAttributes; ra != nil && ra.Namespace != q.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), ra.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: "authorization.k8s.io", Kind: "LocalSubjectAccessReview"}, "", errs)
	}
	r.Status = a.review(ctx, reviewUser(&r.Spec), r.Spec.ResourceAttributes, nil)
	return nil
}

func (a *Access) selfSubjectAccessReview(ctx context.Context, q registry.Request, r *authz.SelfSubjectAccessReview) error {
	errs := append(checkOneOf(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), checkSelectors(r.Spec.ResourceAttributes)...)
	if errs = append(errs, checkBare(r.ObjectMeta, "must be empty")...); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: "authorization.k8s.io", Kind: "SelfSubjectAccessReview"}, "", errs)
	}
	r.Status = a.review(ctx, q.User, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return nil
}

func checkSubject(s *authz.SubjectAccessReviewSpec) field.ErrorList {
	errs := checkOneOf(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return append(errs, checkSelectors(s.ResourceAttributes)...)
}

// checkBare: a review has no metadata; what the server adds for field managers does not count.
func checkBare(m metav1.ObjectMeta, detail string) field.ErrorList {
	m.ManagedFields = nil
	if equality.Semantic.DeepEqual(m, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, detail)}
}

func checkOneOf(r *authz.ResourceAttributes, n *authz.NonResourceAttributes) field.ErrorList {
	if (r != nil) == (n != nil) {
		return field.ErrorList{field.Invalid(field.NewPath("spec"), n, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	return nil
}

func reviewUser(s *authz.SubjectAccessReviewSpec) registry.User {
	u := registry.User{Name: s.User, UID: s.UID, Groups: s.Groups}
	for k, v := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

func (a *Access) review(ctx context.Context, u registry.User, r *authz.ResourceAttributes, n *authz.NonResourceAttributes) authz.SubjectAccessReviewStatus {
	at := Attributes{User: u}
	if r != nil {
		at.Verb, at.Namespace, at.Group, at.Version = r.Verb, r.Namespace, r.Group, cmp.Or(r.Version, "*")
		at.Resource, at.Subresource, at.Name = r.Resource, r.Subresource, r.Name
		if r.FieldSelector != nil {
			at.FieldSelector = fieldSelectorText(r.FieldSelector)
		}
		if r.LabelSelector != nil {
			at.LabelSelector = labelSelectorText(r.LabelSelector)
		}
	} else {
		at.Verb, at.Path = n.Verb, n.Path
	}
	d := a.decide(ctx, &at)
	return authz.SubjectAccessReviewStatus{Allowed: d.allowed, Denied: d.denied, Reason: d.text()}
}

// reviewOf is a request as webhooks are asked about it.
func reviewOf(at *Attributes) authz.SubjectAccessReviewSpec {
	s := authz.SubjectAccessReviewSpec{User: at.User.Name, Groups: at.User.Groups, UID: at.User.UID}
	for k, v := range at.User.Extra {
		if s.Extra == nil {
			s.Extra = map[string]authz.ExtraValue{}
		}
		s.Extra[k] = v
	}
	if at.Resource == "" {
		s.NonResourceAttributes = &authz.NonResourceAttributes{Path: at.Path, Verb: at.Verb}
		return s
	}
	r := &authz.ResourceAttributes{Namespace: at.Namespace, Verb: at.Verb, Group: at.Group, Version: at.Version,
		Resource: at.Resource, Subresource: at.Subresource, Name: at.Name}
	if sel, err := fields.ParseSelector(at.FieldSelector); err == nil && !sel.Empty() {
		r.FieldSelector = &authz.FieldSelectorAttributes{}
		for _, q := range sel.Requirements() {
			op := metav1.FieldSelectorOpIn
			if q.Operator == selection.NotEquals {
				op = metav1.FieldSelectorOpNotIn
			}
			r.FieldSelector.Requirements = append(r.FieldSelector.Requirements, metav1.FieldSelectorRequirement{Key: q.Field, Operator: op, Values: []string{q.Value}})
		}
	}
	if sel, err := metav1.ParseToLabelSelector(at.LabelSelector); err == nil && at.LabelSelector != "" {
		r.LabelSelector = &authz.LabelSelectorAttributes{}
		for _, k := range slices.Sorted(maps.Keys(sel.MatchLabels)) {
			r.LabelSelector.Requirements = append(r.LabelSelector.Requirements, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{sel.MatchLabels[k]}})
		}
		r.LabelSelector.Requirements = append(r.LabelSelector.Requirements, sel.MatchExpressions...)
	}
	s.ResourceAttributes = r
	return s
}

// fieldSelectorText writes requirements as a selector; those that make none ask for more,
// not less.
func fieldSelectorText(s *authz.FieldSelectorAttributes) string {
	if s.RawSelector != "" {
		return s.RawSelector
	}
	var list fields.Requirements
	for _, r := range s.Requirements {
		if len(r.Values) != 1 {
			continue
		}
		switch r.Operator {
		case metav1.FieldSelectorOpIn:
			list = append(list, fields.Requirement{Field: r.Key, Operator: selection.Equals, Value: r.Values[0]})
		case metav1.FieldSelectorOpNotIn:
			list = append(list, fields.Requirement{Field: r.Key, Operator: selection.NotEquals, Value: r.Values[0]})
		}
	}
	return FieldSelector(list)
}

// FieldSelector writes requirements as the selector that a request would send.
func FieldSelector(list fields.Requirements) string {
	terms := make([]fields.Selector, 0, len(list))
	for _, r := range list {
		if r.Operator == selection.NotEquals {
			terms = append(terms, fields.OneTermNotEqualSelector(r.Field, r.Value))
		} else {
			terms = append(terms, fields.OneTermEqualSelector(r.Field, r.Value))
		}
	}
	return fields.AndSelectors(terms...).String()
}

// labelSelectorText writes requirements as a selector; those that make none ask for more, not less.
func labelSelectorText(s *authz.LabelSelectorAttributes) string {
	if s.RawSelector != "" {
		return s.RawSelector
	}
	text := labels.NewSelector()
	for _, r := range s.Requirements {
		one, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{r}})
		if err != nil {
			continue
		}
		list, _ := one.Requirements()
		text = text.Add(list...)
	}
	return text.String()
}

// checkSelectors follows upstream's validation of both kinds of selectors.
func checkSelectors(r *authz.ResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("spec.resourceAttributes")
	if r == nil {
		return nil
	}
	if s := r.FieldSelector; s != nil {
		errs = append(errs, checkSelector(at.Child("fieldSelector"), s.RawSelector, len(s.Requirements))...)
		for i, q := range s.Requirements {
			errs = append(errs, metavalidation.ValidateFieldSelectorRequirement(q, metavalidation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true},
				at.Child("fieldSelector", "requirements").Index(i))...)
		}
	}
	if s := r.LabelSelector; s != nil {
		errs = append(errs, checkSelector(at.Child("labelSelector"), s.RawSelector, len(s.Requirements))...)
		for i, q := range s.Requirements {
			errs = append(errs, metavalidation.ValidateLabelSelectorRequirement(q, metavalidation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true},
				at.Child("labelSelector", "requirements").Index(i))...)
		}
	}
	return errs
}

func checkSelector(at *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))}
	}
	return nil
}

func (a *Access) selfSubjectRulesReview(_ context.Context, q registry.Request, r *authz.SelfSubjectRulesReview) error {
	if r.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	rules, incomplete, problems := a.enumerate(q.User, r.Spec.Namespace)
	r.Spec = authz.SelfSubjectRulesReviewSpec{} // the answer is about the asker and says no more, upstream's
	r.Status = authz.SubjectRulesReviewStatus{ResourceRules: []authz.ResourceRule{}, NonResourceRules: []authz.NonResourceRule{}, Incomplete: incomplete}
	for _, p := range rules {
		if len(p.Resources) > 0 {
			r.Status.ResourceRules = append(r.Status.ResourceRules, authz.ResourceRule{Verbs: p.Verbs, APIGroups: p.APIGroups, Resources: p.Resources, ResourceNames: p.ResourceNames})
		}
		if len(p.NonResourceURLs) > 0 {
			r.Status.NonResourceRules = append(r.Status.NonResourceRules, authz.NonResourceRule{Verbs: p.Verbs, NonResourceURLs: p.NonResourceURLs})
		}
	}
	if len(problems) > 0 {
		r.Status.EvaluationError = aggregate(problems)
	}
	return nil
}

// enumerate asks every authorizer for the rules that it would go by; incomplete is true
// where one does not go by rules.
func (a *Access) enumerate(u registry.User, namespace string) (rules []rbac.PolicyRule, incomplete bool, problems []string) {
	for _, z := range a.settings.Load().chain {
		switch z.kind {
		case "Node":
			if _, is := nodeOf(u); is {
				incomplete, problems = true, append(problems, "node authorizer does not support user rule resolution")
			}
		case "Webhook":
			incomplete, problems = true, append(problems, "webhook authorizer does not support user rule resolution")
		case "AlwaysAllow":
			rules = append(rules, everything...)
		case "RBAC":
			granted, missing := a.RulesFor(u, namespace)
			rules = append(rules, granted...)
			if len(missing) > 0 {
				problems = append(problems, aggregate(missing))
			}
		}
	}
	return rules, incomplete, problems
}

// RulesFor lists all rules that bindings give a user in a namespace ("" for cluster-wide
// ones only), and what is wrong with bindings that could not be followed.
func (a *Access) RulesFor(u registry.User, namespace string) ([]rbac.PolicyRule, []string) {
	var rules []rbac.PolicyRule
	missing := a.rbac.each(u, namespace, func(_ grant, r []rbac.PolicyRule) bool {
		rules = append(rules, r...)
		return true
	})
	return rules, missing
}

var everything = []rbac.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}
