package bootstrap

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// testdata/upstream.txt is what the release of Kubernetes that we follow gives to whom,
// with its default feature gates. For another release:
//
//	go test ./server/bootstrap -run TestRolesAreThoseOfUpstream -upstream=DIR
//
// where DIR is plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata of its source.
var upstream = flag.String("upstream", "", "rewrite testdata/upstream.txt from upstream's files in this directory")

const golden = "testdata/upstream.txt"

// ownLines are what orch has and upstream has not, each with its reason.
var ownLines = map[string]string{
	"ClusterRoleBinding orch:node-proxier -> ClusterRole system:node-proxier: Group system:nodes": "proxy, DNS and overlay are parts of the agent and use its credential",
}

func TestRolesAreThoseOfUpstream(t *testing.T) {
	if *upstream != "" {
		rewrite(t, *upstream)
	}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var own []described
	for _, r := range clusterRoles() {
		own = append(own, described{"ClusterRole", r.ObjectMeta, r.Rules, r.AggregationRule, nil, nil})
	}
	for _, r := range roles() {
		own = append(own, described{"Role", r.ObjectMeta, r.Rules, nil, nil, nil})
	}
	for _, b := range clusterRoleBindings() {
		own = append(own, described{"ClusterRoleBinding", b.ObjectMeta, nil, nil, &b.RoleRef, b.Subjects})
	}
	for _, b := range roleBindings() {
		own = append(own, described{"RoleBinding", b.ObjectMeta, nil, nil, &b.RoleRef, b.Subjects})
	}
	got := slices.DeleteFunc(describe(own), func(line string) bool { return ownLines[line] != "" })
	want := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("lacks %s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("upstream has not %s", line)
		}
	}
}

// described is any object of RBAC.
type described struct {
	Kind              string `json:"kind"`
	metav1.ObjectMeta `json:"metadata"`
	Rules             []rbac.PolicyRule     `json:"rules"`
	AggregationRule   *rbac.AggregationRule `json:"aggregationRule"`
	RoleRef           *rbac.RoleRef         `json:"roleRef"`
	Subjects          []rbac.Subject        `json:"subjects"`
}

// describe writes a line for each thing granted, sorted: how rules are cut does not
// matter, only what they allow.
func describe(all []described) []string {
	var out []string
	for _, d := range all {
		name := strings.TrimPrefix(d.Namespace+"/"+d.Name, "/")
		head := d.Kind + " " + name
		if d.RoleRef != nil {
			var who []string
			for _, s := range d.Subjects {
				who = append(who, s.Kind+" "+strings.TrimPrefix(s.Namespace+"/"+s.Name, "/"))
			}
			slices.Sort(who)
			out = append(out, fmt.Sprintf("%s -> %s %s: %s", head, d.RoleRef.Kind, d.RoleRef.Name, strings.Join(who, ", ")))
			continue
		}
		out = append(out, head+": "+labels(d))
		granted := map[string]map[string]bool{}
		for _, r := range d.Rules {
			for _, what := range targets(r) {
				if granted[what] == nil {
					granted[what] = map[string]bool{}
				}
				for _, v := range r.Verbs {
					granted[what][v] = true
				}
			}
		}
		for what, verbs := range granted {
			out = append(out, fmt.Sprintf("%s: %s: %s", head, what, strings.Join(slices.Sorted(maps.Keys(verbs)), " ")))
		}
	}
	slices.Sort(out)
	return out
}

// labels are those of the object and what it aggregates.
func labels(d described) string {
	var out []string
	for k, v := range d.Labels {
		out = append(out, k+"="+v)
	}
	for k, v := range d.Annotations {
		out = append(out, k+"="+v)
	}
	if d.AggregationRule != nil {
		for _, s := range d.AggregationRule.ClusterRoleSelectors {
			out = append(out, "sum of "+metav1.FormatLabelSelector(&s))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// targets are what a rule speaks of, one by one.
func targets(r rbac.PolicyRule) []string {
	out := slices.Clone(r.NonResourceURLs)
	for _, g := range r.APIGroups {
		for _, res := range r.Resources {
			what := strings.TrimPrefix(g+"/"+res, "/")
			if len(r.ResourceNames) == 0 {
				out = append(out, what)
			}
			for _, n := range r.ResourceNames {
				out = append(out, what+" "+n)
			}
		}
	}
	return out
}

func rewrite(t *testing.T, dir string) {
	var all []described
	for _, name := range []string{"cluster-roles", "controller-roles", "namespace-roles", "cluster-role-bindings", "controller-role-bindings", "namespace-role-bindings"} {
		b, err := os.ReadFile(filepath.Join(dir, name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			Items []described `json:"items"`
		}
		if err := yaml.Unmarshal(b, &list); err != nil {
			t.Fatal(err)
		}
		all = append(all, list.Items...)
	}
	if err := os.WriteFile(golden, []byte(strings.Join(describe(all), "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
