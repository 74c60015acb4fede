package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"orch/e2e/lab"
	"orch/e2e/operator"
)

// TestOperator runs an operator made with controller-runtime: it installs, converts, defaults,
// validates and reconciles; it lives through a restart of the server, and another
// instance takes over from it.
func TestOperator(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	h := lab.New(t).Host("one")
	p := h.StartServer("--disable-agent")
	ca, cert := serviceCertificate(t, "widgets.operators.svc")
	if o := h.KubectlIn(operator.Manifests(ca), "apply", "-f", "-"); o.Code != 0 {
		t.Fatal(o.Both())
	}
	first, second := newInstance(t, h, cert), newInstance(t, h, cert)
	h.Kubectl("wait", "--for=condition=Established", "crd/widgets.widgets.example.com", "--timeout=150s")
	first.start(t, h, "first")
	apply := func(name, size string) lab.Output {
		return h.KubectlIn(fmt.Sprintf("apiVersion: widgets.example.com/v1\nkind: Widget\nmetadata: {name: %s}\nspec: {size: '%s'}\n", name, size), "apply", "-f", "-")
	}
	measured := func(name, area string) {
		t.Helper()
		h.Eventually(patience, name+" is reconciled", func() error {
			got, err := h.TryKubectl("get", "widgets.v2.widgets.example.com", name, "-o", `jsonpath={.status.area} {.status.conditions[0].type}`)
			if err == nil && got != area+" Ready" {
				err = fmt.Errorf("status %q", got)
			}
			return err
		})
		if got := h.Kubectl("get", "configmap", name+"-area", "-o", "jsonpath={.data.area}"); got != area {
			t.Errorf("%s-area has %q, not %s", name, got, area)
		}
	}
	if o := apply("a", "3"); o.Code != 0 {
		t.Fatal(o.Both())
	}
	measured("a", "3")
	if got := h.Kubectl("get", "widgets.v1.widgets.example.com", "a", "-o", "jsonpath={.spec.size}"); got != "3x1" {
		t.Errorf("in v1, after a default in v2: %q", got)
	}
	if o := apply("bad", "-1"); o.Code == 0 || !strings.Contains(o.Both(), `admission webhook "validate.widgets.example.com" denied the request: a widget has to have a width`) {
		t.Errorf("%d %s", o.Code, o.Both())
	}
	if o := apply("wide", "2000x2"); !strings.Contains(o.Stderr, "Warning: that is wide") {
		t.Error(o.Both())
	}
	p.Kill()
	p.Restart()
	if o := apply("b", "5x5"); o.Code != 0 {
		t.Fatal(o.Both())
	}
	measured("b", "25")
	second.start(t, h, "second")
	h.Kubectl("delete", "endpointslice", "-n", operator.Namespace, "first")
	first.stop(t)
	if o := apply("c", "6x7"); o.Code != 0 {
		t.Fatal(o.Both())
	}
	measured("c", "42")
	h.Kubectl("annotate", "widget", "a", "keep=yes")
	if _, err := h.TryKubectl("delete", "widget", "a"); err == nil || !strings.Contains(err.Error(), "this widget is to be kept") {
		t.Errorf("a widget to be kept: %v", err)
	}
	h.Kubectl("annotate", "widget", "a", "keep-")
	h.Kubectl("delete", "widget", "a", "--timeout=150s")
	if !second.cleaned("a") {
		t.Error("the finalizer did not run")
	}
	h.Eventually(patience, "what the widget owned goes", func() error {
		if got := h.Kubectl("get", "configmap", "a-area", "--ignore-not-found"); got != "" {
			return fmt.Errorf("there is %s", got)
		}
		return nil
	})
	h.Kubectl("delete", "crd", "widgets.widgets.example.com", "--timeout=150s")
	if !second.cleaned("b") || !second.cleaned("c") {
		t.Error("the definition went before its instances were cleaned up")
	}
}

// instance of the operator.
type instance struct {
	listener net.Listener
	cert     tls.Certificate
	port     string
	cancel   context.CancelFunc
	done     chan error

	mu   sync.Mutex
	gone map[string]bool
}

func newInstance(t *testing.T, h *lab.Host, cert tls.Certificate) *instance {
	t.Helper()
	l, err := h.Listen("tcp", h.IP.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return &instance{listener: l, cert: cert, port: port, gone: map[string]bool{}}
}

// start runs the instance; its webhooks answer at once, it reconciles once it leads.
func (i *instance) start(t *testing.T, h *lab.Host, name string) {
	t.Helper()
	if o := h.KubectlIn(operator.Endpoints(name, h.IP.String(), i.port), "apply", "-f", "-"); o.Code != 0 {
		t.Fatal(o.Both())
	}
	m, err := operator.New(operator.Config{Rest: h.Config(), Listener: i.listener, Certificate: i.cert, Cleaned: func(name string) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.gone[name] = true
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	i.cancel, i.done = cancel, make(chan error, 1)
	go func() { i.done <- m.Start(ctx) }()
	t.Cleanup(func() { i.stop(t) })
}

func (i *instance) stop(t *testing.T) {
	if i.cancel == nil {
		return
	}
	i.cancel()
	i.cancel = nil
	if err := <-i.done; err != nil {
		t.Errorf("an operator ended with %v", err)
	}
}

func (i *instance) cleaned(name string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.gone[name]
}

// serviceCertificate is a certificate for a Service's name, and the authority that made it.
func serviceCertificate(t *testing.T, name string) (ca []byte, cert tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
