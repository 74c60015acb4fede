// Package plugintest is a KMS plugin for tests: real gRPC on a unix socket, with keys
// that are bytes. What a key seals is the plain bytes combined with it, so that a test
// can tell by looking. Start reading at Plugin.
package plugintest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	kmsv2 "k8s.io/kms/apis/v2"
)

// Plugin can be stopped and started again on the same socket.
type Plugin struct {
	kmsv2.UnimplementedKeyManagementServiceServer
	Socket string

	t      testing.TB
	server *grpc.Server
	ended  chan error

	mu sync.Mutex
	// keyID is that of the status; sealing that of encryptions, empty for the same.
	keyID, sealing, healthz, version string
	// deaf calls wait for their end.
	deaf             bool
	opened, sealings int
}

// New makes one that is not started, in a directory of its own: socket paths are short.
func New(t testing.TB) *Plugin {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		t.Fatal(err)
	}
	p := &Plugin{t: t, Socket: filepath.Join(dir, "s"), keyID: "key1", healthz: "ok", version: "v2"}
	t.Cleanup(func() {
		p.Stop()
		_ = os.RemoveAll(dir)
	})
	return p
}

// Endpoint is the socket as a configuration names it.
func (p *Plugin) Endpoint() string { return "unix://" + p.Socket }

// Start listens.
func (p *Plugin) Start() {
	p.t.Helper()
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		p.t.Fatal(err)
	}
	s, ended := grpc.NewServer(), make(chan error, 1)
	kmsv2.RegisterKeyManagementServiceServer(s, p)
	go func() { ended <- s.Serve(l) }()
	p.server, p.ended = s, ended
}

// Stop ends every call and takes the socket away.
func (p *Plugin) Stop() {
	if p.server == nil {
		return
	}
	p.server.Stop()
	if err := <-p.ended; err != nil {
		p.t.Error(err)
	}
	p.server = nil
}

// Set changes what the plugin says; each argument is a field and its value.
func (p *Plugin) Set(fields map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, v := range fields {
		switch k {
		case "keyID":
			p.keyID = v
		case "sealing":
			p.sealing = v
		case "healthz":
			p.healthz = v
		case "version":
			p.version = v
		case "deaf":
			p.deaf = v != ""
		default:
			p.t.Errorf("a plugin has no %s", k)
		}
	}
}

// Calls counts encryptions and decryptions.
func (p *Plugin) Calls() (sealed, opened int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sealings, p.opened
}

// hear waits where the plugin is deaf. It leaves the lock held.
func (p *Plugin) hear(ctx context.Context) error {
	p.mu.Lock()
	if !p.deaf {
		return nil
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	return ctx.Err()
}

// Status is the protocol's.
func (p *Plugin) Status(ctx context.Context, _ *kmsv2.StatusRequest) (*kmsv2.StatusResponse, error) {
	err := p.hear(ctx)
	defer p.mu.Unlock()
	return &kmsv2.StatusResponse{Version: p.version, Healthz: p.healthz, KeyId: p.keyID}, err
}

// Encrypt is the protocol's.
func (p *Plugin) Encrypt(ctx context.Context, r *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error) {
	err := p.hear(ctx)
	defer p.mu.Unlock()
	p.sealings++
	id := p.sealing
	if id == "" {
		id = p.keyID
	}
	return &kmsv2.EncryptResponse{Ciphertext: mix(r.Plaintext, id), KeyId: id, Annotations: map[string][]byte{"mixed.example.com": []byte(id)}}, err
}

// Decrypt is the protocol's.
func (p *Plugin) Decrypt(ctx context.Context, r *kmsv2.DecryptRequest) (*kmsv2.DecryptResponse, error) {
	err := p.hear(ctx)
	defer p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	p.opened++
	if string(r.Annotations["mixed.example.com"]) != r.KeyId {
		return nil, errors.New("the annotations are not those of the encryption")
	}
	if r.Uid == "" {
		return nil, fmt.Errorf("a request has no uid")
	}
	return &kmsv2.DecryptResponse{Plaintext: mix(r.Ciphertext, r.KeyId)}, nil
}

// mix is its own reverse.
func mix(b []byte, key string) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ key[i%len(key)] ^ 0x5a
	}
	return out
}
