package kms

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
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
	numbers *numbers
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
		}))
	if err != nil {
		return nil, err
	}
	return &remote{conn, kmsv2.NewKeyManagementServiceClient(conn), cfg.Timeout, n}, nil
}

func (r *remote) close() error { return r.conn.Close() }

// call bounds and times one call.
func (r *remote) call(ctx context.Context, method string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	r.numbers.latency.WithLabelValues(method, status.Code(err).String()).Observe(time.Since(start).Seconds())
	return err
}

func (r *remote) status(ctx context.Context) (a *kmsv2.StatusResponse, err error) {
	err = r.call(ctx, kmsv2.KeyManagementService_Status_FullMethodName, func(ctx context.Context) (err error) {
		a, err = r.calls.Status(ctx, &kmsv2.StatusRequest{})
		return err
	})
	return a, err
}

func (r *remote) seal(ctx context.Context, uid string, plain []byte) (a *kmsv2.EncryptResponse, err error) {
	err = r.call(ctx, kmsv2.KeyManagementService_Encrypt_FullMethodName, func(ctx context.Context) (err error) {
		a, err = r.calls.Encrypt(ctx, &kmsv2.EncryptRequest{Plaintext: plain, Uid: uid})
		return err
	})
	return a, err
}

func (r *remote) open(ctx context.Context, uid string, s source) (plain []byte, err error) {
	err = r.call(ctx, kmsv2.KeyManagementService_Decrypt_FullMethodName, func(ctx context.Context) error {
		a, err := r.calls.Decrypt(ctx, &kmsv2.DecryptRequest{Ciphertext: s.sealed, Uid: uid, KeyId: s.keyID, Annotations: s.notes})
		if err == nil {
			plain = a.Plaintext
		}
		return err
	})
	return plain, err
}
