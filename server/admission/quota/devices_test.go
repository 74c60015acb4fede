package quota

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orch/api"
)

func TestUsageOfClaims(t *testing.T) {
	exactly := func(class string, n int64) resourcev1.DeviceRequest {
		return resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: n}}
	}
	either := resourcev1.DeviceRequest{FirstAvailable: []resourcev1.DeviceSubRequest{
		{DeviceClassName: "big", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
		{DeviceClassName: "small", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 4},
		{DeviceClassName: "big", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}}}
	all := resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "small", AllocationMode: resourcev1.DeviceAllocationModeAll}}
	extended := func(class string) string { return map[string]string{"big": "nvidia.com/gpu"}[class] }
	pod := core.ResourceList{"requests.nvidia.com/gpu": resource.MustParse("2"), "requests.deviceclass.resource.kubernetes.io/big": resource.MustParse("4")}
	for _, tc := range []struct {
		name     string
		requests []resourcev1.DeviceRequest
		pod      core.ResourceList
		want     map[string]string
	}{
		{"one class", []resourcev1.DeviceRequest{exactly("big", 1), exactly("big", 3)}, nil, map[string]string{
			"big.deviceclass.resource.k8s.io/devices": "4", "requests.deviceclass.resource.kubernetes.io/big": "4", "requests.nvidia.com/gpu": "4"}},
		{"alternatives", []resourcev1.DeviceRequest{either}, nil, map[string]string{
			"big.deviceclass.resource.k8s.io/devices": "2", "requests.deviceclass.resource.kubernetes.io/big": "2", "requests.nvidia.com/gpu": "2",
			"small.deviceclass.resource.k8s.io/devices": "4", "requests.deviceclass.resource.kubernetes.io/small": "4"}},
		{"all there are", []resourcev1.DeviceRequest{all}, nil, map[string]string{
			"small.deviceclass.resource.k8s.io/devices": "32", "requests.deviceclass.resource.kubernetes.io/small": "32"}},
		{"what the pod does not count for yet", []resourcev1.DeviceRequest{exactly("big", 4)}, pod, map[string]string{
			"big.deviceclass.resource.k8s.io/devices": "4", "requests.nvidia.com/gpu": "2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := Usage(api.ResourceClaims.Facts, &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: tc.requests}}}, time.Unix(0, 0))
			extendedUsage(u, extended, tc.pod)
			tc.want["count/resourceclaims.resource.k8s.io"] = "1"
			if d := cmp.Diff(tc.want, print(u)); d != "" {
				t.Error(d)
			}
		})
	}
}
