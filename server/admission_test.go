package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

// setUp posts objects as administrator; each is "path body".
func setUp(t *testing.T, admin *caller, posts ...[2]string) {
	t.Helper()
	for _, p := range posts {
		if code, m := admin.message("POST", p[0], p[1]); code != 201 {
			t.Fatalf("POST %s: %d %s", p[0], code, m)
		}
	}
}

const pods = "/api/v1/namespaces/a/pods"

func pod(extra string) string {
	return `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x"}]` + extra + `}}`
}

// admitted runs a server with a namespace a that has a default account.
func admitted(t *testing.T) (*Server, *caller) {
	t.Helper()
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	setUp(t, admin,
		[2]string{"/api/v1/namespaces", `{"metadata":{"name":"a"}}`},
		[2]string{"/api/v1/namespaces/a/serviceaccounts", `{"metadata":{"name":"default"},"imagePullSecrets":[{"name":"reg"}]}`},
	)
	return s, admin
}

func TestAdmissionRefusals(t *testing.T) {
	s, admin := admitted(t)
	setUp(t, admin,
		[2]string{"/api/v1/namespaces", `{"metadata":{"name":"empty"}}`},
		[2]string{"/api/v1/namespaces", `{"metadata":{"name":"strict","labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`},
		[2]string{"/api/v1/namespaces/strict/serviceaccounts", `{"metadata":{"name":"default"}}`},
		[2]string{"/api/v1/namespaces", `{"metadata":{"name":"limited"}}`},
		[2]string{"/api/v1/namespaces/limited/serviceaccounts", `{"metadata":{"name":"default"}}`},
		[2]string{"/api/v1/namespaces/limited/limitranges", `{"metadata":{"name":"l"},"spec":{"limits":[{"type":"Container","max":{"memory":"1Gi"},"min":{"memory":"16Mi"},"default":{"memory":"256Mi"},"defaultRequest":{"memory":"64Mi"}}]}}`},
		[2]string{"/apis/scheduling.k8s.io/v1/priorityclasses", `{"metadata":{"name":"high"},"value":1000,"globalDefault":false}`},
		[2]string{"/apis/scheduling.k8s.io/v1/priorityclasses", `{"metadata":{"name":"usual"},"value":10,"globalDefault":true}`},
		[2]string{"/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"vm"},"handler":"kata","overhead":{"podFixed":{"memory":"120Mi"}}}`},
		[2]string{"/api/v1/namespaces/a/services", `{"metadata":{"name":"s"},"spec":{"clusterIP":"10.43.7.7","type":"NodePort","ports":[{"port":80,"nodePort":30080}]}}`},
	)
	_ = s
	for _, tc := range []struct{ name, path, body, says string }{
		{"namespace that is not there", "/api/v1/namespaces/nix/configmaps", `{"metadata":{"name":"x"}}`, `namespaces "nix" not found`},
		{"no default account", "/api/v1/namespaces/empty/pods", pod(""), `pods "p" is forbidden: error looking up service account empty/default: serviceaccount "default" not found`},
		{"account that is not there", pods, pod(`,"serviceAccountName":"nix"`), `pods "p" is forbidden: error looking up service account a/nix: serviceaccount "nix" not found`},
		{"priority class that is not there", pods, pod(`,"priorityClassName":"nix"`), `pods "p" is forbidden: no PriorityClass with name nix was found`},
		{"priority by number", pods, pod(`,"priorityClassName":"high","priority":5`), "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name"},
		{"second default priority", "/apis/scheduling.k8s.io/v1/priorityclasses", `{"metadata":{"name":"b"},"value":11,"globalDefault":true}`, "PriorityClass usual is already marked as default. Only one default can exist"},
		{"runtime class that is not there", pods, pod(`,"runtimeClassName":"nix"`), `pods "p" is forbidden: pod rejected: RuntimeClass "nix" not found`},
		{"overhead without class", pods, pod(`,"overhead":{"memory":"1Mi"}`), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{"another overhead", pods, pod(`,"runtimeClassName":"vm","overhead":{"memory":"1Mi"}`), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		{"restricted namespace", "/api/v1/namespaces/strict/pods", pod(""), `pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false)`},
		{"over the limit", "/api/v1/namespaces/limited/pods", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{"memory":"2Gi"}}}]}}`, `pods "p" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi`},
		{"service address taken", "/api/v1/namespaces/a/services", `{"metadata":{"name":"t"},"spec":{"clusterIP":"10.43.7.7","ports":[{"port":80}]}}`, `Service "t" is invalid: spec.clusterIPs: Invalid value: ["10.43.7.7"]: failed to allocate IP 10.43.7.7: provided IP is already allocated`},
		{"node port taken", "/api/v1/namespaces/a/services", `{"metadata":{"name":"t"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30080}]}}`, `Service "t" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated`},
		{"bad security label", "/api/v1/namespaces", `{"metadata":{"name":"b","labels":{"pod-security.kubernetes.io/enforce":"much"}}}`, `must be one of privileged, baseline, restricted`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, m := admin.message("POST", tc.path, tc.body); code < 400 || !strings.Contains(m, tc.says) {
				t.Errorf("got %d %s\nwant %s", code, m, tc.says)
			}
		})
	}
	for _, ns := range []string{"default", "kube-system", "kube-public"} {
		if code, m := admin.message("DELETE", "/api/v1/namespaces/"+ns, ""); code != 403 || m != fmt.Sprintf("namespaces %q is forbidden: this namespace may not be deleted", ns) {
			t.Errorf("%d %s", code, m)
		}
	}
}

func TestPodIsCompleted(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin, [2]string{"/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"vm"},"handler":"kata","overhead":{"podFixed":{"memory":"120Mi"}},"scheduling":{"nodeSelector":{"vm":"yes"}}}`})
	code, body := admin.do("POST", pods, pod(`,"runtimeClassName":"vm"`))
	if code != 201 {
		t.Fatalf("%d %s", code, body)
	}
	var p core.Pod
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	v := p.Spec.Volumes[0]
	if p.Spec.ServiceAccountName != "default" || p.Spec.ImagePullSecrets[0].Name != "reg" || !strings.HasPrefix(v.Name, "kube-api-access-") ||
		*v.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds != 3607 || p.Spec.Containers[0].VolumeMounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("%+v", p.Spec)
	}
	if *p.Spec.Priority != 0 || *p.Spec.PreemptionPolicy != core.PreemptLowerPriority || len(p.Spec.Tolerations) != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("%+v", p.Spec)
	}
	if q := p.Spec.Overhead[core.ResourceMemory]; q.String() != "120Mi" || p.Spec.NodeSelector["vm"] != "yes" {
		t.Errorf("%+v", p.Spec)
	}
	code, body = admin.do("POST", "/api/v1/nodes", `{"metadata":{"name":"n"}}`)
	if code != 201 || !strings.Contains(body, `"taints":[{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]`) {
		t.Errorf("%d %s", code, body)
	}
}

