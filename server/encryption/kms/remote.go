package kms

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"net/url"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	kmsv2 "k8s.io/kms/apis/v2"
)

// reconnectWithin bounds gRPC's own waits between attempts, which grow to two minutes
// else: a plugin that is back is noticed at the next question.
const reconnectWithin = 5 * time.Second

// remote is the plugin behind its socket.
type remote struct {
	conn    *grpc.ClientConn
	calls   kmsv2.KeyManagementServiceClient
	timeout time.Duration
}

// Socket gives the path, or @name, of an endpoint.
func Socket(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("invalid endpoint for kms provider, error: %w", err)
	}
	if u.Scheme != "unix" {
		return "", fmt.Errorf("unsupported scheme %q for KMS provider, only unix is supported", u.Scheme)
	}
	if strings.HasPrefix(u.Path, "/@") {
		return u.Path[1:], nil
	}
	return u.Path, nil
}

func dial(cfg Config, n *numbers) (*remote, error) {
	socket, err := Socket(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	wait := backoff.DefaultConfig
	wait.MaxDelay = reconnectWithin
	conn, err := grpc.NewClient("passthrough:///"+cfg.Name,
		grpc.WithAuthority("localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithConnectParams(grpc.ConnectParams{Backoff: wait, MinConnectTimeout: reconnectWithin}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}),
		grpc.WithUnaryInterceptor(n.measure))
	if err != nil {
		return nil, err
	}
	return &remote{conn, kmsv2.NewKeyManagementServiceClient(conn), cfg.Timeout}, nil
}

func (r *remote) close() error { return r.conn.Close() }

func (r *remote) status(ctx context.Context) (*kmsv2.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.calls.Status(ctx, &kmsv2.StatusRequest{})
}

func (r *remote) seal(ctx context.Context, uid string, plain []byte) (*kmsv2.EncryptResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.calls.Encrypt(ctx, &kmsv2.EncryptRequest{Plaintext: plain, Uid: uid})
}

func (r *remote) open(ctx context.Context, uid string, s source) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	a, err := r.calls.Decrypt(ctx, &kmsv2.DecryptRequest{Ciphertext: s.sealed, Uid: uid, KeyId: s.keyID, Annotations: s.notes})
	if err != nil {
		return nil, err
	}
	return a.Plaintext, nil
}
