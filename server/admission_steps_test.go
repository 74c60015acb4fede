package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/datastore/memory"
	"orch/server/registry"
)

// TestPodGetsTheZoneOfItsNode: when it is bound, and at once where it comes with a node.
func TestPodGetsTheZoneOfItsNode(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin,
		[2]string{"/api/v1/nodes", `{"metadata":{"name":"n","labels":{"topology.kubernetes.io/zone":"z1","topology.kubernetes.io/region":"r1","other":"x"}}}`},
		[2]string{pods, `{"metadata":{"name":"bound","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}`},
		[2]string{pods + "/bound/binding", `{"metadata":{"name":"bound"},"target":{"kind":"Node","name":"n"}}`},
		[2]string{pods, `{"metadata":{"name":"born","labels":{"a":"b"}},"spec":{"nodeName":"n","containers":[{"name":"c","image":"x"}]}}`},
	)
	want := map[string]string{"a": "b", "topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1"}
	for _, name := range []string{"bound", "born"} {
		var p core.Pod
		_, text := admin.do("GET", pods+"/"+name, "")
		if err := json.Unmarshal([]byte(text), &p); err != nil || !maps.Equal(p.Labels, want) || p.Spec.NodeName != "n" {
			t.Errorf("%s: %v %v", name, p.Labels, err)
		}
	}
}

// TestOnlyMountableSecrets: pods of an account that asks for it use no secrets but the account's.
func TestOnlyMountableSecrets(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin, [2]string{"/api/v1/namespaces/a/serviceaccounts",
		`{"metadata":{"name":"strict","annotations":{"kubernetes.io/enforce-mountable-secrets":"true"}},"secrets":[{"name":"mine"}],"imagePullSecrets":[{"name":"reg"}]}`})
	pod := func(container, rest string) string {
		return `{"metadata":{"name":"p"},"spec":{"serviceAccountName":"strict","containers":[{"name":"c","image":"x"` + container + `}]` + rest + `}}`
	}
	env := `,"env":[{"name":"E","valueFrom":{"secretKeyRef":{"name":"theirs","key":"k"}}}]`
	for _, tc := range []struct{ name, body, says string }{
		{"own secret", pod(strings.ReplaceAll(env, "theirs", "mine"), `,"volumes":[{"name":"v","secret":{"secretName":"mine"}}]`), ""},
		{"volume", pod("", `,"volumes":[{"name":"v","secret":{"secretName":"theirs"}}]`), `pods "p" is forbidden: volume with secret.secretName="theirs" is not allowed because service account strict does not reference that secret`},
		{"environment", pod(env, ""), `container c with envVar E referencing secret.secretName="theirs" is not allowed because service account strict does not reference that secret`},
		{"init container", pod("", `,"initContainers":[{"name":"i","image":"x"`+env+`}]`), `init container i with envVar E referencing secret.secretName="theirs" is not allowed`},
		{"pull secret", pod("", `,"imagePullSecrets":[{"name":"theirs"}]`), `imagePullSecrets[0].name="theirs" is not allowed because service account strict does not reference that imagePullSecret`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, m := admin.message("POST", pods+"?dryRun=All", tc.body)
			if tc.says == "" && code != 201 || tc.says != "" && (code != 403 || !strings.Contains(m, tc.says)) {
				t.Errorf("%d %s", code, m)
			}
		})
	}
}

// TestStorageIsProtected: what is in use bears a finalizer from its first moment on.
func TestStorageIsProtected(t *testing.T) {
	_, admin := admitted(t)
	for _, tc := range []struct{ path, body, finalizer string }{
		{"/api/v1/namespaces/a/persistentvolumeclaims", `{"metadata":{"name":"c","finalizers":["x.io/y"]},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`, "kubernetes.io/pvc-protection"},
		{"/api/v1/persistentvolumes", `{"metadata":{"name":"v"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/x"}}}`, "kubernetes.io/pv-protection"},
		{"/apis/storage.k8s.io/v1/volumeattributesclasses", `{"metadata":{"name":"g"},"driverName":"d.io","parameters":{"a":"b"}}`, "kubernetes.io/vac-protection"},
	} {
		if code, text := admin.do("POST", tc.path, tc.body); code != 201 || !strings.Contains(text, `"`+tc.finalizer+`"`) {
			t.Errorf("%d %s", code, text)
		}
	}
}

