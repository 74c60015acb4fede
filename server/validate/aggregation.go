package validate

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"orch/server/validate/rule"
)

const (
	maxGroupPriority   = 20000
	maxVersionPriority = 1000
)

// APIService checks name, group, version, priorities and the way to the server.
func APIService(o *apireg.APIService) Errors {
	var e rule.Errors
	s := &o.Spec
	if want := s.Version + "." + s.Group; o.Name != want {
		e.Invalid(metaPath.Child("name"), o.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want))
	}
	switch {
	case s.Group != "":
		e.DNSSubdomain(specPath.Child("group"), s.Group)
	case s.Version != "v1":
		e.Required(specPath.Child("group"), "only v1 may have an empty group and it better be legacy kube")
	}
	e.Each(specPath.Child("version"), s.Version, validation.IsDNS1035Label(s.Version))
	if p := s.GroupPriorityMinimum; p <= 0 || p > maxGroupPriority {
		e.Invalid(specPath.Child("groupPriorityMinimum"), p, "must be positive and less than 20000")
	}
	if p := s.VersionPriority; p <= 0 || p > maxVersionPriority {
		e.Invalid(specPath.Child("versionPriority"), p, "must be positive and less than 1000")
	}
	if s.Service == nil {
		localAPIService(&e, s)
	} else {
		remoteAPIService(&e, s)
	}
	return e.List()
}
func APIServiceUpdate(o, _ *apireg.APIService) Errors { return APIService(o) }

func localAPIService(e *rule.Errors, s *apireg.APIServiceSpec) {
	if len(s.CABundle) > 0 {
		e.Invalid(specPath.Child("caBundle"), fmt.Sprintf("%d bytes", len(s.CABundle)), "local APIServices may not have a caBundle")
	}
	if s.InsecureSkipTLSVerify {
		e.Invalid(specPath.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify")
	}
}

func remoteAPIService(e *rule.Errors, s *apireg.APIServiceSpec) {
	at := specPath.Child("service")
	e.Need(at.Child("namespace"), s.Service.Namespace)
	e.Need(at.Child("name"), s.Service.Name)
	var port int32
	if s.Service.Port != nil {
		port = *s.Service.Port
	}
	for _, complaint := range validation.IsValidPortNum(int(port)) {
		e.Invalid(at.Child("port"), port, "port is not valid: "+complaint)
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		e.Invalid(specPath.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present")
	}
}

// APIServiceStatus checks the conditions.
func APIServiceStatus(o, _ *apireg.APIService) Errors {
	var e rule.Errors
	for i, c := range o.Status.Conditions {
		rule.Among(&e, statusPath.Child("conditions").Index(i).Child("status"), c.Status, apireg.ConditionFalse, apireg.ConditionTrue, apireg.ConditionUnknown)
	}
	return e.List()
}
