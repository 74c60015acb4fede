package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

const (
	requestTimeout = 15 * time.Second
	maxAnswer      = 1 << 20
)

// final is an error that trying again does not help against: the server has
// refused, or this machine cannot keep what it is given.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

func refusedf(format string, args ...any) error {
	return final{fmt.Errorf("the server refused: "+format, args...)}
}

// authority fetches the server's CA and pins it.
func (m *Membership) authority(ctx context.Context) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url.String()+api.PathCACerts, nil)
	if err != nil {
		return nil, err
	}
	code, ca, err := ask(q, &tls.Config{InsecureSkipVerify: true}) // what comes is held against the token
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	switch {
	case code >= http.StatusInternalServerError || code == http.StatusTooManyRequests:
		return nil, fmt.Errorf("%s answered %d %s", api.PathCACerts, code, http.StatusText(code))
	case code != http.StatusOK || !roots.AppendCertsFromPEM(ca):
		return nil, refusedf("%s answered %d without a certificate: is it an orch server?", api.PathCACerts, code)
	}
	return ca, m.pinned(ca)
}

// post asks for a certificate.
func (m *Membership) post(ctx context.Context, ca []byte, r api.JoinRequest) (answer api.JoinAnswer, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return answer, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url.String()+api.PathJoin, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	if m.token.Secret != "" {
		q.SetBasicAuth(m.token.User, m.token.Secret)
	}
	q.Header.Set("Content-Type", "application/json")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c := &tls.Config{RootCAs: roots}
	if cert, _ := m.Certificate(); cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	code, b, err := ask(q, c)
	if err != nil {
		return answer, explain(err, m.url.Hostname())
	}
	if code/100 == 2 {
		if err := json.Unmarshal(b, &answer); err != nil {
			return answer, refusedf("its answer cannot be read: %w", err)
		}
		return answer, nil
	}
	var status metav1.Status
	if json.Unmarshal(b, &status) != nil || status.Message == "" {
		status.Message = fmt.Sprintf("%s answered %d %s", api.PathJoin, code, http.StatusText(code))
	}
	if code/100 == 4 && code != http.StatusTooManyRequests {
		return answer, refusedf("%s", status.Message)
	}
	return answer, errors.New(status.Message)
}

// ask sends one request on a connection of its own and reads the whole answer.
func ask(q *http.Request, c *tls.Config) (code int, body []byte, err error) {
	t := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	a, err := (&http.Client{Transport: t}).Do(q)
	if err != nil {
		return 0, nil, plain(err)
	}
	defer a.Body.Close()
	body, err = io.ReadAll(io.LimitReader(a.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer of %s: %w", q.URL.Path, plain(err))
	}
	if len(body) > maxAnswer {
		return 0, nil, refusedf("the answer of %s is larger than %d bytes: is it an orch server?", q.URL.Path, maxAnswer)
	}
	return a.StatusCode, body, nil
}

// plain leaves out what the reader knows: which URL was asked, and by which method.
func plain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", requestTimeout)
	}
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// explain says what to do about a certificate that is not for the host.
func explain(err error, host string) error {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return refusedf("its certificate is not for %s: start the server with --tls-san %s", host, host)
	}
	return err
}

// newKey makes a key and the request to certify it for the node.
func newKey(node string) (key, csr []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's key: %w", err)
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: api.UserNodePrefix + node, Organization: []string{api.GroupNodes}}}
	b, err := x509.CreateCertificateRequest(rand.Reader, request, k)
	if err != nil {
		return nil, nil, fmt.Errorf("making the node's certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: b}), nil
}
