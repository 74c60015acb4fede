package server

import (
	"net/url"
	"strings"
	"testing"

	"orch/api"
	"orch/api/client"
)

const (
	deviceSlices = "/apis/resource.k8s.io/v1/resourceslices"
	claims       = "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims"
)

func slice(name, node string) string {
	return `{"metadata":{"name":"` + name + `"},"spec":{"driver":"d.io","nodeName":"` + node + `","pool":{"name":"p","resourceSliceCount":1},` +
		`"devices":[{"name":"x","taints":[{"key":"a.io/b","effect":"NoSchedule"}]}]}}`
}

// A node manages its own devices, and reads the claims of its pods.
func TestDevicesOfNodes(t *testing.T) {
	s, admin := admitted(t)
	node := user(t, s, api.UserNodePrefix+"n1", api.GroupNodes)
	setUp(t, node, [2]string{deviceSlices, slice("mine", "n1")})
	setUp(t, admin,
		[2]string{deviceSlices, slice("other", "n2")},
		[2]string{claims, `{"metadata":{"name":"used"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c"}}]}}}`},
		[2]string{claims, `{"metadata":{"name":"idle"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c"}}]}}}`},
		[2]string{pods, strings.Replace(pod(`,"nodeName":"n1","resourceClaims":[{"name":"r","resourceClaimName":"used"}]`), `"image":"x"`, `"image":"x","resources":{"limits":{"x.io/y":"1"}}`, 1)},
	)
	for _, tc := range []struct {
		name, method, path, body string
		code                     int
		says                     string
	}{
		{"slice of another node", "POST", deviceSlices, slice("x", "n2"), 403, "can only create ResourceSlice with the same NodeName as the requesting node"},
		{"own slice", "GET", deviceSlices + "/mine", "", 200, ""},
		{"reading one", "GET", deviceSlices + "/other", "", 403, "no relationship found between node 'n1' and this object"},
		{"all slices", "GET", deviceSlices, "", 403, "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"own slices", "GET", deviceSlices + "?fieldSelector=" + url.QueryEscape("spec.nodeName=n1"), "", 200, ""},
		{"claim of its pod", "GET", claims + "/used", "", 200, ""},
		{"claim of nobody", "GET", claims + "/idle", "", 403, "no relationship found between node 'n1' and this object"},
		{"naming a claim for a pod", "PATCH", pods + "/p/status", `{"status":{"resourceClaimStatuses":[{"name":"r","resourceClaimName":"idle"}]}}`, 403, `node "n1" cannot update resource claim statues`},
		{"naming a claim for extended resources", "PATCH", pods + "/p/status", `{"status":{"extendedResourceClaimStatus":{"resourceClaimName":"idle","requestMappings":[{"containerName":"c","resourceName":"x.io/y","requestName":"r"}]}}}`, 403, `node "n1" cannot update extended resource claim status`},
		{"deleting its slice", "DELETE", deviceSlices + "/mine", "", 200, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, m := node.message(tc.method, tc.path, tc.body); code != tc.code || !strings.Contains(m, tc.says) {
				t.Errorf("got %d %s\nwant %d %s", code, m, tc.code, tc.says)
			}
		})
	}
}

