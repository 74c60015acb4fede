package registry

import (
	"slices"

	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
)

// BuiltIn lists the behaviour of every built-in kind (each of api.All has its
// row here; a test counts them). The slice is fresh.
func BuiltIn() []Resource {
	return slices.Concat(coreRows(), appsRows(), networkRows(), storageRows(), clusterRows(), resourceRows(), trustRows(), accessRows(), admissionRows())
}

// Rules for names other than the usual DNS-1123 subdomain.
var (
	nameDNSLabel    = apimachinery.NameIsDNSLabel
	namePathSegment = path.ValidatePathSegmentName
)
