package server

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"

	"orch/api"
	"orch/datastore/memory"
)

// TestDefaultClasses: what names no class gets the youngest default, or none.
func TestDefaultClasses(t *testing.T) {
	_, admin := admitted(t)
	const ingresses, claims = "/apis/networking.k8s.io/v1/namespaces/a/ingresses", "/api/v1/namespaces/a/persistentvolumeclaims"
	class := func(name, annotation, rest string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"annotations":{%q:"true"}},%s}`, name, annotation, rest)
	}
	ingressClass := func(name string) [2]string {
		return [2]string{"/apis/networking.k8s.io/v1/ingressclasses", class(name, "ingressclass.kubernetes.io/is-default-class", `"spec":{"controller":"x.io/c"}`)}
	}
	storageClass := func(name string) [2]string {
		return [2]string{"/apis/storage.k8s.io/v1/storageclasses", class(name, "storageclass.kubernetes.io/is-default-class", `"provisioner":"x.io/p"`)}
	}
	made := func(path, meta, spec string) (ingress, claim string) {
		t.Helper()
		body := `{"metadata":{"generateName":"o-"` + meta + `},"spec":{` + spec
		if path == ingresses {
			body += `"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}`
		} else {
			body += `"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`
		}
		code, text := admin.do("POST", path, body)
		var o struct {
			Spec struct{ IngressClassName, StorageClassName *string }
		}
		if err := json.Unmarshal([]byte(text), &o); code != 201 || err != nil {
			t.Fatalf("%d %s %v", code, text, err)
		}
		show := func(s *string) string {
			if s == nil {
				return "none"
			}
			return *s
		}
		return show(o.Spec.IngressClassName), show(o.Spec.StorageClassName)
	}
	if i, _ := made(ingresses, "", ""); i != "none" {
		t.Errorf("an Ingress where no class is the default: %s", i)
	}
	if _, c := made(claims, "", ""); c != "none" {
		t.Errorf("a claim where no class is the default: %s", c)
	}
	// The second is as young as the first, or younger, and the first by name.
	setUp(t, admin, ingressClass("b"), storageClass("b"))
	setUp(t, admin, ingressClass("a"), storageClass("a"))
	for _, tc := range []struct{ name, meta, spec, ingress string }{
		{"of two", "", "", "a"},
		{"named", "", `"ingressClassName":"b",`, "b"},
		{"by the annotation", `,"annotations":{"kubernetes.io/ingress.class":"z"}`, "", "none"},
	} {
		if i, _ := made(ingresses, tc.meta, tc.spec); i != tc.ingress {
			t.Errorf("an Ingress, %s: %s, want %s", tc.name, i, tc.ingress)
		}
	}
	for _, tc := range []struct{ name, meta, spec, claim string }{
		{"of two", "", "", "a"},
		{"named", "", `"storageClassName":"b",`, "b"},
		{"that wants none", "", `"storageClassName":"",`, ""},
		{"by the annotation", `,"annotations":{"volume.beta.kubernetes.io/storage-class":"z"}`, "", "none"},
	} {
		if _, c := made(claims, tc.meta, tc.spec); c != tc.claim {
			t.Errorf("a claim, %s: %s, want %s", tc.name, c, tc.claim)
		}
	}
	if code, m := admin.message("POST", "/apis/networking.k8s.io/v1/ingressclasses", class("c", networking.AnnotationIsDefaultIngressClass, `"spec":{"controller":"no"}`)); code != 422 {
		t.Errorf("a class that is none: %d %s", code, m)
	}
}

