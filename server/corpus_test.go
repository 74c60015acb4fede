package server

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"orch/datastore/memory"
	"orch/server/rest/hostile"
)

// TestHostileRequestsToAWholeServer sends a part of the corpus to a server with everything
// behind it that rest's own test lacks: certificates, RBAC, admission, custom resources,
// flow control.
func TestHostileRequestsToAWholeServer(t *testing.T) {
	s := start(t, memory.New(), nil)
	cert, key, err := s.PKI().ClientPair("root", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.PKI().ServerCA())
	cfg := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}, ServerName: "127.0.0.1", ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	address := s.listener.Addr().String()
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			sender := &hostile.Sender{Patience: 30 * time.Second, Dial: func() (net.Conn, error) { return tls.Dial("tcp", address, cfg) }}
			defer sender.Close()
			for n := next.Add(1); n <= 2000; n = next.Add(1) {
				r := hostile.Make(7, n)
				code, err := sender.Send(r)
				if err != nil || code >= 500 && code != http.StatusNotImplemented && code != http.StatusServiceUnavailable && code != http.StatusGatewayTimeout {
					t.Errorf("request %d: %d %v %s: %.300q", n, code, err, sender.Answer, r.Raw)
				}
			}
		})
	}
	wg.Wait()
	if code, m := user(t, s, "root", "system:masters").do("GET", "/livez", ""); code != 200 {
		t.Errorf("afterwards: %d %s", code, m)
	}
}
