package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"testing"

	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/datastore/memory"
)

// TestNamespacesAreFurnished: a namespace gets the account its pods run as and the authority
// they trust the server by, which together suffice to talk to it; both come back.
func TestNamespacesAreFurnished(t *testing.T) {
	s := start(t, memory.New(), nil)
	running(t, s, "serviceaccount", "rootca")
	admin := user(t, s, "admin", api.GroupMasters)
	setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"a"}}`})
	const account, root = "/api/v1/namespaces/a/serviceaccounts/default", "/api/v1/namespaces/a/configmaps/" + api.RootCAConfigMap
	made := func(path string, not types.UID) (cm core.ConfigMap) { // of an account it is the metadata
		t.Helper()
		waitFor(t, path, func() bool {
			code, text := admin.do("GET", path, "")
			cm = core.ConfigMap{}
			return code == 200 && json.Unmarshal([]byte(text), &cm) == nil && cm.UID != not
		})
		return cm
	}
	sa, cm := made(account, ""), made(root, "")
	setUp(t, admin, [2]string{pods, pod("")}) // which needs the account

	_, text := admin.do("POST", account+"/token", `{"spec":{}}`)
	var issued authn.TokenRequest
	if err := json.Unmarshal([]byte(text), &issued); err != nil || issued.Status.Token == "" {
		t.Fatalf("%v %s", err, text)
	}
	roots := x509.NewCertPool()
	if len(cm.Data) != 1 || !roots.AppendCertsFromPEM([]byte(cm.Data["ca.crt"])) {
		t.Fatalf("%v", cm.Data)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	robot := &caller{t, s, &http.Client{Transport: tr}, http.Header{"Authorization": {"Bearer " + issued.Status.Token}}}
	if code, who := robot.whoami(); code != 201 || who.Username != "system:serviceaccount:a:default" {
		t.Errorf("%d %+v", code, who)
	}

	if code, m := admin.message("PATCH", root, `{"data":{"ca.crt":"forged"}}`); code != 200 {
		t.Fatal(code, m)
	}
	awaited(t, admin, root, func(o *core.ConfigMap) bool { return o.Data["ca.crt"] == cm.Data["ca.crt"] })
	for path, uid := range map[string]types.UID{account: sa.UID, root: cm.UID} {
		if code, m := admin.message("DELETE", path, ""); code != 200 {
			t.Fatal(code, m)
		}
		made(path, uid)
	}
}
