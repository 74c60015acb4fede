package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Limits of what is read of an answer, as upstream's.
const (
	maxOutput = 10 << 10
	userAgent = "kube-probe/1.37"
)

// Target is the container that is asked.
type Target struct {
	// IP is the pod's address.
	IP        string
	Container *core.Container
	// Exec runs a command in the container.
	Exec func(ctx context.Context, command []string, out io.Writer) (exitCode int, err error)
}

// Once asks a container by one handler of a probe.
func Once(ctx context.Context, h core.ProbeHandler, t Target) (Outcome, string) {
	switch {
	case h.Exec != nil:
		return execOnce(ctx, h.Exec.Command, t)
	case h.HTTPGet != nil:
		return httpOnce(ctx, h.HTTPGet, t)
	case h.TCPSocket != nil:
		return tcpOnce(ctx, h.TCPSocket, t)
	case h.GRPC != nil:
		return grpcOnce(ctx, h.GRPC, t)
	}
	return Errored, "missing probe handler"
}

func execOnce(ctx context.Context, command []string, t Target) (Outcome, string) {
	out := &Output{}
	code, err := t.Exec(ctx, command, out)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Failed, fmt.Sprintf("command timed out: %q timed out", strings.Join(command, " "))
	case err != nil:
		return Errored, err.Error()
	case code != 0:
		return Failed, out.String()
	}
	return Passed, out.String()
}

// Output keeps the first bytes that a command says and swallows the rest. Stdout
// and stderr may write to it at the same time.
type Output struct {
	mu   sync.Mutex
	text []byte
}

// Write never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p[:min(len(p), maxOutput-len(o.text))]...)
	return len(p), nil
}

// String is what was kept.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// Port finds the number of a port given by number or by name.
func Port(p intstr.IntOrString, c *core.Container) (string, error) {
	if p.Type == intstr.Int {
		return strconv.Itoa(p.IntValue()), nil
	}
	for _, cp := range c.Ports {
		if cp.Name == p.StrVal {
			return strconv.Itoa(int(cp.ContainerPort)), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil && n > 0 && n < 65536 {
		return p.StrVal, nil
	}
	return "", fmt.Errorf("couldn't find port: %s", p.String())
}

// Request makes the request of an httpGet action.
func Request(ctx context.Context, a *core.HTTPGetAction, t Target) (*http.Request, error) {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	scheme := strings.ToLower(string(a.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	if u.Scheme = scheme; u.Path != "" && !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	u.Host = net.JoinHostPort(host, port)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Accept", "*/*")
	for _, h := range a.HTTPHeaders {
		switch {
		case strings.EqualFold(h.Name, "Host"):
			r.Host = h.Value
		case strings.EqualFold(h.Name, "User-Agent") || strings.EqualFold(h.Name, "Accept"):
			r.Header.Set(h.Name, h.Value)
		default:
			r.Header.Add(h.Name, h.Value)
		}
	}
	return r, nil
}

// Client sends the requests of probes and hooks: a fresh connection each, no
// proxy, any certificate, redirects only within the host.
func Client() *http.Client {
	dialer := net.Dialer{Control: lingerShort}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

func httpOnce(ctx context.Context, a *core.HTTPGetAction, t Target) (Outcome, string) {
	r, err := Request(ctx, a, t)
	if err != nil {
		return Errored, err.Error()
	}
	answer, err := Client().Do(r)
	if err != nil {
		return Failed, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxOutput))
	if err != nil && len(body) == 0 && ctx.Err() != nil {
		return Failed, err.Error()
	}
	if answer.StatusCode >= 300 && answer.StatusCode < 400 {
		return Warned, "Probe terminated redirects, Response body: " + string(body)
	}
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		return Passed, string(body)
	}
	return Failed, fmt.Sprintf("HTTP probe failed with statuscode: %d", answer.StatusCode)
}

func tcpOnce(ctx context.Context, a *core.TCPSocketAction, t Target) (Outcome, string) {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return Errored, err.Error()
	}
	host := a.Host
	if host == "" {
		host = t.IP
	}
	conn, err := (&net.Dialer{Control: lingerShort}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return Failed, err.Error()
	}
	conn.Close()
	return Passed, ""
}

func grpcOnce(ctx context.Context, a *core.GRPCAction, t Target) (Outcome, string) {
	address := net.JoinHostPort(t.IP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(userAgent),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{Control: lingerShort}).DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return Errored, err.Error()
	}
	defer conn.Close()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	began := time.Now()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	switch grpcstatus.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return Failed, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", grpcstatus.Convert(err).Message())
	case codes.DeadlineExceeded:
		return Failed, fmt.Sprintf("timeout: health rpc did not complete within %v", time.Since(began).Round(time.Second))
	default:
		return Failed, fmt.Sprintf("error: health rpc probe failed: %v", err)
	}
	if s := answer.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return Failed, fmt.Sprintf("service unhealthy (responded with %q)", s.String())
	}
	return Passed, "service healthy"
}
