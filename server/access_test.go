package server

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	authz "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	storage "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

const rbacPath = "/apis/rbac.authorization.k8s.io/v1/"

// granted gives a user rules in the whole cluster.
func granted(t *testing.T, admin *caller, user, rules string) {
	t.Helper()
	name := "for-" + strings.ReplaceAll(user, ":", "-")
	setUp(t, admin,
		[2]string{rbacPath + "clusterroles", `{"metadata":{"name":"` + name + `"},"rules":[` + rules + `]}`},
		[2]string{rbacPath + "clusterrolebindings", `{"metadata":{"name":"` + name + `"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"` + name + `"},"subjects":[{"kind":"User","name":"` + user + `","apiGroup":"rbac.authorization.k8s.io"}]}`})
}

// TestRolesAreWrittenByThoseWhoHold: what is refused at a create is refused at every other write too.
func TestRolesAreWrittenByThoseWhoHold(t *testing.T) {
	s, admin := admitted(t)
	granted(t, admin, "alice", `{"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles","rolebindings","clusterroles","clusterrolebindings"],"verbs":["create","update","patch","get"]},{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]}`)
	granted(t, admin, "eve", `{"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles"],"verbs":["create","update","patch","get"]},{"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles"],"resourceNames":["free","new"],"verbs":["escalate"]}`)
	granted(t, admin, "bert", `{"apiGroups":["rbac.authorization.k8s.io"],"resources":["rolebindings"],"verbs":["create","patch","get"]},{"apiGroups":["rbac.authorization.k8s.io"],"resources":["clusterroles"],"resourceNames":["edit"],"verbs":["bind"]}`)
	role := func(name, verbs string) string {
		return `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"` + name + `"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":[` + verbs + `]}]}`
	}
	binding := func(name, role string) string {
		return `{"metadata":{"name":"` + name + `"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"` + role + `"},"subjects":[{"kind":"User","name":"bob","apiGroup":"rbac.authorization.k8s.io"}]}`
	}
	setUp(t, admin,
		[2]string{rbacPath + "namespaces/a/roles", role("strong", `"get","delete"`)}, [2]string{rbacPath + "namespaces/a/roles", role("free", `"get"`)},
		[2]string{rbacPath + "namespaces/a/rolebindings", binding("strong", "cluster-admin")},
		[2]string{rbacPath + "clusterroles", `{"metadata":{"name":"sum"},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"x":"y"}}]},"rules":[]}`})
	const lacks = "user \"alice\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n"
	const deletes = lacks + `{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}`
	alice, eve, bert := user(t, s, "alice"), user(t, s, "eve"), user(t, s, "bert")
	roles, bindings := rbacPath+"namespaces/a/roles", rbacPath+"namespaces/a/rolebindings"
	for _, tc := range []struct {
		name             string
		who              *caller
		verb, path, body string
		code             int
		says             string
	}{
		{"update", alice, "PUT", roles + "/free", role("free", `"delete"`), 403, `roles.rbac.authorization.k8s.io "free" is forbidden: ` + deletes},
		{"update that creates", alice, "PUT", roles + "/born", role("born", `"delete"`), 403, deletes},
		{"patch", alice, "PATCH", roles + "/free", `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["delete"]}]}`, 403, deletes},
		{"apply", alice, "APPLY", roles + "/applied", role("applied", `"delete"`), 403, deletes},
		{"apply what she holds", alice, "APPLY", roles + "/applied", role("applied", `"list"`), 201, ""},
		{"label of a role that is more than she has", alice, "PATCH", roles + "/strong", `{"metadata":{"labels":{"a":"b"}}}`, 403, deletes},
		{"its finalizers, as the collector does", alice, "PATCH", roles + "/strong", `{"metadata":{"finalizers":["a.example/b"]}}`, 200, ""},
		{"several missing are told by name of the resource", alice, "POST", rbacPath + "clusterroles", `{"metadata":{"name":"many"},"rules":[{"apiGroups":["apps",""],"resources":["deployments","secrets"],"verbs":["get","list"]},{"nonResourceURLs":["/metrics"],"verbs":["get"]}]}`, 403,
			lacks + `{APIGroups:[""], Resources:["deployments"], Verbs:["get" "list"]}` + "\n" + `{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}` + "\n" +
				`{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}` + "\n" + `{APIGroups:["apps"], Resources:["secrets"], Verbs:["get" "list"]}` + "\n" + `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
		{"aggregation, taken off", alice, "PATCH", rbacPath + "clusterroles/sum", `{"aggregationRule":null}`, 403, "must have cluster-admin privileges to use the aggregationRule"},
		{"aggregation, a label of its role", alice, "PATCH", rbacPath + "clusterroles/sum", `{"metadata":{"labels":{"a":"b"}}}`, 403, "must have cluster-admin privileges to use the aggregationRule"},
		{"label of a binding of more than she has", alice, "PATCH", bindings + "/strong", `{"metadata":{"labels":{"a":"b"}}}`, 403, "is attempting to grant RBAC permissions not currently held"},
		{"another subject", alice, "PATCH", bindings + "/strong", `{"subjects":[{"kind":"User","name":"alice","apiGroup":"rbac.authorization.k8s.io"}]}`, 403, lacks + `{APIGroups:["*"], Resources:["*"], Verbs:["*"]}` + "\n" + `{NonResourceURLs:["*"], Verbs:["*"]}`},
		{"apply a binding", alice, "APPLY", bindings + "/mine", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding",` + binding("mine", "cluster-admin")[1:], 403, lacks},
		{"cluster binding", alice, "POST", rbacPath + "clusterrolebindings", binding("mine", "edit"), 403, lacks},
		{"escalate by name", eve, "PUT", roles + "/free", role("free", `"delete"`), 200, ""},
		{"escalate by name creates at its path", eve, "PUT", roles + "/new", role("new", `"delete"`), 201, ""},
		{"escalate by name is not for posts", eve, "POST", roles, role("free2", `"delete"`), 403, `user "eve"`},
		{"escalate another", eve, "PUT", roles + "/strong", role("strong", `"get"`), 403, `user "eve"`},
		{"bind by name", bert, "POST", bindings, binding("b", "edit"), 201, ""},
		{"bind another", bert, "POST", bindings, binding("c", "admin"), 403, `user "bert"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, text := tc.who.sent(tc.verb, tc.path, tc.body)
			if code != tc.code || !strings.Contains(text, tc.says) {
				t.Errorf("got %d %s\nwant %d %s", code, text, tc.code, tc.says)
			}
		})
	}
}

// sent is message with APPLY for a patch by the server.
func (c *caller) sent(verb, path, body string) (int, string) {
	c.t.Helper()
	if verb != "APPLY" {
		return c.message(verb, path, body)
	}
	r, err := http.NewRequest("PATCH", c.s.url()+path+"?fieldManager=test", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header = c.header.Clone()
	r.Header.Set("Content-Type", "application/apply-patch+yaml")
	resp, err := c.http.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var st metav1.Status
	if json.Unmarshal(b, &st) == nil && st.Kind == "Status" {
		return resp.StatusCode, st.Message
	}
	return resp.StatusCode, string(b)
}

func TestAggregatedRolesFollowTheirParts(t *testing.T) {
	s, admin := admitted(t)
	c := s.Client("test", api.GroupMasters)
	has := func(role, resource string) func() bool {
		return func() bool {
			for _, r := range client.Cached(c, api.ClusterRoles, "", role).Rules {
				for _, x := range r.Resources {
					if x == resource {
						return true
					}
				}
			}
			return false
		}
	}
	part := rbacPath + "clusterroles"
	setUp(t, admin, [2]string{part, `{"metadata":{"name":"gadget-viewer","labels":{"rbac.authorization.k8s.io/aggregate-to-view":"true"}},"rules":[{"apiGroups":["example.com"],"resources":["gadgets"],"verbs":["get"]}]}`})
	for _, role := range []string{"view", "edit", "admin"} {
		waitFor(t, role+" to hold gadgets", has(role, "gadgets"))
	}
	if code, m := admin.message("PATCH", part+"/gadget-viewer", `{"rules":[{"apiGroups":["example.com"],"resources":["gizmos"],"verbs":["get"]}]}`); code != 200 {
		t.Fatal(code, m)
	}
	waitFor(t, "admin to hold gizmos", has("admin", "gizmos"))
	if has("view", "gadgets")() {
		t.Error("a rule that was taken away is still there")
	}
	if code, m := admin.message("PATCH", part+"/gadget-viewer", `{"metadata":{"labels":{"rbac.authorization.k8s.io/aggregate-to-view":null}}}`); code != 200 {
		t.Fatal(code, m)
	}
	waitFor(t, "admin to lose gizmos", func() bool { return !has("admin", "gizmos")() })
	// Rules of one's own are written over: the parts alone count.
	if code, m := admin.message("PATCH", part+"/view", `{"rules":[{"apiGroups":["example.com"],"resources":["widgets"],"verbs":["get"]}]}`); code != 200 {
		t.Fatal(code, m)
	}
	waitFor(t, "view to be summed up again", func() bool { return !has("view", "widgets")() && has("view", "pods")() })
}

func TestSelectorsInReviews(t *testing.T) {
	s := nodes(t)
	admin := user(t, s, "admin", api.GroupMasters)
	const path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
	ask := func(resource, selector string) string {
		return `{"spec":{"user":"system:node:n1","groups":["system:nodes"],"resourceAttributes":{"verb":"list","resource":"` + resource + `",` + selector + `}}}`
	}
	for _, tc := range []struct {
		name, body string
		code       int
		says       string
	}{
		{"its pods", ask("pods", `"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["n1"]}]}`), 201, `"allowed":true`},
		{"its pods, raw", ask("pods", `"fieldSelector":{"rawSelector":"spec.nodeName=n1"}`), 201, `"allowed":true`},
		{"all others", ask("pods", `"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"NotIn","values":["n1"]}]}`), 201, `"allowed":false`},
		{"several values ask for more", ask("pods", `"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["n1","n2"]}]}`), 201, `"allowed":false`},
		{"an operator of later asks for more", ask("pods", `"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"Near","values":["n1"]}]}`), 201, `"allowed":false`},
		{"a raw one that is none", ask("pods", `"fieldSelector":{"rawSelector":"spec.nodeName"}`), 201, `"allowed":false`},
		{"both", ask("pods", `"fieldSelector":{"rawSelector":"a=b","requirements":[{"key":"a","operator":"In","values":["b"]}]}`), 422, `spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: "a=b": may not specified at the same time as requirements`},
		{"neither", ask("pods", `"labelSelector":{}`), 422, `spec.resourceAttributes.labelSelector.requirements: Required value: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required`},
		{"no values", ask("pods", `"labelSelector":{"requirements":[{"key":"a","operator":"In"}]}`), 422, `spec.resourceAttributes.labelSelector.requirements[0].values: Required value`},
		{"nothing asked", `{"spec":{"user":"x"}}`, 422, "spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"both asked", `{"spec":{"user":"x","resourceAttributes":{"verb":"get","resource":"pods"},"nonResourceAttributes":{"verb":"get","path":"/"}}}`, 422, "exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"with a name", `{"metadata":{"name":"x"},"spec":{"user":"x","nonResourceAttributes":{"verb":"get","path":"/"}}}`, 422, "must be empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, body := admin.do("POST", path, tc.body); code != tc.code || !strings.Contains(strings.ReplaceAll(body, `\"`, `"`), tc.says) {
				t.Errorf("got %d %s\nwant %d with %s", code, body, tc.code, tc.says)
			}
		})
	}
}

func TestRulesReviewSaysWhatItLeavesOut(t *testing.T) {
	s := nodes(t)
	review := func(c *caller) (r authz.SelfSubjectRulesReview) {
		t.Helper()
		code, body := c.do("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"spec":{"namespace":"default"}}`)
		if code != 201 {
			t.Fatal(code, body)
		}
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	n1 := review(user(t, s, "system:node:n1", api.GroupNodes))
	if !n1.Status.Incomplete || n1.Status.EvaluationError != "node authorizer does not support user rule resolution" {
		t.Errorf("%+v", n1.Status)
	}
	root := review(user(t, s, "root", api.GroupMasters)).Status
	if root.Incomplete || root.EvaluationError != "" || len(root.ResourceRules) == 0 || root.ResourceRules[0].Verbs[0] != "*" {
		t.Errorf("%+v", root)
	}
	s = start(t, memory.New(), func(c *Config) { c.Access.AuthorizationModes = []string{"AlwaysAllow"} })
	if all := review(user(t, s, "bob")).Status; len(all.ResourceRules) != 1 || len(all.NonResourceRules) != 1 || all.Incomplete {
		t.Errorf("%+v", all)
	}
}

func TestConstrainedImpersonation(t *testing.T) {
	s := nodes(t)
	admin := user(t, s, "admin", api.GroupMasters)
	const authn = `"apiGroups":["authentication.k8s.io"]`
	granted(t, admin, "ivy", `{`+authn+`,"resources":["users"],"resourceNames":["carol"],"verbs":["impersonate:user-info"]},{`+authn+`,"resources":["groups"],"resourceNames":["devs"],"verbs":["impersonate:user-info"]},`+
		`{`+authn+`,"resources":["userextras/acme.io/scopes"],"resourceNames":["view"],"verbs":["impersonate:user-info"]},{`+authn+`,"resources":["uids"],"resourceNames":["7"],"verbs":["impersonate:user-info"]},`+
		`{`+authn+`,"resources":["nodes"],"resourceNames":["n2"],"verbs":["impersonate:arbitrary-node"]},{"apiGroups":[""],"resources":["nodes"],"verbs":["impersonate-on:arbitrary-node:get"]},`+
		`{`+authn+`,"resources":["serviceaccounts"],"resourceNames":["sa1"],"verbs":["impersonate:serviceaccount"]},`+
		`{`+authn+`,"resources":["selfsubjectreviews"],"verbs":["impersonate-on:user-info:create","impersonate-on:serviceaccount:create"]}`)
	granted(t, admin, "old", `{"apiGroups":[""],"resources":["users","groups","serviceaccounts"],"verbs":["impersonate"]}`)
	const whoami, body = "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	for _, tc := range []struct {
		name, who string
		headers   string
		verb      string
		path      string
		code      int
		says      string
	}{
		{"for what is granted", "ivy", "User=carol,Group=devs,Uid=7,Extra-Acme.io%2fscopes=view", "POST", whoami, 201, `"userInfo":{"username":"carol","uid":"7","groups":["devs","system:authenticated"],"extra":{"acme.io/scopes":["view"]}}`},
		{"for no other request", "ivy", "User=carol", "GET", "/api/v1/nodes", 403, `nodes is forbidden: User "ivy" cannot impersonate-on:user-info:list resource "nodes" in API group "" at the cluster scope`},
		{"as nobody else", "ivy", "User=dora", "POST", whoami, 403, `users.authentication.k8s.io "dora" is forbidden: User "ivy" cannot impersonate:user-info resource "users" in API group "authentication.k8s.io" at the cluster scope`},
		{"in no other group", "ivy", "User=carol,Group=ops", "POST", whoami, 403, `groups.authentication.k8s.io "ops" is forbidden: User "ivy" cannot impersonate:user-info resource "groups"`},
		{"never as masters", "ivy", "User=carol,Group=system:masters", "POST", whoami, 403, "impersonating the system:masters group is not allowed"},
		{"extra without a domain", "ivy", "User=carol,Extra-Scopes=1", "POST", whoami, 403, "an invalid key in extra is not allowed"},
		{"a service account", "ivy", "User=system:serviceaccount:default:sa1", "POST", whoami, 201, `"groups":["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]`},
		{"another service account", "ivy", "User=system:serviceaccount:default:sa2", "POST", whoami, 403, `serviceaccounts.authentication.k8s.io "sa2" is forbidden: User "ivy" cannot impersonate:serviceaccount resource "serviceaccounts" in API group "authentication.k8s.io" in the namespace "default"`},
		{"a node", "ivy", "User=system:node:n2", "GET", "/api/v1/nodes/n2", 200, `"name":"n2"`},
		{"another node", "ivy", "User=system:node:n1", "GET", "/api/v1/nodes/n1", 403, `nodes.authentication.k8s.io "n1" is forbidden: User "ivy" cannot impersonate:arbitrary-node resource "nodes"`},
		{"groups without a user", "ivy", "Group=devs", "POST", whoami, 400, `requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"devs"}, Extra:map[string][]string(nil)} without impersonating a user name`},
		{"the old right is for all requests", "old", "User=carol,Group=devs", "POST", whoami, 201, `"groups":["devs","system:authenticated"]`},
		{"the old right without extra", "old", "User=carol,Extra-A=b", "POST", whoami, 403, `cannot impersonate-on:user-info:create`},
		{"anonymous", "old", "User=system:anonymous", "GET", "/version", 200, `"gitVersion"`},
		{"masters may be masters", "admin", "User=carol,Group=system:masters", "POST", whoami, 201, `"system:masters"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var groups []string
			if tc.who == "admin" {
				groups = []string{api.GroupMasters}
			}
			c := user(t, s, tc.who, groups...)
			for _, h := range strings.Split(tc.headers, ",") {
				k, v, _ := strings.Cut(h, "=")
				c.header.Add("Impersonate-"+k, v)
			}
			send := ""
			if tc.verb == "POST" {
				send = body
			}
			if code, text := c.do(tc.verb, tc.path, send); code != tc.code || !strings.Contains(strings.NewReplacer(`\"`, `"`, `\u0026`, "&").Replace(text), tc.says) {
				t.Errorf("got %d %s\nwant %d with %s", code, text, tc.code, tc.says)
			}
		})
	}
}

// TestAssociatedNode: the token of a pod makes its account the node that the pod is on, no other.
func TestAssociatedNode(t *testing.T) {
	s := nodes(t)
	admin := user(t, s, "admin", api.GroupMasters)
	granted(t, admin, "system:serviceaccount:default:sa1", `{"apiGroups":["authentication.k8s.io"],"resources":["nodes"],"resourceNames":["*"],"verbs":["impersonate:associated-node"]},{"apiGroups":[""],"resources":["pods"],"verbs":["impersonate-on:associated-node:list"]}`)
	uid := string(client.Cached(s.Client("x"), api.Pods, "default", "pod1").UID)
	_, body := admin.do("POST", ns+"serviceaccounts/sa1/token", tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1","uid":"`+uid+`"}`))
	robot := bearing(t, s, tokenIn(t, body))
	robot.header.Set("Impersonate-User", "system:node:n1")
	if code, text := robot.do("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", ""); code != 200 || !strings.Contains(text, "pod1") {
		t.Errorf("%d %s", code, text)
	}
	if code, text := robot.message("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", ""); code != 403 || !strings.Contains(text, `User "system:node:n1" cannot list`) {
		t.Errorf("as its node it may no more than the node: %d %s", code, text)
	}
	if code, text := robot.message("GET", "/api/v1/nodes/n1", ""); code != 403 || !strings.Contains(text, "cannot impersonate-on:associated-node:get") {
		t.Errorf("%d %s", code, text)
	}
	robot.header.Set("Impersonate-User", "system:node:n2")
	if code, text := robot.message("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", ""); code != 403 || !strings.Contains(text, "cannot impersonate-on:arbitrary-node:list") {
		t.Errorf("%d %s", code, text)
	}
}

func tokenIn(t *testing.T, body string) string {
	t.Helper()
	var r struct{ Status struct{ Token string } }
	if err := json.Unmarshal([]byte(body), &r); err != nil || r.Status.Token == "" {
		t.Fatal(err, body)
	}
	return r.Status.Token
}

// TestNodeGraph has a pod for each way in which a node comes by an object.
func TestNodeGraph(t *testing.T) {
	s := nodes(t)
	c := s.Client("test", api.GroupMasters)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	local := func(name string) *core.LocalObjectReference { return &core.LocalObjectReference{Name: name} }
	p := podOn("1")
	p.Name = "graph"
	p.Spec.ServiceAccountName = "sa1"
	p.Spec.ImagePullSecrets = []core.LocalObjectReference{{Name: "by-pull"}}
	p.Spec.InitContainers = []core.Container{{Name: "i", Image: "x", Env: []core.EnvVar{{Name: "A", ValueFrom: &core.EnvVarSource{SecretKeyRef: &core.SecretKeySelector{LocalObjectReference: *local("by-env"), Key: "k"}}}}}}
	p.Spec.Containers[0].EnvFrom = []core.EnvFromSource{{SecretRef: &core.SecretEnvSource{LocalObjectReference: *local("by-envfrom")}}, {ConfigMapRef: &core.ConfigMapEnvSource{LocalObjectReference: *local("by-envfrom")}}}
	for name, v := range map[string]core.VolumeSource{
		"secret": {Secret: &core.SecretVolumeSource{SecretName: "by-volume"}}, "config": {ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: *local("by-volume")}},
		"projected": {Projected: &core.ProjectedVolumeSource{Sources: []core.VolumeProjection{{Secret: &core.SecretProjection{LocalObjectReference: *local("by-projection")}}, {ConfigMap: &core.ConfigMapProjection{LocalObjectReference: *local("by-projection")}}}}},
		"csi":       {CSI: &core.CSIVolumeSource{Driver: "x.example.com", NodePublishSecretRef: local("by-csi")}},
		"claim":     {PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "claim1"}},
		"flex":      {FlexVolume: &core.FlexVolumeSource{Driver: "a/b", SecretRef: local("by-flex")}},
		"scaleio":   {ScaleIO: &core.ScaleIOVolumeSource{Gateway: "g", System: "s", VolumeName: "v", SecretRef: local("by-scaleio")}},
		"cinder":    {Cinder: &core.CinderVolumeSource{VolumeID: "v", SecretRef: local("by-cinder")}},
		"storageos": {StorageOS: &core.StorageOSVolumeSource{VolumeName: "v", SecretRef: local("by-storageos")}},
	} {
		p.Spec.Volumes = append(p.Spec.Volumes, core.Volume{Name: "v-" + name, VolumeSource: v})
	}
	p.Spec.ResourceClaims = []core.PodResourceClaim{{Name: "d", ResourceClaimName: new("devices")}}
	for _, n := range []string{"by-pull", "by-env", "by-envfrom", "by-volume", "by-projection", "by-csi", "by-flex", "by-scaleio", "by-cinder", "by-storageos"} {
		must(client.Create(t.Context(), c, api.Secrets, &core.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: n}}))
		must(client.Create(t.Context(), c, api.ConfigMaps, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: n}}))
	}
	must(client.Create(t.Context(), c, api.ResourceClaims, &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "devices"},
		Spec: resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: []resourceapi.DeviceRequest{{Name: "r", Exactly: &resourceapi.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}}))
	for _, n := range []string{"n1", "n2"} {
		must(client.Create(t.Context(), c, api.ResourceSlices, &resourceapi.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice-" + n},
			Spec: resourceapi.ResourceSliceSpec{NodeName: &n, Driver: "gpu.example.com", Pool: resourceapi.ResourcePool{Name: n, ResourceSliceCount: 1}}}))
		must(client.Create(t.Context(), c, api.VolumeAttachments, &storage.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "attach-" + n},
			Spec: storage.VolumeAttachmentSpec{Attacher: "x.example.com", NodeName: n, Source: storage.VolumeAttachmentSource{PersistentVolumeName: new("pv1")}}}))
		must(client.Create(t.Context(), c, api.CSINodes, &storage.CSINode{ObjectMeta: metav1.ObjectMeta{Name: n}}))
	}
	n1, n2 := user(t, s, "system:node:n1", api.GroupNodes), user(t, s, "system:node:n2", api.GroupNodes)
	const devices, volumes = "/apis/resource.k8s.io/v1/", "/apis/storage.k8s.io/v1/"
	edges := []string{
		ns + "secrets/by-pull", ns + "secrets/by-env", ns + "secrets/by-envfrom", ns + "configmaps/by-envfrom", ns + "secrets/by-volume", ns + "configmaps/by-volume",
		ns + "secrets/by-projection", ns + "configmaps/by-projection", ns + "secrets/by-csi", ns + "secrets/by-flex", ns + "secrets/by-scaleio", ns + "secrets/by-cinder", ns + "secrets/by-storageos",
		ns + "persistentvolumeclaims/claim1", "/api/v1/persistentvolumes/pv1", ns + "secrets/secret-pull1", ns + "serviceaccounts/sa1",
		devices + "namespaces/default/resourceclaims/devices",
	}
	mayNot := func(when string, who *caller, paths ...string) {
		t.Helper()
		for _, path := range paths {
			if code, m := who.message("GET", path, ""); code != 403 {
				t.Errorf("%s: %s: %d %s", when, path, code, m)
			}
		}
	}
	mayNot("before the pod is there", n1, ns+"secrets/by-env", devices+"namespaces/default/resourceclaims/devices")
	must(client.Create(t.Context(), c, api.Pods, p))
	for _, path := range append(edges, devices+"resourceslices/slice-n1", devices+"resourceslices?fieldSelector=spec.nodeName%3Dn1", volumes+"volumeattachments/attach-n1", volumes+"csinodes/n1") {
		if code, m := n1.message("GET", path, ""); code != 200 {
			t.Errorf("%s: %d %s", path, code, m)
		}
	}
	mayNot("another node", n2, append(edges, devices+"resourceslices/slice-n1", volumes+"volumeattachments/attach-n1", volumes+"csinodes/n1")...)
	grace := int64(0)
	for _, name := range []string{"graph", "pod1"} {
		if err := client.Delete(t.Context(), c, api.Pods, "default", name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			t.Fatal(err)
		}
	}
	mayNot("when the pod is gone", n1, edges...)
}
