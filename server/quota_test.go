package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	core "k8s.io/api/core/v1"
)

const quotasPath = "/api/v1/namespaces/a/resourcequotas"

// TestQuotaAtTheEdge: of 100 parallel creates exactly as many pass as fit, and not one more
// passes before one is deleted.
func TestQuotaAtTheEdge(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin, [2]string{quotasPath, `{"metadata":{"name":"q"},"spec":{"hard":{"pods":"7"}}}`})
	var made atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			code, m := admin.message("POST", pods, fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"containers":[{"name":"c","image":"x"}]}}`, i))
			switch {
			case code == 201:
				made.Add(1)
			case code != 403 || !strings.Contains(m, "exceeded quota: q, requested: pods=1, used: pods=7, limited: pods=7"):
				t.Errorf("%d %s", code, m)
			}
		})
	}
	wg.Wait()
	if n := made.Load(); n != 7 {
		t.Fatalf("%d pods were let in", n)
	}
}

// TestQuotaIsGivenBack: writes that fail later take nothing.
func TestQuotaIsGivenBack(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin,
		[2]string{quotasPath, `{"metadata":{"name":"q"},"spec":{"hard":{"count/secrets":"2"}}}`},
		[2]string{"/api/v1/namespaces/a/secrets", `{"metadata":{"name":"s"}}`})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if code, m := admin.message("POST", "/api/v1/namespaces/a/secrets", `{"metadata":{"name":"s"}}`); code != 409 && code != 403 {
				t.Errorf("%d %s", code, m)
			}
		})
	}
	wg.Wait()
	if code, m := admin.message("POST", "/api/v1/namespaces/a/secrets?dryRun=All", `{"metadata":{"name":"d"}}`); code != 201 {
		t.Error(code, m)
	}
	if code, m := admin.message("POST", "/api/v1/namespaces/a/secrets", `{"metadata":{"name":"s2"}}`); code != 201 {
		t.Error(code, m)
	}
	if code, m := admin.message("POST", "/api/v1/namespaces/a/secrets", `{"metadata":{"name":"s3"}}`); code != 403 || m != `secrets "s3" is forbidden: exceeded quota: q, requested: count/secrets=1, used: count/secrets=2, limited: count/secrets=2` {
		t.Error(code, m)
	}
}

// TestQuotaIsFreeAtOnce: what a deletion frees can be taken by the very next request, without
// waiting for a controller.
func TestQuotaIsFreeAtOnce(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin, [2]string{quotasPath, `{"metadata":{"name":"q"},"spec":{"hard":{"pods":"1","count/configmaps":"1"}}}`})
	const maps = "/api/v1/namespaces/a/configmaps"
	for i := range 40 {
		for path, body := range map[string]string{
			pods: fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"containers":[{"name":"c","image":"x"}]}}`, i),
			maps: fmt.Sprintf(`{"metadata":{"name":"p%d"}}`, i),
		} {
			if code, m := admin.message("POST", path, body); code != 201 {
				t.Fatalf("round %d: %d %s", i, code, m)
			}
			if code, m := admin.message("DELETE", fmt.Sprintf("%s/p%d?gracePeriodSeconds=0", path, i), ""); code != 200 {
				t.Fatalf("round %d: %d %s", i, code, m)
			}
		}
	}
}

