package containerd

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// injectCDI adds devices by their CDI names; without dirs from /etc/cdi and /var/run/cdi. The specifications are read anew each time:
// whoever writes them does so just before a container needs them, and nothing is watched
// for those that need none.
func injectCDI(spec *specs.Spec, names []string, dirs ...string) error {
	if len(names) == 0 {
		return nil
	}
	if len(dirs) == 0 {
		dirs = cdi.DefaultSpecDirs
	}
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(dirs...))
	if err != nil {
		return fmt.Errorf("reading CDI specifications: %w", err)
	}
	if _, err := cache.InjectDevices(spec, names...); err != nil {
		return fmt.Errorf("CDI device injection failed: %w", err)
	}
	return nil
}
