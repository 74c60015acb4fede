package api

import "slices"

// All lists every built-in kind that has a resource of its own, in the order in
// which discovery shows groups. The slice is fresh.
func All() []*Facts {
	return slices.Concat(coreKinds, appsKinds, clusterKinds, resourceKinds, accessKinds)
}

// ByGVR finds a built-in kind by its REST address, nil if there is none.
func ByGVR(group, version, plural string) *Facts {
	for _, f := range All() {
		if f.Plural == plural && f.Group == group && f.Version == version {
			return f
		}
	}
	return nil
}