// TestQuotaKinds: what each kind of limit refuses; the first object fits, the second does not.
func TestQuotaKinds(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin,
		[2]string{crdPath, `{"metadata":{"name":"toys.x.io"},"spec":{"group":"x.io","scope":"Namespaced","names":{"plural":"toys","singular":"toy","kind":"Toy"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`},
		[2]string{"/apis/scheduling.k8s.io/v1/priorityclasses", `{"metadata":{"name":"high"},"value":1000}`},
	)
	waitFor(t, "the custom resource is served", func() bool {
		code, _ := admin.do("GET", "/apis/x.io/v1/namespaces/a/toys", "")
		return code == 200
	})
	pod := func(name, container, rest string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"containers":[{"name":"c","image":"x"%s}]%s}}`, name, container, rest)
	}
	claim := func(name, rest string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"3Gi"}}%s}}`, name, rest)
	}
	const claims, services = "/api/v1/namespaces/a/persistentvolumeclaims", "/api/v1/namespaces/a/services"
	gpu := `,"resources":{"limits":{"nvidia.com/gpu":"3"}}`
	device := func(name string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"big","count":2}}]}}}`, name)
	}
	for _, tc := range []struct{ name, spec, path, first, second, says string }{
		{"extended resource", `"hard":{"requests.nvidia.com/gpu":"4"}`, pods, pod("a", gpu, ""), pod("b", gpu, ""), "requested: requests.nvidia.com/gpu=3, used: requests.nvidia.com/gpu=3, limited: requests.nvidia.com/gpu=4"},
		{"ephemeral storage", `"hard":{"requests.ephemeral-storage":"1Gi"}`, pods, pod("a", `,"resources":{"requests":{"ephemeral-storage":"600Mi"}}`, ""), pod("b", `,"resources":{"requests":{"ephemeral-storage":"600Mi"}}`, ""), "requested: requests.ephemeral-storage=600Mi, used: requests.ephemeral-storage=600Mi, limited: requests.ephemeral-storage=1Gi"},
		{"limits", `"hard":{"limits.memory":"1Gi"}`, pods, pod("a", `,"resources":{"limits":{"memory":"1Gi"}}`, ""), pod("b", `,"resources":{"limits":{"memory":"1Mi"}}`, ""), "requested: limits.memory=1Mi, used: limits.memory=1Gi, limited: limits.memory=1Gi"},
		{"storage class", `"hard":{"fast.storageclass.storage.k8s.io/requests.storage":"5Gi"}`, claims, claim("a", `,"storageClassName":"fast"`), claim("b", `,"storageClassName":"fast"`), "requested: fast.storageclass.storage.k8s.io/requests.storage=3Gi, used: fast.storageclass.storage.k8s.io/requests.storage=3Gi, limited: fast.storageclass.storage.k8s.io/requests.storage=5Gi"},
		{"other storage class", `"hard":{"fast.storageclass.storage.k8s.io/requests.storage":"5Gi"}`, claims, claim("a", `,"storageClassName":"fast"`), claim("b", `,"storageClassName":"slow"`), ""},
		{"load balancers", `"hard":{"services.loadbalancers":"1"}`, services, `{"metadata":{"name":"a"},"spec":{"type":"LoadBalancer","ports":[{"port":80}]}}`, `{"metadata":{"name":"b"},"spec":{"type":"LoadBalancer","ports":[{"port":80}]}}`, "requested: services.loadbalancers=1"},
		{"node ports", `"hard":{"services.nodeports":"1"}`, services, `{"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`, `{"metadata":{"name":"b"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`, "requested: services.nodeports=1"},
		{"custom resources", `"hard":{"count/toys.x.io":"1"}`, "/apis/x.io/v1/namespaces/a/toys", `{"apiVersion":"x.io/v1","kind":"Toy","metadata":{"name":"a"}}`, `{"apiVersion":"x.io/v1","kind":"Toy","metadata":{"name":"b"}}`, `toys.x.io "b" is forbidden: exceeded quota: q, requested: count/toys.x.io=1, used: count/toys.x.io=1, limited: count/toys.x.io=1`},
		{"devices", `"hard":{"big.deviceclass.resource.k8s.io/devices":"3"}`, "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims", device("a"), device("b"), "requested: big.deviceclass.resource.k8s.io/devices=2, used: big.deviceclass.resource.k8s.io/devices=2, limited: big.deviceclass.resource.k8s.io/devices=3"},
		{"terminating", `"hard":{"pods":"1"},"scopes":["Terminating"]`, pods, pod("a", "", `,"activeDeadlineSeconds":5`), pod("b", "", `,"activeDeadlineSeconds":5`), "requested: pods=1"},
		{"not terminating", `"hard":{"pods":"1"},"scopes":["NotTerminating"]`, pods, pod("a", "", ``), pod("b", "", `,"activeDeadlineSeconds":5`), ""},
		{"best effort", `"hard":{"pods":"1"},"scopes":["BestEffort"]`, pods, pod("a", "", ""), pod("b", `,"resources":{"requests":{"cpu":"1m"}}`, ""), ""},
		{"not best effort", `"hard":{"pods":"1"},"scopes":["NotBestEffort"]`, pods, pod("a", `,"resources":{"requests":{"cpu":"1m"}}`, ""), pod("b", `,"resources":{"limits":{"cpu":"1m"}}`, ""), "requested: pods=1, used: pods=1, limited: pods=1"},
		{"best effort again", `"hard":{"pods":"1"},"scopes":["BestEffort"]`, pods, pod("a", "", ""), pod("b", "", ""), "requested: pods=1, used: pods=1, limited: pods=1"},
		{"priority", `"hard":{"pods":"1"},"scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"In","values":["high"]}]}`, pods, pod("a", "", `,"priorityClassName":"high"`), pod("b", "", `,"priorityClassName":"high"`), "requested: pods=1"},
		{"affinity", `"hard":{"pods":"0"},"scopes":["CrossNamespacePodAffinity"]`, pods, pod("a", "", ""), pod("b", "", `,"affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"k","namespaces":["b"],"labelSelector":{}}]}}`), "requested: pods=1, used: pods=0, limited: pods=0"},
		{"attributes", `"hard":{"persistentvolumeclaims":"1"},"scopeSelector":{"matchExpressions":[{"scopeName":"VolumeAttributesClass","operator":"In","values":["gold"]}]}`, claims, claim("a", `,"volumeAttributesClassName":"gold"`), claim("b", `,"volumeAttributesClassName":"gold"`), "requested: persistentvolumeclaims=1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			setUp(t, admin, [2]string{quotasPath, `{"metadata":{"name":"q"},"spec":{` + tc.spec + `}}`}, [2]string{tc.path, tc.first})
			code, m := admin.message("POST", tc.path, tc.second)
			if tc.says == "" && code != 201 || tc.says != "" && (code != 403 || !strings.Contains(m, tc.says)) {
				t.Errorf("%d %s", code, m)
			}
			waitFor(t, "the quota's status", func() bool {
				var q core.ResourceQuota
				_, text := admin.do("GET", quotasPath+"/q", "")
				if err := json.Unmarshal([]byte(text), &q); err != nil || len(q.Status.Used) != len(q.Spec.Hard) {
					return false
				}
				for k := range q.Spec.Hard {
					n := q.Status.Used[k]
					if n.IsZero() && tc.name != "affinity" {
						return false
					}
				}
				return true
			})
			for _, n := range []string{"a", "b"} {
				admin.do("PATCH", tc.path+"/"+n, `{"metadata":{"finalizers":null}}`) // the controllers that free claims do not run here
				admin.do("DELETE", tc.path+"/"+n+"?gracePeriodSeconds=0", "")
			}
			admin.do("DELETE", quotasPath+"/q", "")
		})
	}
}

