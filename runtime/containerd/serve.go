package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
)

// sockets serves containerd's API for other programs on this host, and takes the shims' events.
type sockets struct {
	grpc      *grpc.Server
	ttrpc     *ttrpc.Server
	listeners []net.Listener
}

// listen makes the sockets and begins to serve; close ends it.
func (s *server) listen(c Config) (*sockets, error) {
	out := &sockets{grpc: grpc.NewServer(
		grpc.UnaryInterceptor(passNamespace), grpc.StreamInterceptor(passNamespaceStream),
		grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(16<<20),
	)}
	var err error
	if out.ttrpc, err = ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser())); err != nil {
		return nil, fmt.Errorf("serving containerd: %w", err)
	}
	for _, p := range s.opened {
		if p.Registration.Type != plugins.GRPCPlugin {
			continue
		}
		v, err := p.Instance()
		if err != nil {
			continue // opened ones have no error
		}
		if g, ok := v.(interface{ Register(*grpc.Server) error }); ok {
			if err := g.Register(out.grpc); err != nil {
				return nil, fmt.Errorf("serving containerd: %w", err)
			}
		}
		if t, ok := v.(interface{ RegisterTTRPC(*ttrpc.Server) error }); ok {
			if err := t.RegisterTTRPC(out.ttrpc); err != nil {
				return nil, fmt.Errorf("serving containerd: %w", err)
			}
		}
	}
	for _, path := range []string{c.Address, c.eventAddress()} {
		l, err := listenUnix(path)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("serving containerd: %w", err), out.close())
		}
		out.listeners = append(out.listeners, l)
	}
	go func() { _ = out.grpc.Serve(out.listeners[0]) }()
	go func() { _ = out.ttrpc.Serve(context.Background(), out.listeners[1]) }()
	return out, nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	// A socket that is there was left by a process that is gone: the database's lock tells.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

func (s *sockets) close() error {
	if s == nil {
		return nil
	}
	s.grpc.Stop()
	err := s.ttrpc.Close()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	return err
}

// passNamespace makes the caller's containerd namespace that of calls made on its behalf.
func passNamespace(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if ns, ok := namespaces.Namespace(ctx); ok {
		ctx = namespaces.WithNamespace(ctx, ns)
	}
	return next(ctx, req)
}

func passNamespaceStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if ns, ok := namespaces.Namespace(ss.Context()); ok {
		ss = nsStream{ss, namespaces.WithNamespace(ss.Context(), ns)}
	}
	return next(srv, ss)
}

type nsStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream carries its context by definition
}

func (s nsStream) Context() context.Context { return s.ctx }

func mkdirs(mode os.FileMode, dirs ...string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(d, mode); err != nil {
			return err
		}
	}
	return nil
}
