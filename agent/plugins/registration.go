package plugins

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// registration is the service that plugins call.
type registration struct {
	deviceplugin.UnimplementedRegistrationServer
	*Plugins
	// ctx and wg are those of Run: connections live as long.
	ctx context.Context
	wg  *sync.WaitGroup
}

// Register takes a plugin in: it is called back before it has its answer, as upstream does.
func (s *registration) Register(ctx context.Context, r *deviceplugin.RegisterRequest) (*deviceplugin.Empty, error) {
	if err := check(r); err != nil {
		s.config.Log.Warn("a device plugin was refused", "resource", clip(r.GetResourceName()), "endpoint", clip(r.GetEndpoint()), "err", err)
		return nil, err
	}
	c, err := s.connect(ctx, r.ResourceName, r.Endpoint)
	if err != nil {
		s.config.Log.Warn("a device plugin that registered does not answer", "resource", r.ResourceName, "endpoint", r.Endpoint, "err", err)
		return nil, err
	}
	replaced, err := s.add(c)
	if replaced != nil {
		replaced.close()
	}
	if err != nil {
		c.close()
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	s.config.Log.Info("a device plugin registered", "resource", r.ResourceName, "endpoint", r.Endpoint)
	s.wg.Go(func() {
		err := c.follow(s.ctx, s.list)
		c.close()
		s.remove(c)
		if s.ctx.Err() == nil {
			s.config.Log.Warn("a device plugin is gone", "resource", c.resource, "endpoint", c.endpoint, "err", err)
		}
	})
	return &deviceplugin.Empty{}, nil
}

// check refuses what is not a plugin of this API. The texts are upstream's.
func check(r *deviceplugin.RegisterRequest) error {
	if !slices.Contains(deviceplugin.SupportedVersions[:], r.Version) {
		return fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", clip(r.Version), deviceplugin.SupportedVersions)
	}
	if !ValidResource(r.ResourceName) {
		return fmt.Errorf("the ResourceName %q is invalid", clip(r.ResourceName))
	}
	// Upstream joins whatever it gets; a name that leaves the folder is nobody's plugin.
	if e := r.Endpoint; e == "" || e == "." || e == ".." || e != filepath.Base(e) || e == filepath.Base(deviceplugin.KubeletSocket) || strings.ContainsRune(e, 0) {
		return fmt.Errorf("bad socketPath, must be the name of a socket in the folder of device plugins: %q", clip(e))
	}
	return nil
}

// ValidResource tells names of extended resources, as upstream's IsExtendedResourceName.
func ValidResource(name string) bool {
	domain, _, ok := strings.Cut(name, "/")
	if !ok || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasPrefix(name, "requests.") {
		return false
	}
	return len(validation.IsQualifiedName("requests."+name)) == 0 // it has to fit into a quota
}

// clip bounds what is told of a stranger's text.
func clip(s string) string {
	if len(s) > maxID {
		return s[:maxID] + "..."
	}
	return s
}
