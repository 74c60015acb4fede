package plugins

import (
	"strings"
	"testing"

	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// FuzzAnnotations: of what a plugin says in annotations only well-formed names of CDI
// devices are taken, each once.
func FuzzAnnotations(f *testing.F) {
	f.Add("cdi.k8s.io/x", "nvidia.com/gpu=0,nvidia.com/gpu=0,bad")
	f.Add("other", "vendor.com/class=a")
	f.Fuzz(func(t *testing.T, key, text string) {
		e := editsOf(&deviceplugin.ContainerAllocateResponse{Annotations: map[string]string{key: text}})
		seen := map[string]bool{}
		for _, name := range e.CDI {
			if seen[name] || !strings.Contains(name, "/") || !strings.Contains(name, "=") {
				t.Errorf("%q gave %q", text, e.CDI)
			}
			seen[name] = true
		}
	})
}
