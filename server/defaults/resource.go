package defaults

import (
	certificates "k8s.io/api/certificates/v1"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	resource "k8s.io/api/resource/v1"
)

// ResourceClaim asks for one device per request, unless told otherwise.
func ResourceClaim(o *resource.ResourceClaim) {
	deviceClaim(&o.Spec)
	if a := o.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			deviceTolerations(a.Devices.Results[i].Tolerations)
		}
	}
}

// ResourceClaimTemplate is the same for claims to be made.
func ResourceClaimTemplate(o *resource.ResourceClaimTemplate) { deviceClaim(&o.Spec.Spec) }

func deviceClaim(s *resource.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if x := r.Exactly; x != nil {
			deviceCount(&x.AllocationMode, &x.Count)
			deviceTolerations(x.Tolerations)
		}
		for j := range r.FirstAvailable {
			deviceCount(&r.FirstAvailable[j].AllocationMode, &r.FirstAvailable[j].Count)
			deviceTolerations(r.FirstAvailable[j].Tolerations)
		}
	}
}

func deviceCount(mode *resource.DeviceAllocationMode, count *int64) {
	fill(mode, resource.DeviceAllocationModeExactCount)
	if *mode == resource.DeviceAllocationModeExactCount {
		fill(count, 1)
	}
}

func deviceTolerations(list []resource.DeviceToleration) {
	for i := range list {
		fill(&list[i].Operator, resource.DeviceTolerationOpEqual)
	}
}

// PodCertificateRequest wants a certificate for a day.
func PodCertificateRequest(o *certificates.PodCertificateRequest) {
	point(&o.Spec.MaxExpirationSeconds, 24*60*60)
}

// FlowSchema stands in the middle of the order.
func FlowSchema(o *flowcontrol.FlowSchema) { fill(&o.Spec.MatchingPrecedence, 1000) }

// PriorityLevelConfiguration fills shares and queues.
func PriorityLevelConfiguration(o *flowcontrol.PriorityLevelConfiguration) {
	s := &o.Spec
	if s.Type == flowcontrol.PriorityLevelEnablementExempt {
		point(&s.Exempt, flowcontrol.ExemptPriorityLevelConfiguration{})
	}
	if x := s.Exempt; x != nil {
		point(&x.NominalConcurrencyShares, 0)
		point(&x.LendablePercent, 0)
	}
	if l := s.Limited; l != nil {
		point(&l.NominalConcurrencyShares, 30)
		point(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			fill(&q.HandSize, 8)
			fill(&q.Queues, 64)
			fill(&q.QueueLengthLimit, 50)
		}
	}
}