func TestTerminatingNamespace(t *testing.T) {
	s, admin := admitted(t)
	if code, m := admin.message("PATCH", "/api/v1/namespaces/a", `{"metadata":{"finalizers":["x.io/y"]}}`); code != 200 {
		t.Fatalf("%d %s", code, m)
	}
	if code, m := admin.message("DELETE", "/api/v1/namespaces/a", ""); code != 200 {
		t.Fatalf("%d %s", code, m)
	}
	_ = s
	code, body := admin.do("POST", "/api/v1/namespaces/a/configmaps", `{"metadata":{"name":"x"}}`)
	if code != 403 || !strings.Contains(body, "unable to create new content in namespace a because it is being terminated") || !strings.Contains(body, `"reason":"NamespaceTerminating"`) {
		t.Errorf("%d %s", code, body)
	}
}

func TestQuota(t *testing.T) {
	s, admin := admitted(t)
	setUp(t, admin, [2]string{"/api/v1/namespaces/a/resourcequotas", `{"metadata":{"name":"q"},"spec":{"hard":{"pods":"5","requests.cpu":"1","count/configmaps":"3","services.nodeports":"1"}}}`})
	if code, m := admin.message("POST", pods, pod("")); code != 403 || m != `pods "p" is forbidden: failed quota: q: must specify requests.cpu for: c` {
		t.Errorf("%d %s", code, m)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	made, message := 0, ""
	for i := range 40 {
		wg.Go(func() {
			code, m := admin.message("POST", pods, fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"300m"}}}]}}`, i))
			mu.Lock()
			defer mu.Unlock()
			if code == 201 {
				made++
			} else {
				message = m
			}
		})
	}
	wg.Wait()
	if made != 3 || !strings.Contains(message, "is forbidden: exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=900m, limited: requests.cpu=1") {
		t.Errorf("%d pods were let in: %s", made, message)
	}
	c := s.Client("test")
	waitFor(t, "the quota's status", func() bool {
		q := client.Cached(c, api.ResourceQuotas, "a", "q")
		cpu := q.Status.Used["requests.cpu"]
		return q.Status.Hard != nil && cpu.String() == "900m"
	})
	for _, p := range client.CachedList(c, api.Pods, "a", nil) {
		if err := client.Delete(t.Context(), c, api.Pods, "a", p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			t.Fatal(err)
		}
	}
	if code, m := admin.message("POST", pods, `{"metadata":{"name":"again"},"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}}]}}`); code != 201 {
		t.Errorf("after deletion: %d %s", code, m)
	}
}

