package server

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

// TestDryRunOfSubresources: every way to write by a subresource says what it would do, and
// the object stays as it was.
func TestDryRunOfSubresources(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", "system:masters")
	csr := "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	running := `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`
	setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"a"}}`}, [2]string{"/api/v1/nodes", `{"metadata":{"name":"n"},"status":{"allocatable":{"cpu":"4"}}}`})
	makeAccount(t, s, "a", "default")
	setUp(t, admin, [2]string{"/api/v1/namespaces/a/pods", strings.Replace(pod(`,"terminationGracePeriodSeconds":30`), `"p"`, `"bound"`, 1)},
		[2]string{"/api/v1/namespaces/a/pods", pod("")}, [2]string{"/api/v1/namespaces/a/pods", `{"metadata":{"name":"sized"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}}]}}`},
		[2]string{"/api/v1/namespaces/a/pods/bound/binding", `{"metadata":{"name":"bound"},"target":{"kind":"Node","name":"n"}}`},
		[2]string{"/apis/apps/v1/namespaces/a/deployments", `{"metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}`},
		[2]string{csr, fmt.Sprintf(`{"metadata":{"name":"r"},"spec":{"request":%q,"signerName":"example.com/x","usages":["client auth"]}}`, requestOf(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "dora"}}))})
	if code, m := admin.message("PATCH", "/api/v1/namespaces/a/pods/bound/status", running); code != 200 {
		t.Fatal(code, m)
	}
	const bound, deployment = "/api/v1/namespaces/a/pods/bound", "/apis/apps/v1/namespaces/a/deployments/d"
	for _, tc := range []struct {
		object, sub, method, body string
		code                      int
		says                      string
	}{
		{"/api/v1/namespaces/a/pods/p", "binding", "POST", `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}`, 201, `"Success"`},
		{bound, "binding", "POST", `{"metadata":{"name":"bound"},"target":{"kind":"Node","name":"n"}}`, 409, `is already assigned to node`},
		{bound, "eviction", "POST", `{"metadata":{"name":"bound"}}`, 201, `"Success"`},
		{bound, "resize", "PATCH", `{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"1"}}}]}}`, 422, `Pod QOS Class may not change`},
		{"/api/v1/namespaces/a/pods/sized", "resize", "PATCH", `{"spec":{"containers":[{"name":"c","image":"x","resources":{"requests":{"cpu":"2"}}}]}}`, 200, `"cpu":"2"`},
		{bound, "status", "PATCH", `{"status":{"message":"said"}}`, 200, `"said"`},
		{bound, "ephemeralcontainers", "PATCH", `{"spec":{"ephemeralContainers":[{"name":"e","image":"x","terminationMessagePolicy":"File"}]}}`, 200, `"ephemeralContainers":[{"name":"e"`},
		{deployment, "scale", "PUT", `{"metadata":{"name":"d","namespace":"a"},"spec":{"replicas":7}}`, 200, `"replicas":7`},
		{deployment, "scale", "PATCH", `{"spec":{"replicas":8}}`, 200, `"replicas":8`},
		{deployment, "status", "PATCH", `{"status":{"replicas":9}}`, 200, `"replicas":9`},
		{"/api/v1/namespaces/a", "finalize", "PUT", `{"metadata":{"name":"a"},"spec":{"finalizers":["x.io/y"]}}`, 200, `"x.io/y"`},
		{"/api/v1/namespaces/a", "status", "PATCH", `{"status":{"conditions":[{"type":"T","status":"True"}]}}`, 200, `"T"`},
		{csr + "/r", "approval", "PATCH", `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"x"}]}}`, 200, `"Approved"`},
		{"/api/v1/namespaces/a/serviceaccounts/default", "token", "POST", `{"spec":{}}`, 201, `"token":"`},
	} {
		t.Run(tc.method+" "+tc.object+"/"+tc.sub, func(t *testing.T) {
			_, before := admin.do("GET", tc.object, "")
			code, text := admin.do(tc.method, tc.object+"/"+tc.sub+"?dryRun=All", tc.body)
			if code != tc.code || !strings.Contains(text, tc.says) {
				t.Errorf("%d %s, want %d %s", code, text, tc.code, tc.says)
			}
			if _, after := admin.do("GET", tc.object, ""); after != before {
				t.Errorf("before %s\nafter  %s", before, after)
			}
			if code, m := admin.message(tc.method, tc.object+"/"+tc.sub+"?dryRun=Some", tc.body); code != 422 || !strings.Contains(m, "dryRun: Unsupported value") {
				t.Errorf("an unknown dryRun: %d %s", code, m)
			}
		})
	}
}

// TestManagersHaveNames: what the parts of the server write is owned by names that people
// know from upstream, and approvals and scales by who asked for them.
func TestManagersHaveNames(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", "system:masters")
	csr := "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	setUp(t, admin, [2]string{csr, fmt.Sprintf(`{"metadata":{"name":"r"},"spec":{"request":%q,"signerName":"kubernetes.io/kube-apiserver-client","usages":["client auth"]}}`, requestOf(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "dora"}}))},
		[2]string{"/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"metadata":{"name":"sum"},"rules":[],"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"x":"y"}}]}}`},
		[2]string{"/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"metadata":{"name":"part","labels":{"x":"y"}},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`})
	owners := func(path string) string {
		_, text := admin.do("GET", path, "")
		var o metav1.PartialObjectMetadata
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, m := range o.ManagedFields {
			out = append(out, strings.TrimSuffix(m.Manager+":"+m.Subresource, ":"))
		}
		return strings.Join(out, " ")
	}
	if code, m := admin.message("PATCH", csr+"/r/approval?fieldManager=boss", `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"x"}]}}`); code != 200 {
		t.Fatal(code, m)
	}
	bundle := ""
	waitFor(t, "the trust bundle", func() bool {
		all := client.CachedList(s.Client("test"), api.ClusterTrustBundles, "", nil)
		if len(all) > 0 {
			bundle = all[0].Name
		}
		return bundle != ""
	})
	for path, want := range map[string]string{
		csr + "/r": "Go-http-client boss:approval kube-controller-manager:status",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/sum":                                            "clusterrole-aggregation-controller Go-http-client",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin":                                  "kube-apiserver",
		"/api/v1/namespaces/default/services/kubernetes":                                                 "kube-apiserver",
		"/api/v1/namespaces/kube-system":                                                                 "kube-apiserver",
		"/apis/certificates.k8s.io/v1/clustertrustbundles/" + bundle:                                     "kube-controller-manager",
		"/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all":                                    "api-priority-and-fairness-config-consumer-v1:status api-priority-and-fairness-config-producer-v1",
		"/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking": "kube-apiserver",
		"/apis/apiregistration.k8s.io/v1/apiservices/v1.apps":                                            "kube-apiserver",
	} {
		got := ""
		for end := time.Now().Add(time.Minute); got != want && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			got = owners(path)
		}
		if got != want {
			t.Errorf("%s is managed by %q, want %q", path, got, want)
		}
	}
}
