package api

import "k8s.io/apimachinery/pkg/runtime/schema"

// Priority is where a group's version stands in discovery, higher ones first.
type Priority struct{ Group, Version int32 }

// CustomPriority is that of custom resources: behind all groups of our own; versions
// are ordered by their names.
var CustomPriority = Priority{Group: 1000, Version: 100}

// priorities are upstream's, for the versions that are served here. The group of
// APIServices itself has none: it comes first.
var priorities = map[schema.GroupVersion]Priority{
	{Group: "", Version: "v1"}:                                {18000, 1},
	{Group: "apps", Version: "v1"}:                            {17800, 15},
	{Group: "events.k8s.io", Version: "v1"}:                   {17750, 15},
	{Group: "authentication.k8s.io", Version: "v1"}:           {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:            {17600, 15},
	{Group: "autoscaling", Version: "v2"}:                     {17500, 30},
	{Group: "autoscaling", Version: "v1"}:                     {17500, 15},
	{Group: "batch", Version: "v1"}:                           {17400, 15},
	{Group: "certificates.k8s.io", Version: "v1"}:             {17300, 15},
	{Group: "certificates.k8s.io", Version: "v1beta1"}:        {17300, 9},
	{Group: "networking.k8s.io", Version: "v1"}:               {17200, 15},
	{Group: "policy", Version: "v1"}:                          {17100, 15},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:       {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:                  {16800, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1"}:    {16700, 15},
	{Group: "apiextensions.k8s.io", Version: "v1"}:            {16700, 15},
	{Group: "scheduling.k8s.io", Version: "v1"}:               {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:             {16500, 15},
	{Group: "node.k8s.io", Version: "v1"}:                     {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:                {16200, 15},
	{Group: "resource.k8s.io", Version: "v1"}:                 {16200, 21},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}:    {16100, 21},
	{Group: "internal.apiserver.k8s.io", Version: "v1alpha1"}: {16000, 9},
	{Group: "storagemigration.k8s.io", Version: "v1"}:         {15800, 15},
}

// PriorityOf looks a version up; ok is false for those that are registered by nobody.
func PriorityOf(f *Facts) (p Priority, ok bool) {
	if f.Dynamic {
		return CustomPriority, true
	}
	p, ok = priorities[f.GroupVersion()]
	return p, ok
}

// UsualPriority is what a version of this server's has unless an administrator moves it.
func UsualPriority(gv schema.GroupVersion) Priority {
	if p, ok := priorities[gv]; ok {
		return p
	}
	return CustomPriority
}