func TestParallelServices(t *testing.T) {
	_, admin := admitted(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ips, ports := map[string]bool{}, map[int32]bool{}
	for i := range 100 {
		wg.Go(func() {
			code, body := admin.do("POST", "/api/v1/namespaces/a/services", fmt.Sprintf(`{"metadata":{"name":"s%d"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`, i))
			var o core.Service
			if err := json.Unmarshal([]byte(body), &o); code != 201 || err != nil {
				t.Errorf("%d %s", code, body)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if ips[o.Spec.ClusterIP] || ports[o.Spec.Ports[0].NodePort] {
				t.Errorf("%s or %d was given twice", o.Spec.ClusterIP, o.Spec.Ports[0].NodePort)
			}
			ips[o.Spec.ClusterIP], ports[o.Spec.Ports[0].NodePort] = true, true
		})
	}
	wg.Wait()
	if len(ips) != 100 || len(ports) != 100 {
		t.Errorf("%d addresses, %d ports", len(ips), len(ports))
	}
}

func TestEscalation(t *testing.T) {
	s, admin := admitted(t)
	const rb = "/apis/rbac.authorization.k8s.io/v1/"
	setUp(t, admin,
		[2]string{rb + "clusterroles", `{"metadata":{"name":"rbac-writer"},"rules":[{"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles","rolebindings","clusterroles"],"verbs":["create","update","patch","get"]},{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]}]}`},
		[2]string{rb + "clusterrolebindings", `{"metadata":{"name":"alice"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"rbac-writer"},"subjects":[{"kind":"User","name":"alice","apiGroup":"rbac.authorization.k8s.io"}]}`},
	)
	alice := user(t, s, "alice")
	role := func(verbs string) string {
		return `{"metadata":{"name":"r"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":[` + verbs + `]}]}`
	}
	for _, tc := range []struct {
		name, path, body string
		code             int
		says             string
	}{
		{"more than she has", rb + "namespaces/a/roles", role(`"get","delete"`), 403,
			"roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"alice\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"},
		{"what she has", rb + "namespaces/a/roles", role(`"get"`), 201, ""},
		{"bind a greater role", rb + "namespaces/a/rolebindings", `{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"alice"}]}`, 403, "is attempting to grant RBAC permissions not currently held"},
		{"bind a role that is not there", rb + "namespaces/a/rolebindings", `{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"nix"}}`, 404, `"nix" not found`},
		{"bind her own", rb + "namespaces/a/rolebindings", `{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},"subjects":[{"kind":"User","name":"bob","apiGroup":"rbac.authorization.k8s.io"}]}`, 201, ""},
		{"aggregate", rb + "clusterroles", `{"metadata":{"name":"agg"},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]},"rules":[]}`, 403, "must have cluster-admin privileges to use the aggregationRule"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, m := alice.message("POST", tc.path, tc.body); code != tc.code || !strings.Contains(m, tc.says) {
				t.Errorf("got %d %s\nwant %d %s", code, m, tc.code, tc.says)
			}
		})
	}
	if code, m := user(t, s, "bob").message("GET", "/api/v1/namespaces/a/pods/x", ""); code != 404 {
		t.Errorf("bob: %d %s", code, m)
	}
}

func TestReviews(t *testing.T) {
	s, admin := admitted(t)
	c := s.Client("test", api.GroupMasters)
	o, err := c.Create(t.Context(), client.Target{Kind: api.ServiceAccounts.Facts, Namespace: "a", Name: "default", Subresource: "token"}, &authn.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := o.(*authn.TokenRequest).Status.Token
	robot := as(t, s, nil, nil)
	robot.header.Set("Authorization", "Bearer "+token)
	setUp(t, admin, [2]string{"/apis/rbac.authorization.k8s.io/v1/namespaces/a/rolebindings", `{"metadata":{"name":"v"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[{"kind":"ServiceAccount","name":"default"}]}`})
	waitFor(t, "role view to be summed up", func() bool {
		r := client.Cached(c, api.ClusterRoles, "", "view")
		return len(r.Rules) > 5
	})
	const authz = "/apis/authorization.k8s.io/v1/"
	for _, tc := range []struct {
		name, path, body string
		who              *caller
		code             int
		says             string
	}{
		{"account may list pods", "GET " + pods, "", robot, 200, "PodList"},
		{"account may not read secrets", "GET /api/v1/namespaces/a/secrets", "", robot, 403, `secrets is forbidden: User \"system:serviceaccount:a:default\" cannot list resource \"secrets\" in API group \"\" in the namespace \"a\"`},
		{"may I", "POST " + authz + "selfsubjectaccessreviews", `{"spec":{"resourceAttributes":{"namespace":"a","verb":"list","resource":"pods"}}}`, robot, 201, `"allowed":true,"reason":"RBAC: allowed by RoleBinding \"v/a\" of ClusterRole \"view\" to ServiceAccount \"default/a\""`},
		{"may I not", "POST " + authz + "selfsubjectaccessreviews", `{"spec":{"resourceAttributes":{"namespace":"a","verb":"delete","resource":"pods"}}}`, robot, 201, `"allowed":false`},
		{"what may I", "POST " + authz + "selfsubjectrulesreviews", `{"spec":{"namespace":"a"}}`, robot, 201, `"endpointslices"`},
		{"may he", "POST " + authz + "subjectaccessreviews", `{"spec":{"user":"system:serviceaccount:a:default","resourceAttributes":{"namespace":"a","verb":"get","resource":"pods","subresource":"log"}}}`, admin, 201, `"allowed":true`},
		{"nobody named", "POST " + authz + "subjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`, admin, 422, "at least one of user or group must be specified"},
		{"nothing asked", "POST " + authz + "selfsubjectaccessreviews", `{"spec":{}}`, robot, 422, "exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		{"local in another namespace", "POST " + authz + "namespaces/a/localsubjectaccessreviews", `{"spec":{"user":"x","resourceAttributes":{"namespace":"b","verb":"get","resource":"pods"}}}`, admin, 422, "must match metadata.namespace"},
		{"local", "POST " + authz + "namespaces/a/localsubjectaccessreviews", `{"metadata":{"namespace":"a"},"spec":{"user":"system:serviceaccount:a:default","resourceAttributes":{"namespace":"a","verb":"get","resource":"pods"}}}`, admin, 201, `"allowed":true`},
		{"local, not so", "POST " + authz + "namespaces/a/localsubjectaccessreviews", `{"metadata":{"namespace":"a"},"spec":{"user":"x","resourceAttributes":{"namespace":"a","verb":"get","resource":"pods"}}}`, admin, 201, `"allowed":false`},
		{"local about a path", "POST " + authz + "namespaces/a/localsubjectaccessreviews", `{"metadata":{"namespace":"a"},"spec":{"user":"x","nonResourceAttributes":{"path":"/","verb":"get"}}}`, admin, 422, "disallowed on this kind of request"},
		{"local by those who may not", "POST " + authz + "namespaces/a/localsubjectaccessreviews", `{"metadata":{"namespace":"a"},"spec":{"user":"x","resourceAttributes":{"namespace":"a","verb":"get","resource":"pods"}}}`, robot, 403, "cannot create resource"},
		{"whose token", "POST /apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"` + token + `"}}`, admin, 201, `"username":"system:serviceaccount:a:default"`},
		{"no token", "POST /apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"x"}}`, admin, 201, `"error":"invalid bearer token"`},
		{"keys for others", "GET /openid/v1/jwks", "", robot, 200, `"alg":"ES256"`},
		{"issuer for others", "GET /.well-known/openid-configuration", "", robot, 200, `"issuer":"https://kubernetes.default.svc.cluster.local"`},
		{"keys where others reach them", "GET /.well-known/openid-configuration", "", robot, 200, `"jwks_uri":"https://192.0.2.1:`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verb, path, _ := strings.Cut(tc.path, " ")
			if code, body := tc.who.do(verb, path, tc.body); code != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("got %d %s\nwant %d with %s", code, body, tc.code, tc.says)
			}
		})
	}
	if err := client.Delete(t.Context(), c, api.ServiceAccounts, "a", "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, m := robot.message("GET", pods, ""); code != 401 {
		t.Errorf("the token of a deleted account: %d %s", code, m)
	}
}