// TestClaimsGrow where they are bound and their class says that its volumes can.
func TestClaimsGrow(t *testing.T) {
	_, admin := admitted(t)
	const claims, classes = "/api/v1/namespaces/a/persistentvolumeclaims", "/apis/storage.k8s.io/v1/storageclasses"
	setUp(t, admin,
		[2]string{classes, `{"metadata":{"name":"grows"},"provisioner":"x.io/p","allowVolumeExpansion":true}`},
		[2]string{classes, `{"metadata":{"name":"stays"},"provisioner":"x.io/p","allowVolumeExpansion":false}`},
		[2]string{classes, `{"metadata":{"name":"silent"},"provisioner":"x.io/p"}`})
	const refused = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
	for _, tc := range []struct {
		name, class, size string
		bound             bool
		code              int
		says              string
	}{
		{"grows", "grows", "2Gi", true, 200, ""},
		{"no-expansion", "stays", "2Gi", true, 403, `persistentvolumeclaims "no-expansion" is forbidden: ` + refused},
		{"nothing-said", "silent", "2Gi", true, 403, refused},
		{"gone-class", "nix", "2Gi", true, 403, refused},
		{"no-class", "", "2Gi", true, 403, refused},
		{"unbound", "grows", "2Gi", false, 422, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"},
		{"shrinks", "grows", "512Mi", true, 422, "field can not be less than status.capacity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			setUp(t, admin, [2]string{claims, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"storageClassName":%q,"volumeName":"v","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`, tc.name, tc.class)})
			at := claims + "/" + tc.name
			if tc.bound {
				if code, m := admin.message("PATCH", at+"/status", `{"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}`); code != 200 {
					t.Fatal(code, m)
				}
			}
			code, m := admin.message("PATCH", at, `{"spec":{"resources":{"requests":{"storage":"`+tc.size+`"}}}}`)
			if code != tc.code || tc.says != "" && !strings.Contains(m, tc.says) {
				t.Errorf("%d %s\nwant %d %s", code, m, tc.code, tc.says)
			}
		})
	}
}

// TestMastersAreNotSigned: nobody becomes an administrator by a certificate request.
func TestMastersAreNotSigned(t *testing.T) {
	admin := user(t, start(t, memory.New(), nil), "admin", api.GroupMasters)
	const path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	post := func(name, signer string, groups ...string) (int, string) {
		return admin.message("POST", path, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"request":%q,"signerName":%q,"usages":["client auth"]}}`,
			name, requestOf(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: groups}}), signer))
	}
	const client = "kubernetes.io/kube-apiserver-client"
	if code, m := post("masters", client, "devs", api.GroupMasters); code != 403 ||
		m != `certificatesigningrequests.certificates.k8s.io "masters" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed` {
		t.Errorf("%d %s", code, m)
	}
	if code, m := post("devs", client, "devs"); code != 201 {
		t.Errorf("another group: %d %s", code, m)
	}
	if code, m := post("elsewhere", "example.com/own", api.GroupMasters); code != 201 {
		t.Errorf("a signer whose certificates mean nothing here: %d %s", code, m)
	}
}

// TestRuntimeClassSchedules: a class and a pod agree on the nodes, or the pod is refused.
func TestRuntimeClassSchedules(t *testing.T) {
	_, admin := admitted(t)
	setUp(t, admin, [2]string{"/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"vm"},"handler":"kata","scheduling":{"nodeSelector":{"vm":"yes"},
		"tolerations":[{"key":"vm","operator":"Exists"},{"key":"gpu","operator":"Equal","value":"a","effect":"NoSchedule"}]}}`})
	if code, m := admin.message("POST", pods, pod(`,"runtimeClassName":"vm","nodeSelector":{"vm":"no"}`)); code != 403 ||
		m != `pods "p" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no` {
		t.Errorf("%d %s", code, m)
	}
	code, text := admin.do("POST", pods, pod(`,"runtimeClassName":"vm","nodeSelector":{"disk":"ssd"},"tolerations":[{"key":"vm","operator":"Exists","effect":"NoSchedule"},{"key":"gpu","operator":"Exists"}]`))
	var p core.Pod
	if err := json.Unmarshal([]byte(text), &p); code != 201 || err != nil {
		t.Fatalf("%d %s %v", code, text, err)
	}
	if len(p.Spec.NodeSelector) != 2 || p.Spec.NodeSelector["vm"] != "yes" || p.Spec.NodeSelector["disk"] != "ssd" {
		t.Errorf("%v", p.Spec.NodeSelector)
	}
	var keys []string
	for _, x := range p.Spec.Tolerations {
		keys = append(keys, x.Key+" "+string(x.Operator)+" "+string(x.Effect))
	}
	// What a wider toleration says already is left out, on both sides.
	want := []string{"gpu Exists ", "node.kubernetes.io/not-ready Exists NoExecute", "node.kubernetes.io/unreachable Exists NoExecute", "vm Exists "}
	if !slices.Equal(keys, want) {
		t.Errorf("tolerations %q, want %q", keys, want)
	}
}
