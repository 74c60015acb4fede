package server

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

// nodes fills a cluster with two nodes, each with one pod that uses its own things.
func nodes(t *testing.T) *Server {
	t.Helper()
	s := start(t, memory.New(), nil)
	c := s.Client("test", api.GroupMasters)
	ctx := t.Context()
	makeAccount(t, s, "default", "default")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"1", "2"} {
		must(client.Create(ctx, c, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n" + n}}))
		makeAccount(t, s, "default", "sa"+n)
		for _, kind := range []string{"a", "b", "pull"} {
			must(client.Create(ctx, c, api.Secrets, &core.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "secret-" + kind + n}}))
			must(client.Create(ctx, c, api.ConfigMaps, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "config-" + kind + n}}))
		}
		must(client.Create(ctx, c, api.PersistentVolumeClaims, &core.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "claim" + n},
			Spec: core.PersistentVolumeClaimSpec{
				AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce}, VolumeName: "pv" + n,
				Resources: core.VolumeResourceRequirements{Requests: core.ResourceList{core.ResourceStorage: quantity("1Gi")}},
			},
		}))
		must(client.Create(ctx, c, api.PersistentVolumes, &core.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv" + n},
			Spec: core.PersistentVolumeSpec{
				Capacity: core.ResourceList{core.ResourceStorage: quantity("1Gi")}, AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
				PersistentVolumeSource: core.PersistentVolumeSource{CSI: &core.CSIPersistentVolumeSource{
					Driver: "x.example.com", VolumeHandle: "h", NodePublishSecretRef: &core.SecretReference{Namespace: "default", Name: "secret-pull" + n},
				}},
				ClaimRef: &core.ObjectReference{Namespace: "default", Name: "claim" + n},
			},
		}))
		must(client.Create(ctx, c, api.Pods, podOn(n)))
	}
	return s
}

func podOn(n string) *core.Pod {
	return &core.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod" + n},
		Spec: core.PodSpec{
			NodeName: "n" + n, ServiceAccountName: "sa" + n,
			Containers: []core.Container{{
				Name: "c", Image: "x",
				Env: []core.EnvVar{{Name: "A", ValueFrom: &core.EnvVarSource{ConfigMapKeyRef: &core.ConfigMapKeySelector{LocalObjectReference: core.LocalObjectReference{Name: "config-a" + n}, Key: "k"}}}},
			}},
			Volumes: []core.Volume{
				{Name: "s", VolumeSource: core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: "secret-a" + n}}},
				{Name: "p", VolumeSource: core.VolumeSource{PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "claim" + n}}},
			},
		},
	}
}

const mirrorPod = `{"metadata":{"name":"m","annotations":{"kubernetes.io/config.mirror":"x"}},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"x"}]`

type refusal struct{ name, verb, path, body, says string }

const ns, other = "/api/v1/namespaces/default/", "/api/v1/namespaces/kube-system/"

func tokenBody(bound string) string {
	return `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{` + bound + `}}`
}

