package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

// TestTokensDieWithWhatTheyAreBoundTo asks for tokens by HTTP, uses them, and deletes what
// they are bound to.
func TestTokensDieWithWhatTheyAreBoundTo(t *testing.T) {
	s := nodes(t)
	admin := user(t, s, "admin", api.GroupMasters)
	pod := client.Cached(s.Client("x"), api.Pods, "default", "pod1")
	node := client.Cached(s.Client("x"), api.Nodes, "", "n1")
	const path = ns + "serviceaccounts/sa1/token"
	for _, tc := range []struct {
		name, bound, dies string
		extra             map[string]string
	}{
		{"secret", `"boundObjectRef":{"apiVersion":"v1","kind":"Secret","name":"secret-b1"}`, ns + "secrets/secret-b1", nil},
		{"pod", `"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1"}`, ns + "pods/pod1?gracePeriodSeconds=0",
			map[string]string{"pod-name": "pod1", "pod-uid": string(pod.UID), "node-name": "n1", "node-uid": string(node.UID)}},
		{"node", `"boundObjectRef":{"apiVersion":"v1","kind":"Node","name":"n1"}`, "/api/v1/nodes/n1", map[string]string{"node-name": "n1", "node-uid": string(node.UID)}},
		{"account", ``, ns + "serviceaccounts/sa1", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, body := admin.do("POST", path, tokenBody(tc.bound))
			if code != 201 {
				t.Fatal(code, body)
			}
			robot := bearing(t, s, tokenIn(t, body))
			code, u := robot.whoami()
			if code != 201 || u.Username != "system:serviceaccount:default:sa1" || len(u.Extra["authentication.kubernetes.io/credential-id"]) != 1 || !strings.HasPrefix(u.Extra["authentication.kubernetes.io/credential-id"][0], "JTI=") {
				t.Fatalf("%d %+v", code, u)
			}
			if len(u.Extra) != len(tc.extra)+1 {
				t.Errorf("%v", u.Extra)
			}
			for k, v := range tc.extra {
				if got := u.Extra["authentication.kubernetes.io/"+k]; len(got) != 1 || got[0] != v {
					t.Errorf("%s: %v, want %s", k, got, v)
				}
			}
			if code, m := admin.message("DELETE", tc.dies, ""); code != 200 {
				t.Fatal(code, m)
			}
			if code, _ := robot.whoami(); code != 401 {
				t.Errorf("it lives on: %d", code)
			}
		})
	}
}

func TestTokenRequestsAreChecked(t *testing.T) {
	s := nodes(t)
	admin := user(t, s, "admin", api.GroupMasters)
	sa := client.Cached(s.Client("x"), api.ServiceAccounts, "default", "sa1")
	const path = ns + "serviceaccounts/sa1/token"
	named := func(meta string) string {
		return `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{` + meta + `}}`
	}
	for _, tc := range []struct {
		name, path, body string
		code             int
		says             string
	}{
		{"too short", path, tokenBody(`"expirationSeconds":599`), 422, `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{"too long", path, tokenBody(`"expirationSeconds":4294967297`), 422, "may not specify a duration larger than 2^32 seconds"},
		{"shortest", path, tokenBody(`"expirationSeconds":600`), 201, `"expirationSeconds":600`},
		{"another name", path, named(`"name":"x"`), 422, `metadata.name: Invalid value: "x": must match the service account name if specified`},
		{"another uid", path, named(`"uid":"x"`), 409, `the UID in the token request (x) does not match the UID of the service account (` + string(sa.UID) + `)`},
		{"what it is of", path, named(""), 201, `"uid":"` + string(sa.UID) + `"`},
		{"no account", ns + "serviceaccounts/nix/token", named(""), 404, `serviceaccounts "nix" not found`},
		{"no pod", path, tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"nix"}`), 404, `pods "nix" not found`},
		{"another's pod", path, tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod2"}`), 400, `cannot bind token for serviceaccount "sa1" to pod running with different serviceaccount name.`},
		{"another pod of the name", path, tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1","uid":"x"}`), 409, "the UID in the bound object reference (x) does not match the UID in record. The object might have been deleted and then recreated"},
		{"something else", path, tokenBody(`"boundObjectRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"x"}`), 400, "cannot bind token to object of type apps/v1, Kind=Deployment"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, m := admin.message("POST", tc.path, tc.body); code != tc.code || !strings.Contains(m, tc.says) {
				t.Errorf("got %d %s\nwant %d with %s", code, m, tc.code, tc.says)
			}
		})
	}
	_, body := admin.do("POST", path, tokenBody(`"audiences":["vault"]`))
	vault := tokenIn(t, body)
	if code, _ := bearing(t, s, vault).whoami(); code != 401 {
		t.Errorf("a token for another audience is taken: %d", code)
	}
	for audience, good := range map[string]bool{`"vault"`: true, `"vault","x"`: true, `"x"`: false} {
		_, body := admin.do("POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"`+vault+`","audiences":[`+audience+`]}}`)
		var r authn.TokenReview
		if err := json.Unmarshal([]byte(body), &r); err != nil || r.Status.Authenticated != good || good && (len(r.Status.Audiences) != 1 || r.Status.Audiences[0] != "vault") {
			t.Errorf("for %s: %s %v", audience, body, err)
		}
	}
}

// TestLegacyTokensWarn: who uses a token that was made without being asked for is told with every answer.
func TestLegacyTokensWarn(t *testing.T) {
	s := start(t, memory.New(), nil)
	makeAccount(t, s, "default", "old")
	c := s.Client("test", api.GroupMasters)
	if _, err := client.Create(t.Context(), c, api.Secrets, &core.Secret{Type: core.SecretTypeServiceAccountToken,
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "old-token", Annotations: map[string]string{core.ServiceAccountNameKey: "old"}}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the token", func() bool { return len(client.Cached(c, api.Secrets, "default", "old-token").Data["token"]) > 0 })
	robot := bearing(t, s, string(client.Cached(c, api.Secrets, "default", "old-token").Data["token"]))
	warnings := func() []string {
		t.Helper()
		r, err := http.NewRequest("GET", s.url()+"/api/v1/namespaces/default/pods", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = robot.header.Clone()
		resp, err := robot.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.Header["Warning"]
	}
	if w := warnings(); len(w) != 0 {
		t.Errorf("a token that somebody asked for: %v", w)
	}
	admin := user(t, s, "admin", api.GroupMasters)
	if code, m := admin.message("PATCH", ns+"serviceaccounts/old", `{"secrets":[{"name":"old-token"}]}`); code != 200 {
		t.Fatal(code, m)
	}
	if w := warnings(); len(w) != 1 || w[0] != `299 - "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens."` {
		t.Errorf("%v", w)
	}
	token := client.Cached(c, api.Secrets, "default", "old-token").Data["token"]
	if code, m := admin.message("PATCH", ns+"secrets/old-token", `{"stringData":{"token":"x"}}`); code != 200 {
		t.Fatal(code, m)
	}
	if code, _ := bearing(t, s, string(token)).whoami(); code != 401 {
		t.Errorf("the token is no longer in its secret and works: %d", code)
	}
}