func TestDeviceAdmission(t *testing.T) {
	s, admin := admitted(t)
	setUp(t, admin, [2]string{deviceSlices, slice("s", "n2")},
		[2]string{"/api/v1/namespaces", `{"metadata":{"name":"root","labels":{"resource.kubernetes.io/admin-access":"true"}}}`})
	seeing := `{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c","adminAccess":true}}]}}}`
	if code, m := admin.message("POST", claims, seeing); code != 422 || !strings.Contains(m, "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace") {
		t.Errorf("admin access anywhere: %d %s", code, m)
	}
	if code, m := admin.message("POST", strings.Replace(claims, "/a/", "/root/", 1), seeing); code != 201 {
		t.Errorf("admin access where it is allowed: %d %s", code, m)
	}
	if o, err := client.Get(t.Context(), s.Client("test", api.GroupMasters), api.ResourceSlices, "", "s"); err != nil || o.Spec.Devices[0].Taints[0].TimeAdded == nil {
		t.Errorf("a taint has no time: %v %v", o, err)
	}
	signer := user(t, s, "signer")
	setUp(t, admin,
		[2]string{"/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"metadata":{"name":"bundles"},"rules":[{"apiGroups":["certificates.k8s.io"],"resources":["clustertrustbundles"],"verbs":["create"]}]}`},
		[2]string{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"metadata":{"name":"bundles"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"bundles"},"subjects":[{"kind":"User","name":"signer","apiGroup":"rbac.authorization.k8s.io"}]}`},
	)
	ca := strings.ReplaceAll(strings.TrimSpace(string(s.PKI().ServerCA())), "\n", `\n`)
	bundle := `{"metadata":{"name":"x.io:y:v1"},"spec":{"signerName":"x.io/y","trustBundle":"` + ca + `"}}`
	if code, m := signer.message("POST", "/apis/certificates.k8s.io/v1/clustertrustbundles", bundle); code != 403 || !strings.Contains(m, `user not permitted to attest for signerName "x.io/y"`) {
		t.Errorf("speaking for a signer: %d %s", code, m)
	}
	if code, m := admin.message("POST", "/apis/certificates.k8s.io/v1/clustertrustbundles", bundle); code != 201 {
		t.Errorf("administrator speaking for a signer: %d %s", code, m)
	}
}

// Who may write a claim's status may not yet allocate, reserve, or speak for a driver.
func TestRightsToPartsOfAClaimsStatus(t *testing.T) {
	s, admin := admitted(t)
	const rbacPath = "/apis/rbac.authorization.k8s.io/v1/"
	role := func(name, resources, verbs, names string) {
		t.Helper()
		setUp(t, admin,
			[2]string{rbacPath + "clusterroles", `{"metadata":{"name":"` + name + `"},"rules":[{"apiGroups":["resource.k8s.io"],"resources":["` + resources + `"],"verbs":[` + verbs + `]` + names + `}]}`},
			[2]string{rbacPath + "clusterrolebindings", `{"metadata":{"name":"` + name + `"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"` + name + `"},"subjects":[{"kind":"User","name":"writer","apiGroup":"rbac.authorization.k8s.io"}]}`})
	}
	role("statuses", "resourceclaims/status", `"update","patch"`, "")
	setUp(t, admin, [2]string{claims, `{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c"}}]}}}`})
	writer := user(t, s, "writer")
	status := claims + "/c/status"
	result := `{"request":"r","driver":"d.io","pool":"p","device":"x"}`
	body := func(allocation, devices string) string {
		return `{"metadata":{"name":"c"},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c","allocationMode":"ExactCount","count":1}}]}},"status":{"allocation":` + allocation + `,"devices":` + devices + `}}`
	}
	allocated := body(`{"devices":{"results":[`+result+`]}}`, "[]")
	described := body(`{"devices":{"results":[`+result+`]}}`, `[{"driver":"d.io","pool":"p","device":"x","data":{"a":1}}]`)
	want := func(code int, says, body string) {
		t.Helper()
		if c, m := writer.message("PUT", status, body); c != code || !strings.Contains(m, says) {
			t.Errorf("got %d %s\nwant %d %s", c, m, code, says)
		}
	}
	want(200, "", body("null", "[]"))
	want(422, `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: resourceclaims.resource.k8s.io is forbidden: User "writer" cannot update resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope`, allocated)
	role("binders", "resourceclaims/binding", `"update"`, "")
	want(200, "", allocated)
	want(422, `status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:update]" permission: resourceclaims.resource.k8s.io "d.io" is forbidden: User "writer" cannot arbitrary-node:update resource "resourceclaims/driver"`, described)
	role("others", "resourceclaims/driver", `"arbitrary-node:update"`, `,"resourceNames":["other.io"]`)
	want(422, "cannot arbitrary-node:update", described)
	role("driver", "resourceclaims/driver", `"arbitrary-node:update"`, `,"resourceNames":["d.io"]`)
	want(200, "", described)
	if c, m := writer.message("PATCH", status, `{"status":{"allocation":null}}`); c != 422 || !strings.Contains(m, `verb="patch"`) {
		t.Errorf("the verb of a patch: %d %s", c, m)
	}
	// With the allocation goes what the driver said, whoever takes it back.
	want(200, "", body("null", `[{"driver":"d.io","pool":"p","device":"x","data":{"a":1}}]`))
	o, err := client.Get(t.Context(), s.Client("test", api.GroupMasters), api.ResourceClaims, "a", "c")
	if err != nil || o.Status.Allocation != nil || o.Status.Devices != nil {
		t.Errorf("left: %+v %v", o.Status, err)
	}
	admitting := body(`{"devices":{"results":[{"request":"r","driver":"d.io","pool":"p","device":"x","adminAccess":true}]}}`, "[]")
	want(422, "status.allocation.devices.results[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace", admitting)
}