// TestResizeStaysWithinTheLimits: a LimitRange bounds resizing as it bounds creation.
func TestResizeStaysWithinTheLimits(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin,
		[2]string{"/api/v1/namespaces/a/limitranges", `{"metadata":{"name":"l"},"spec":{"limits":[{"type":"Container","max":{"cpu":"1"}}]}}`},
		[2]string{pods, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{"cpu":"500m"}}}]}}`})
	code, m := admin.message("PATCH", pods+"/p/resize", `{"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{"cpu":"2"},"requests":{"cpu":"2"}}}]}}`)
	if code != 403 || !strings.Contains(m, "maximum cpu usage per Container is 1, but limit is 2") {
		t.Errorf("%d %s", code, m)
	}
}

// TestPodSecurityIsAudited: what the audit log is told, and what the user.
func TestPodSecurityIsAudited(t *testing.T) {
	s, admin := admitted(t)
	setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"s","labels":{"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/audit":"restricted","pod-security.kubernetes.io/warn":"restricted","pod-security.kubernetes.io/warn-version":"v1.30"}}}`})
	notes, warned := map[string]string{}, ""
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "s"}, Spec: core.PodSpec{Containers: []core.Container{{Name: "c", Image: "x"}}}}
	err := s.admit.Validate(context.Background(), &registry.Attributes{
		Operation: registry.Create, Resource: s.registry.For(api.Pods.Facts), Namespace: "s", Name: "p", Object: pod, User: registry.User{Name: "ada"},
		Warn: func(text string) { warned = text }, Annotate: func(k, v string) { notes[k] = v },
	})
	if err != nil || notes["pod-security.kubernetes.io/enforce-policy"] != "baseline:latest" ||
		!strings.HasPrefix(notes["pod-security.kubernetes.io/audit-violations"], `would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false`) ||
		!strings.HasPrefix(warned, `would violate PodSecurity "restricted:v1.30": `) {
		t.Errorf("%v %v %q", err, notes, warned)
	}
}

// TestGPUTaintIsTolerated: with the setting, who asks for NVIDIA's resources by any name gets
// onto tainted nodes; nobody else does, and nobody does without the setting.
func TestGPUTaintIsTolerated(t *testing.T) {
	const tolerated = `{"key":"nvidia.com/gpu","operator":"Exists","effect":"NoSchedule"}`
	for _, on := range []bool{true, false} {
		admin := user(t, start(t, memory.New(), func(c *Config) { c.GPUTaint = on; c.DisableAdmissionPlugins = []string{"ServiceAccount"} }), "admin", "system:masters")
		setUp(t, admin, [2]string{"/api/v1/namespaces", `{"metadata":{"name":"a"}}`})
		for name, want := range map[string]bool{"nvidia.com/gpu": on, "nvidia.com/mig-1g.10gb": on, "nvidia.com/gpu.shared": on, "example.com/gpu": false} {
			body := fmt.Sprintf(`{"metadata":{"generateName":"p"},"spec":{"containers":[{"name":"c","image":"x:1","resources":{"limits":{"%s":"1"}}}]}}`, name)
			code, text := admin.do("POST", "/api/v1/namespaces/a/pods", body)
			if code != 201 || strings.Contains(text, tolerated) != want || strings.Count(text, tolerated) > 1 {
				t.Errorf("setting %v, %s: %d %s", on, name, code, text)
			}
		}
	}
}