// forbidden is the table of what the credential of node n1 must not do; uid2 is that of the other node's pod, uid1 that of its own.
func forbidden(uid1, uid2 string) []refusal {
	return []refusal{
		{"list all secrets", "GET", "/api/v1/secrets", "", "can only read namespaced object of this type"},
		{"list a namespace's secrets", "GET", ns + "secrets", "", "No Object name found"},
		{"watch a namespace's secrets", "GET", ns + "secrets?watch=1", "", "No Object name found"},
		{"read a secret that no pod uses", "GET", ns + "secrets/secret-b1", "", "no relationship found between node 'n1' and this object"},
		{"read another node's secret", "GET", ns + "secrets/secret-a2", "", "no relationship found"},
		{"list another node's secret by name", "GET", ns + "secrets?fieldSelector=metadata.name%3Dsecret-a2", "", "no relationship found"},
		{"read another node's volume secret", "GET", ns + "secrets/secret-pull2", "", "no relationship found"},
		{"write a secret of its own pod", "PATCH", ns + "secrets/secret-a1", `{"data":{"x":"eA=="}}`, "can only read resources of this type"},
		{"create a secret", "POST", ns + "secrets", `{"metadata":{"name":"new"}}`, "can only read resources of this type"},
		{"delete a secret of its own pod", "DELETE", ns + "secrets/secret-a1", "", "can only read resources of this type"},
		{"delete a namespace's secrets", "DELETE", ns + "secrets", "", "can only read resources of this type"},
		{"list all configmaps", "GET", "/api/v1/configmaps", "", "can only read namespaced object of this type"},
		{"list a namespace's configmaps", "GET", ns + "configmaps", "", "No Object name found"},
		{"read another node's configmap", "GET", ns + "configmaps/config-a2", "", "no relationship found"},
		{"read an unrelated configmap", "GET", other + "configmaps/extension-apiserver-authentication", "", "no relationship found"},
		{"write its configmap", "PATCH", ns + "configmaps/config-a1", `{"data":{"x":"y"}}`, "can only read resources of this type"},
		{"read another node's claim", "GET", ns + "persistentvolumeclaims/claim2", "", "no relationship found"},
		{"list claims", "GET", ns + "persistentvolumeclaims", "", "can only get individual resources of this type"},
		{"write its claim", "PATCH", ns + "persistentvolumeclaims/claim1", `{"metadata":{"labels":{"a":"b"}}}`, "can only get individual resources of this type"},
		{"write another node's claim status", "PATCH", ns + "persistentvolumeclaims/claim2/status", `{"status":{"phase":"Bound"}}`, "no relationship found"},
		{"change the phase of its claim", "PATCH", ns + "persistentvolumeclaims/claim1/status", `{"status":{"phase":"Lost"}}`, "is not allowed to update fields other than"},
		{"read another node's volume", "GET", "/api/v1/persistentvolumes/pv2", "", "no relationship found"},
		{"list volumes", "GET", "/api/v1/persistentvolumes", "", "can only get individual resources of this type"},
		{"write its volume", "PATCH", "/api/v1/persistentvolumes/pv1", `{"metadata":{"labels":{"a":"b"}}}`, "can only get individual resources of this type"},
		{"list service accounts", "GET", ns + "serviceaccounts", "", "can only create tokens for individual service accounts"},
		{"create a service account", "POST", ns + "serviceaccounts", `{"metadata":{"name":"new"}}`, "can only create tokens for individual service accounts"},
		{"token of another node's account", "POST", ns + "serviceaccounts/sa2/token", tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod2","uid":"` + uid2 + `"}`), "no relationship found"},
		{"token of an account nobody uses", "POST", ns + "serviceaccounts/default/token", tokenBody(""), "no relationship found"},
		{"token bound to nothing", "POST", ns + "serviceaccounts/sa1/token", tokenBody(""), "node requested token not bound to a pod"},
		{"token bound to a pod without uid", "POST", ns + "serviceaccounts/sa1/token", tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1"}`), "node requested token with a pod binding without a uid"},
		{"token bound to another node's pod", "POST", ns + "serviceaccounts/sa1/token", tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod2","uid":"` + uid2 + `"}`), "node requested token bound to a pod scheduled on a different node"},
		{"token bound to a pod of an older uid", "POST", ns + "serviceaccounts/sa1/token", tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1","uid":"` + uid2 + `"}`), "does not match the UID in record"},
		{"list all pods", "GET", "/api/v1/pods", "", "can only list/watch pods with spec.nodeName field selector"},
		{"list pods of another node", "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", "", "can only list/watch pods with spec.nodeName field selector"},
		{"watch a namespace's pods", "GET", ns + "pods?watch=1", "", "can only list/watch pods with spec.nodeName field selector"},
		{"read another node's pod", "GET", ns + "pods/pod2", "", "no relationship found"},
		{"write a pod's spec", "PATCH", ns + "pods/pod1", `{"metadata":{"labels":{"a":"b"}}}`, `cannot patch resource "pods"`},
		{"delete another node's pod", "DELETE", ns + "pods/pod2", "", `node "n1" can only delete pods with spec.nodeName set to itself`},
		{"delete a namespace's pods", "DELETE", ns + "pods", "", `cannot deletecollection resource "pods"`},
		{"write another node's pod status", "PATCH", ns + "pods/pod2/status", `{"status":{"phase":"Running"}}`, `node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{"label a pod through its status", "PATCH", ns + "pods/pod1/status", `{"metadata":{"labels":{"a":"b"}}}`, `node "n1" cannot update labels through pod status`},
		{"evict another node's pod", "POST", ns + "pods/pod2/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"pod2"}}`, "can only evict pods with spec.nodeName set to itself"},
		{"bind a pod", "POST", ns + "pods/pod1/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"pod1"},"target":{"kind":"Node","name":"n1"}}`, `cannot create resource "pods/binding"`},
		{"exec into a pod", "POST", ns + "pods/pod1/exec?command=sh", "", `cannot create resource "pods/exec"`},
		{"read a pod's log", "GET", ns + "pods/pod1/log", "", `cannot get resource "pods/log"`},
		{"create a pod that is no mirror", "POST", ns + "pods", `{"metadata":{"name":"m"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"x"}]}}`, "can only create mirror pods"},
		{"create a mirror pod for another node", "POST", ns + "pods", strings.Replace(mirrorPod, `"n1"`, `"n2"`, 1) + `}}`, `node "n1" can only create pods with spec.nodeName set to itself`},
		{"create a mirror pod with a secret", "POST", ns + "pods", mirrorPod + `,"volumes":[{"name":"v","secret":{"secretName":"secret-a2"}}]}}`, `node "n1" can not create pods that reference secrets`},
		{"create a mirror pod with a configmap", "POST", ns + "pods", mirrorPod + `,"volumes":[{"name":"v","configMap":{"name":"config-a2"}}]}}`, "can not create pods that reference configmaps"},
		{"create a mirror pod with an account", "POST", ns + "pods", mirrorPod + `,"serviceAccountName":"sa2"}}`, "service account"},
		{"create a mirror pod with a secret in its environment", "POST", ns + "pods", `{"metadata":{"name":"m","annotations":{"kubernetes.io/config.mirror":""}},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"x","envFrom":[{"secretRef":{"name":"secret-a2"}}]}]}}`, `node "n1" can not create pods that reference secrets`},
		{"create a mirror pod with trust bundles", "POST", ns + "pods", mirrorPod + `,"volumes":[{"name":"v","projected":{"sources":[{"clusterTrustBundle":{"name":"x","path":"t"}}]}}]}}`, "can not create pods that reference clustertrustbundles"},
		{"create a mirror pod with an ephemeral claim", "POST", ns + "pods", mirrorPod + `,"volumes":[{"name":"v","ephemeral":{"volumeClaimTemplate":{"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}}}]}}`, "can not create pods that reference persistentvolumeclaims (via ephemeral volumes)"},
		{"create a mirror pod with devices", "POST", ns + "pods", mirrorPod + `,"resourceClaims":[{"name":"d","resourceClaimName":"x"}]}}`, "can not create pods that reference resourceclaims"},
		{"create a mirror pod that nobody owns", "POST", ns + "pods", mirrorPod + `}}`, "can only create pods with an owner reference set to itself"},
		{"token for another audience", "POST", ns + "serviceaccounts/sa1/token", tokenBody(`"audiences":["vault"],"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1","uid":"` + uid1 + `"}`), `system:node:n1 is not authorized to request tokens for audience "vault"`},
		{"token for several audiences", "POST", ns + "serviceaccounts/sa1/token", tokenBody(`"audiences":["a","b"],"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1","uid":"` + uid1 + `"}`), "node may only request 0 or 1 audiences"},
		{"read the status of its csinode", "GET", "/apis/storage.k8s.io/v1/csinodes/n1/status", "", "CSINode status access requires CSIVolumeHealth feature"},
		{"write a pod certificate", "PATCH", "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests/x/status", `{}`, "nodes may not access the status subresource of PodCertificateRequests"},
		{"delete a pod certificate request", "DELETE", "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests/x", "", "nodes may not delete podcertificaterequests"},
		{"list all pod certificate requests", "GET", "/apis/certificates.k8s.io/v1/podcertificaterequests", "", "can only list/watch podcertificaterequests with nodeName field selector"},
		{"list all resource slices", "GET", "/apis/resource.k8s.io/v1/resourceslices", "", "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"act as another", "GET", "/api/v1/nodes?as=admin", "", "cannot impersonate-on:user-info:list"},
		{"create another node", "POST", "/api/v1/nodes", `{"metadata":{"name":"n3"}}`, `node "n1" is not allowed to modify node "n3"`},
		{"write another node", "PATCH", "/api/v1/nodes/n2", `{"metadata":{"annotations":{"a":"b"}}}`, `node "n1" is not allowed to modify node "n2"`},
		{"write another node's status", "PATCH", "/api/v1/nodes/n2/status", `{"status":{"phase":"Running"}}`, `node "n1" is not allowed to modify node "n2"`},
		{"delete its node", "DELETE", "/api/v1/nodes/n1", "", `cannot delete resource "nodes"`},
		{"delete another node", "DELETE", "/api/v1/nodes/n2", "", `cannot delete resource "nodes"`},
		{"take its taints off", "PATCH", "/api/v1/nodes/n1", `{"spec":{"taints":[]}}`, `node "n1" is not allowed to modify taints`},
		{"give itself a guarded label", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}`, "is not allowed to modify labels: node-restriction.kubernetes.io/x"},
		{"give itself a role", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`, "is not allowed to modify labels"},
		{"proxy to a node", "GET", "/api/v1/nodes/n2/proxy/healthz", "", `cannot get resource "nodes/proxy"`},
		{"create another node's lease", "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", `{"metadata":{"name":"n2"}}`, "can only access node lease with the same name as the requesting node"},
		{"read another node's lease", "GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2", "", "can only access node lease with the same name as the requesting node"},
		{"create a lease elsewhere", "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", `{"metadata":{"name":"n1"}}`, `can only access leases in the "kube-node-lease" system namespace`},
		{"list leases", "GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", "", "can only get, create, update, patch, or delete a node lease"},
		{"write another node's csinode", "POST", "/apis/storage.k8s.io/v1/csinodes", `{"metadata":{"name":"n2"},"spec":{"drivers":[]}}`, "can only access CSINode with the same name as the requesting node"},
		{"create a namespace", "POST", "/api/v1/namespaces", `{"metadata":{"name":"x"}}`, `cannot create resource "namespaces"`},
		{"create a deployment", "POST", "/apis/apps/v1/namespaces/default/deployments", `{"metadata":{"name":"x"}}`, `cannot create resource "deployments"`},
		{"make itself an administrator", "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"metadata":{"name":"x"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"}}`, `cannot create resource "clusterrolebindings"`},
		{"write a service", "PATCH", ns + "services/kubernetes", `{"metadata":{"labels":{"a":"b"}}}`, `cannot patch resource "services"`},
		{"approve a certificate", "PATCH", "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval", `{}`, `cannot patch resource "certificatesigningrequests/approval"`},
		{"read metrics", "GET", "/metrics", "", `cannot get path "/metrics"`},
		{"see how secrets are encrypted", "GET", "/orch/v1/secrets-encryption", "", `cannot get path "/orch/v1/secrets-encryption"`},
		{"write secrets in plain", "POST", "/orch/v1/secrets-encryption", `{"action":"disable"}`, `cannot post path "/orch/v1/secrets-encryption"`},
		{"rotate the join token", "POST", "/orch/v1/token", `{}`, `cannot post path "/orch/v1/token"`},
		{"profile the server", "GET", "/debug/pprof/heap", "", `cannot get path "/debug/pprof/heap"`},
		{"read bootstrap tokens", "GET", other + "secrets?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken", "", "No Object name found"},
		{"read another's volume attachment", "GET", "/apis/storage.k8s.io/v1/volumeattachments/x", "", "no relationship found"},
		{"list resource claims", "GET", "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", "", "can only get individual resources of this type"},
		{"read an unrelated resource claim", "GET", "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/x", "", "no relationship found"},
		{"give itself a role", "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", `{"metadata":{"name":"x"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"admin"}}`, `cannot create resource "rolebindings"`},
		{"sign a certificate", "PATCH", "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/status", `{}`, `cannot patch resource "certificatesigningrequests/status"`},
		{"delete all events", "DELETE", ns + "events", "", `cannot deletecollection resource "events"`},
	}
}

func TestNodeIsConfined(t *testing.T) {
	s := nodes(t)
	n1 := user(t, s, "system:node:n1", api.GroupNodes)
	uid1 := string(client.Cached(s.Client("x"), api.Pods, "default", "pod1").UID)
	nodeUID := string(client.Cached(s.Client("x"), api.Nodes, "", "n1").UID)
	uid2 := string(client.Cached(s.Client("x"), api.Pods, "default", "pod2").UID)
	for _, tc := range forbidden(uid1, uid2) {
		t.Run(tc.name, func(t *testing.T) {
			n1.header.Del("Impersonate-User")
			if strings.Contains(tc.path, "as=admin") {
				n1.header.Set("Impersonate-User", "admin")
			}
			code, message := n1.message(tc.verb, tc.path, tc.body)
			if code != 403 || !strings.Contains(message, tc.says) {
				t.Errorf("got %d %s\nwant 403 with %s", code, message, tc.says)
			}
		})
	}
	for _, tc := range []struct {
		name, verb, path, body string
		code                   int
	}{
		{"read its secret", "GET", ns + "secrets/secret-a1", "", 200},
		{"list its secret by name", "GET", ns + "secrets?fieldSelector=metadata.name%3Dsecret-a1", "", 200},
		{"read its volume's secret", "GET", ns + "secrets/secret-pull1", "", 200},
		{"read its configmap", "GET", ns + "configmaps/config-a1", "", 200},
		{"read its claim", "GET", ns + "persistentvolumeclaims/claim1", "", 200},
		{"read its volume", "GET", "/api/v1/persistentvolumes/pv1", "", 200},
		{"list its pods", "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "", 200},
		{"read a pod that is gone", "GET", ns + "pods/nix", "", 404},
		{"read its pod", "GET", ns + "pods/pod1", "", 200},
		{"write its pod's status", "PATCH", ns + "pods/pod1/status", `{"status":{"phase":"Running"}}`, 200},
		{"token for its pod", "POST", ns + "serviceaccounts/sa1/token", tokenBody(`"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"pod1","uid":"` + uid1 + `"}`), 201},
		{"read its node", "GET", "/api/v1/nodes/n1", "", 200},
		{"list nodes for the overlay", "GET", "/api/v1/nodes", "", 200},
		{"list services", "GET", "/api/v1/services", "", 200},
		{"list endpoint slices", "GET", "/apis/discovery.k8s.io/v1/endpointslices", "", 200},
		{"annotate its node", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"annotations":{"a":"b"}}}`, 200},
		{"label its node", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"kubernetes.io/hostname":"n1"}}}`, 200},
		{"write its status", "PATCH", "/api/v1/nodes/n1/status", `{"status":{"phase":"Running"}}`, 200},
		{"create its lease", "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", `{"metadata":{"name":"n1"}}`, 201},
		{"create an event", "POST", ns + "events", `{"metadata":{"name":"e"},"involvedObject":{"namespace":"default","name":"pod1"}}`, 201},
		{"create a mirror pod", "POST", ns + "pods", strings.Replace(mirrorPod, `"annotations"`, `"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","controller":true,"uid":"`+nodeUID+`"}],"annotations"`, 1) + `}}`, 201},
		{"delete its pod", "DELETE", ns + "pods/pod1", "", 200},
	} {
		t.Run("may "+tc.name, func(t *testing.T) {
			if code, message := n1.message(tc.verb, tc.path, tc.body); code != tc.code {
				t.Errorf("got %d %s, want %d", code, message, tc.code)
			}
		})
	}
}