// A card is one card, whether a pod asks for it plainly or a claim by its class.
func TestQuotaCountsCardsOfPodsAndClaims(t *testing.T) {
	_, admin := admitted(t)
	claim := func(name string, n int) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"cards","count":%d}}]}}}`, name, n)
	}
	setUp(t, admin,
		[2]string{quotasPath, `{"metadata":{"name":"q"},"spec":{"hard":{"requests.x.io/card":"4"}}}`},
		[2]string{"/apis/resource.k8s.io/v1/deviceclasses", `{"metadata":{"name":"cards"},"spec":{"extendedResourceName":"x.io/card"}}`},
		[2]string{pods, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{"x.io/card":"2"}}}]}}`},
		[2]string{"/apis/resource.k8s.io/v1/namespaces/a/resourceclaims", claim("one", 1)})
	if code, m := admin.message("POST", "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims", claim("two", 2)); code != 403 || !strings.Contains(m, "exceeded quota: q, requested: requests.x.io/card=2, used: requests.x.io/card=3, limited: requests.x.io/card=4") {
		t.Errorf("a claim beyond the quota: %d %s", code, m)
	}
	if code, m := admin.message("POST", pods, `{"metadata":{"name":"r"},"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{"x.io/card":"2"}}}]}}`); code != 403 || !strings.Contains(m, "used: requests.x.io/card=3") {
		t.Errorf("a pod beyond the quota: %d %s", code, m)
	}
	waitFor(t, "the quota's status", func() bool {
		var q core.ResourceQuota
		_, text := admin.do("GET", quotasPath+"/q", "")
		if err := json.Unmarshal([]byte(text), &q); err != nil {
			return false
		}
		n := q.Status.Used["requests.x.io/card"]
		return n.String() == "3"
	})
}
