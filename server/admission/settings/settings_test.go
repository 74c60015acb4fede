package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	psa "k8s.io/pod-security-admission/api"

	"orch/server/webhook"
)

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := write(t, "all.yaml", head+`
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}
    exemptions: {namespaces: [kube-system], usernames: [root], runtimeClasses: [kata]}
- name: ResourceQuota
  path: quota.yaml
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits: [{type: Namespace, qps: 5, burst: 10, cacheSize: 3}]
`)
	quota := "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\nlimitedResources: [{resource: pods, matchContains: [cpu], matchScopes: [{scopeName: PriorityClass, operator: In, values: [x]}]}]\n"
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "quota.yaml"), []byte(quota), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Security.Defaults; d.Enforce.String() != "baseline:v1.30" || d.Warn.String() != "restricted:latest" || d.Audit.Level != psa.LevelPrivileged {
		t.Errorf("%+v", d)
	}
	if e := s.Security.Exempt; len(e.Namespaces) != 1 || len(e.Usernames) != 1 || len(e.RuntimeClasses) != 1 {
		t.Errorf("%+v", e)
	}
	if len(s.Limited) != 1 || s.Limited[0].MatchContains[0] != "cpu" || s.Limited[0].MatchScopes[0].Values[0] != "x" {
		t.Errorf("%+v", s.Limited)
	}
	if len(s.Events) != 1 || s.Events[0] != (EventLimit{ByNamespace, 5, 10, 3}) {
		t.Errorf("%+v", s.Events)
	}
	if s, err := Load(""); err != nil || !s.Security.Defaults.FullyPrivileged() {
		t.Errorf("%+v %v", s, err)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	security := func(rest string) string {
		return head + "- name: PodSecurity\n  configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, " + rest + "}\n"
	}
	events := func(limits string) string {
		return head + "- name: EventRateLimit\n  configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [" + limits + "]}\n"
	}
	hooks := func(rest string) string {
		return head + "- name: ValidatingAdmissionWebhook\n  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, " + rest + "}\n"
	}
	users := write(t, "kubeconfig", "apiVersion: v1\nkind: Config\nusers: [{name: x.example.com, user: {exec: {command: get-token, apiVersion: client.authentication.k8s.io/v1}}}]\n")
	for _, tc := range []struct{ name, text, says string }{
		{"another kind", "apiVersion: v1\nkind: Secret\n", "expected a AdmissionConfiguration of apiserver.config.k8s.io/v1"},
		{"unknown field", strings.Replace(head, "plugins:", "more: 1\nplugins: []", 1), `unknown field "more"`},
		{"unknown plugin", head + "- name: PodSecure\n", `there is nothing to configure of a plugin "PodSecure"`},
		{"a plugin without settings", head + "- name: NodeRestriction\n", `there is nothing to configure of a plugin "NodeRestriction"`},
		{"twice", head + "- name: ResourceQuota\n- name: ResourceQuota\n", "the plugin ResourceQuota is there twice"},
		{"no such file", head + "- name: ResourceQuota\n  path: nowhere.yaml\n", "nowhere.yaml: no such file"},
		{"bad level", security("defaults: {enforce: strict}"), `must be one of privileged, baseline, restricted`},
		{"bad version", security("defaults: {enforce-version: 1.2}"), "defaults"},
		{"unknown field of a plugin", security("default: {}"), `unknown field "default"`},
		{"exempt twice", security("exemptions: {namespaces: [a, a]}"), "Duplicate value"},
		{"quota without a resource", head + "- name: ResourceQuota\n  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: ResourceQuotaConfiguration, limitedResources: [{matchContains: [x]}]}\n", "limitedResources[0].resource: Required value"},
		{"no limits", events(""), "limits: Invalid value: must not be empty"},
		{"a limit by nothing", events("{type: Node, qps: 1, burst: 1}"), `limits[0].type: Unsupported value: "Node"`},
		{"a limit of nothing", events("{type: User}"), "limits[0].burst: Invalid value: 0: must be positive"},
		{"relative kubeconfig", hooks("kubeConfigFile: config"), "must be an absolute file path"},
		{"no kubeconfig", hooks("kubeConfigFile: /nowhere/config"), "no such file"},
		{"exec", hooks("kubeConfigFile: " + users), "user x.example.com: exec plugins are not supported here"},
		{"manifests", hooks("staticManifestsDir: /etc/hooks"), "ManifestBasedAdmissionControlConfig"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Load(write(t, "c.yaml", tc.text)); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}

func TestIdentities(t *testing.T) {
	token := write(t, "token", "from-file\n")
	path := write(t, "kubeconfig", `apiVersion: v1
kind: Config
current-context: usual
contexts: [{name: usual, context: {cluster: c, user: somebody}}]
clusters: [{name: c, cluster: {server: "https://unused"}}]
users:
- {name: "exact.example.com:8443", user: {token: exact}}
- {name: "plain.example.com", user: {username: u, password: p}}
- {name: "*.example.com", user: {token: star}}
- {name: "*.shop.svc", user: {tokenFile: `+token+`}}
- {name: somebody, user: {token: usual}}
`)
	i, err := readWebhooks([]byte("{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: " + path + "}"))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]webhook.Identity{
		"exact.example.com:8443": {Token: "exact"}, "exact.example.com:443": {Token: "star"}, "plain.example.com:443": {User: "u", Password: "p"},
		"hook.shop.svc:443": {Token: "from-file"}, "hook.shop.svc:8443": {Token: "usual"}, "elsewhere:443": {Token: "usual"},
	} {
		if got, err := i.For(target); err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", target, got, err, want)
		}
	}
	if got, err := (*Identities)(nil).For("x:443"); err != nil || got != (webhook.Identity{}) {
		t.Errorf("%+v %v", got, err)
	}
}
