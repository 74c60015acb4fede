package server

import (
	"net/url"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// TestNodeSaysHowItsDevicesAre: a node writes of its pods' claims what the driver inside it says of
// devices on that node, and nothing else.
func TestNodeSaysHowItsDevicesAre(t *testing.T) {
	s := nodes(t)
	c := s.Client("test", api.GroupMasters)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, on := range []string{"n1", "n2"} {
		o := &resource.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "on-" + on},
			Spec: resource.ResourceClaimSpec{Devices: resource.DeviceClaim{Requests: []resource.DeviceRequest{{Name: "r", Exactly: &resource.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resource.DeviceAllocationModeExactCount, Count: 2}}}}}}
		made, err := client.Create(t.Context(), c, api.ResourceClaims, o)
		must(made, err)
		made.Status.Allocation = &resource.AllocationResult{
			NodeSelector: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{MatchFields: []core.NodeSelectorRequirement{{Key: "metadata.name", Operator: core.NodeSelectorOpIn, Values: []string{on}}}}}},
			Devices: resource.DeviceAllocationResult{Results: []resource.DeviceRequestAllocationResult{
				{Request: "r", Driver: api.GPUDriver, Pool: on, Device: "gpu-0"}, {Request: "r", Driver: "other.io", Pool: on, Device: "x"}}}}
		must(client.UpdateStatus(t.Context(), c, api.ResourceClaims, made))
		p := podOn("1")
		p.Name, p.Spec.ResourceClaims = "with-"+on, []core.PodResourceClaim{{Name: "d", ResourceClaimName: new("on-" + on)}}
		must(client.Create(t.Context(), c, api.Pods, p))
	}
	n1, n2 := user(t, s, "system:node:n1", api.GroupNodes), user(t, s, "system:node:n2", api.GroupNodes)
	const path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/"
	said := func(driver, pool, device string) string {
		return `{"status":{"devices":[{"driver":"` + driver + `","pool":"` + pool + `","device":"` + device + `","conditions":[{"type":"Ready","status":"True","reason":"Prepared","message":"","lastTransitionTime":"2026-01-02T03:04:05Z"}]}]}}`
	}
	for _, tc := range []struct {
		name       string
		who        *caller
		verb, path string
		body       string
		code       int
		says       string
	}{
		{"of its device", n1, "PATCH", "on-n1/status", said(api.GPUDriver, "n1", "gpu-0"), 200, ""},
		{"takes it back", n1, "PATCH", "on-n1/status", `{"status":{"devices":null}}`, 200, ""},
		{"of a device that is not allocated", n1, "PATCH", "on-n1/status", said(api.GPUDriver, "n1", "gpu-1"), 422, `status.devices[0]: Invalid value: "gpu.nvidia.com/n1/gpu-1": must be an allocated device in the claim`},
		{"of another driver's", n1, "PATCH", "on-n1/status", said("other.io", "n1", "x"), 422, `requires resource="resourceclaims/driver", verb="[associated-node:patch arbitrary-node:patch]"`},
		{"of devices elsewhere", n1, "PATCH", "on-n2/status", said(api.GPUDriver, "n2", "gpu-0"), 422, `requires resource="resourceclaims/driver", verb="[arbitrary-node:patch]"`},
		{"of no pod of its own", n2, "PATCH", "on-n2/status", said(api.GPUDriver, "n2", "gpu-0"), 403, "no relationship found between node 'n2' and this object"},
		{"an allocation", n1, "PATCH", "on-n1/status", `{"status":{"allocation":null}}`, 422, `requires resource="resourceclaims/binding", verb="patch"`},
		{"a reservation", n1, "PATCH", "on-n1/status", `{"status":{"reservedFor":[{"resource":"pods","name":"x","uid":"y"}]}}`, 422, `requires resource="resourceclaims/binding", verb="patch"`},
		{"a label", n1, "PATCH", "on-n1/status", `{"metadata":{"labels":{"a":"b"}}}`, 403, `node "n1" cannot update metadata through the status of a resource claim`},
		{"its spec", n1, "PATCH", "on-n1", `{"metadata":{"labels":{"a":"b"}}}`, 403, "can only get individual resources of this type"},
		{"reads the status", n1, "GET", "on-n1/status", "", 403, "can only update/patch the status of this type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, m := tc.who.message(tc.verb, path+tc.path, tc.body); code != tc.code || !strings.Contains(m, tc.says) {
				t.Errorf("got %d %s\nwant %d %s", code, m, tc.code, tc.says)
			}
		})
	}
}
