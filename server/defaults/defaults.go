// Package defaults fills what a client left out of an object, with the values
// that upstream's defaulting (pkg/apis/*/v1/defaults.go) gives. Every function is
// pure: it changes only the object in hand, and a second call changes nothing.
// It refuses nothing (see server/validate) and decides nothing that needs other
// objects (see server/admission). Start reading at Pod, then one file per group.
package defaults

// fill sets *p to v where it is the zero value.
func fill[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// point makes *p point to v where it is nil.
func point[T any](p **T, v T) {
	if *p == nil {
		*p = new(v)
	}
}
