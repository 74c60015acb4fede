package upkeep

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
)

// aggregation fills the rules of ClusterRoles that have an aggregationRule.
func aggregation(d Deps) reconcile.Spec {
	c := d.Client
	sums := func(client.Change) []reconcile.Key {
		var keys []reconcile.Key
		c.Each(api.ClusterRoles.Facts, "", func(o api.Object) bool {
			if o.(*rbac.ClusterRole).AggregationRule != nil {
				keys = append(keys, reconcile.Key{Name: o.GetName()})
			}
			return true
		})
		return keys
	}
	return reconcile.Spec{
		Name: "clusterrole-aggregation", Watches: []reconcile.Watch{{Kind: api.ClusterRoles.Facts, Keys: sums}},
		Do: func(ctx context.Context, k reconcile.Key) (reconcile.Result, error) {
			r := client.Cached(c, api.ClusterRoles, "", k.Name)
			if r == nil || r.AggregationRule == nil {
				return reconcile.Result{}, nil
			}
			rules, err := sum(r, client.CachedList(c, api.ClusterRoles, "", nil))
			if err != nil {
				return reconcile.Result{}, reconcile.Terminal(err)
			}
			if equality.Semantic.DeepEqual(rules, r.Rules) {
				return reconcile.Result{}, nil
			}
			err = applyRules(ctx, c, r.Name, rules)
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return reconcile.Result{}, err
		},
	}
}

// applyRules owns the rules and nothing else of the role, so that whoever applies it can leave
// them out.
func applyRules(ctx context.Context, c *client.Client, name string, rules []rbac.PolicyRule) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": rbac.SchemeGroupVersion.String(), "kind": api.ClusterRoles.Kind, "metadata": map[string]string{"name": name}, "rules": rules,
	})
	if err != nil {
		return err
	}
	t := client.Target{Kind: api.ClusterRoles.Facts, Name: name}
	_, err = c.Patch(ctx, t, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "clusterrole-aggregation-controller", Force: new(true)})
	return err
}

// sum is pure: the rules of all roles that one of the selectors takes, by name,
// each rule once.
func sum(r *rbac.ClusterRole, all []*rbac.ClusterRole) ([]rbac.PolicyRule, error) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *rbac.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	rules := []rbac.PolicyRule{}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		sel, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, o := range all {
			if o.Name == r.Name || !sel.Matches(labels.Set(o.Labels)) {
				continue
			}
			for _, p := range o.Rules {
				if !slices.ContainsFunc(rules, func(h rbac.PolicyRule) bool { return equality.Semantic.DeepEqual(h, p) }) {
					rules = append(rules, p)
				}
			}
		}
	}
	return rules, nil
}
