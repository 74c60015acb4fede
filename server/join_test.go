package server

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/pki"
)

// identity is a key with a certificate request for it.
func identity(t *testing.T, name string, groups ...string) (csr, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func joinBody(node, password string, csr []byte) string {
	b, _ := json.Marshal(api.JoinRequest{NodeName: node, NodePassword: password, CSR: string(csr)})
	return string(b)
}

func TestJoin(t *testing.T) {
	s := start(t, memory.New(), nil)
	token := s.PKI().Token()
	anybody := as(t, s, nil, nil)
	code, ca := anybody.do("GET", api.PathCACerts, "")
	if code != 200 || pki.HashCA([]byte(ca)) != token.CAHash {
		t.Fatalf("%d: the CA does not have the token's hash", code)
	}
	csr, key := identity(t, "whoever", "system:masters")
	const password = "0123456789abcdef"
	with := func(user, secret string) *caller {
		c := as(t, s, nil, nil)
		c.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+secret)))
		return c
	}
	var answer api.JoinAnswer
	for _, tc := range []struct {
		name string
		who  *caller
		body string
		code int
		says string
	}{
		{"no token", anybody, joinBody("n1", password, csr), 401, "the join token is wrong"},
		{"wrong token", with("server", "nonsense"), joinBody("n1", password, csr), 401, "the join token is wrong"},
		{"wrong user", with("admin", token.Secret), joinBody("n1", password, csr), 401, "the join token is wrong"},
		{"no JSON", with("server", token.Secret), "{", 400, "reading the join request"},
		{"bad name", with("server", token.Secret), joinBody("N_1", password, csr), 400, `node name "N_1"`},
		{"short password", with("server", token.Secret), joinBody("n1", "x", csr), 400, "at least 16 characters"},
		{"no request", with("server", token.Secret), joinBody("n1", password, []byte("x")), 400, "CERTIFICATE REQUEST"},
		{"huge body", with("server", token.Secret), joinBody("n1", strings.Repeat("x", 1<<20), csr), 400, "too large"},
		{"good", with("server", token.Secret), joinBody("n1", password, csr), 200, ""},
		{"again", with("node", token.Secret), joinBody("n1", password, csr), 200, ""},
		{"another machine of that name", with("server", token.Secret), joinBody("n1", "fedcba9876543210", csr), 403, `node "n1" has joined before with another password`},
		{"the name of the server's own node", with("server", token.Secret), joinBody(s.Resolved().NodeName, password, csr), 403, "is the server's own; choose another --node-name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, m := tc.who.message("POST", api.PathJoin, tc.body)
			if code != tc.code || !strings.Contains(m, tc.says) {
				t.Errorf("got %d %s, want %d %s", code, m, tc.code, tc.says)
			}
			if code == 200 {
				if err := json.Unmarshal([]byte(m), &answer); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if answer.ClusterCIDR != "10.42.0.0/16" || answer.ClusterDNS != "10.43.0.10" || answer.ServiceNodePortRange != "30000-32767" || answer.RenewAfter.Before(time.Now()) {
		t.Errorf("%+v", answer)
	}
	node := as(t, s, []byte(answer.Certificate), key)
	if code, body := node.do("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`); code != 201 || !strings.Contains(body, `"username":"system:node:n1","groups":["system:nodes","system:authenticated"]`) {
		t.Errorf("%d %s", code, body)
	}
	if code, m := node.message("POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`); code != 201 {
		t.Errorf("registering: %d %s", code, m)
	}
	throughTunnel(t, s, answer, key)

	c := s.Client("test", api.GroupMasters)
	if err := client.Delete(t.Context(), c, api.Nodes, "", "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the password to be forgotten", func() bool {
		return client.Cached(c, api.Secrets, "kube-system", "n1.node-password.orch") == nil
	})
}

// throughTunnel connects as the node does and lets the server ask it something.
func throughTunnel(t *testing.T, s *Server, a api.JoinAnswer, key []byte) {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(a.Certificate), key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(a.CA))
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url(), "https://"), &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.PathTunnel, api.TunnelProtocol)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	if r.Buffered() != 0 {
		t.Fatal("the server speaks first")
	}
	mux, err := yamux.Server(conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })}
	go func() { _ = srv.Serve(mux) }()
	defer mux.Close()
	waitFor(t, "the connection to count", func() bool { return s.Tunnel().Connected("n1") })
	stream, err := s.Tunnel().Dial(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	fmt.Fprintf(stream, "GET / HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n")
	back, err := http.ReadResponse(bufio.NewReader(stream), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Body.Close()
	if b, err := io.ReadAll(back.Body); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
}

func TestTunnelIsForNodes(t *testing.T) {
	s := start(t, memory.New(), nil)
	for name, who := range map[string]*caller{"nobody": as(t, s, nil, nil), "administrator": user(t, s, "admin", api.GroupMasters)} {
		if code, _ := who.do("GET", api.PathTunnel, ""); code != 403 {
			t.Errorf("%s: %d", name, code)
		}
	}
}

func TestCertificateRequests(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	c := s.Client("test", api.GroupMasters)
	const path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	post := func(who *caller, name, signer string, csr []byte, usages string) (int, string) {
		return who.message("POST", path, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"request":%q,"signerName":%q,"usages":[%s]}}`,
			name, base64.StdEncoding.EncodeToString(csr), signer, usages))
	}
	csr, key := identity(t, "dora", "devs")
	if code, m := post(admin, "dora", certificates.KubeAPIServerClientSignerName, csr, `"client auth"`); code != 201 {
		t.Fatalf("%d %s", code, m)
	}
	r := client.Cached(c, api.CertificateSigningRequests, "", "dora").DeepCopy()
	if r.Spec.Username != "admin" {
		t.Errorf("requester %q", r.Spec.Username)
	}
	r.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "x"}}
	if _, err := c.Update(t.Context(), client.Target{Kind: api.CertificateSigningRequests.Facts, Name: "dora", Subresource: "approval"}, r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "dora's certificate", func() bool {
		return len(client.Cached(c, api.CertificateSigningRequests, "", "dora").Status.Certificate) > 0
	})
	dora := as(t, s, client.Cached(c, api.CertificateSigningRequests, "", "dora").Status.Certificate, key)
	if code, m := dora.message("GET", "/api/v1/nodes", ""); code != 403 || !strings.Contains(m, `User "dora" cannot list`) {
		t.Errorf("%d %s", code, m)
	}

	masters, _ := identity(t, "eve", "system:masters")
	if code, m := post(admin, "eve", certificates.KubeAPIServerClientSignerName, masters, `"client auth"`); code != 403 || !strings.Contains(m, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed") {
		t.Errorf("%d %s", code, m)
	}

	// A node renews its own client certificate without anybody's help.
	nodeCSR, _ := identity(t, "system:node:n1", "system:nodes")
	n1 := user(t, s, "system:node:n1", api.GroupNodes)
	if code, m := post(n1, "n1", certificates.KubeAPIServerClientKubeletSignerName, nodeCSR, `"client auth","digital signature"`); code != 201 {
		t.Fatalf("%d %s", code, m)
	}
	waitFor(t, "n1's certificate", func() bool {
		return len(client.Cached(c, api.CertificateSigningRequests, "", "n1").Status.Certificate) > 0
	})
	otherCSR, _ := identity(t, "system:node:n2", "system:nodes")
	if code, m := post(n1, "n2", certificates.KubeAPIServerClientKubeletSignerName, otherCSR, `"client auth"`); code != 403 || !strings.Contains(m, "can only create a node CSR with CN=system:node:n1") {
		t.Errorf("%d %s", code, m)
	}
}

func TestTokenSecret(t *testing.T) {
	s := start(t, memory.New(), nil)
	makeAccount(t, s, "default", "old-style")
	c := s.Client("test", api.GroupMasters)
	secret := &core.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "t", Annotations: map[string]string{core.ServiceAccountNameKey: "old-style"}},
		Type:       core.SecretTypeServiceAccountToken,
	}
	if _, err := client.Create(t.Context(), c, api.Secrets, secret); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the secret to be filled", func() bool {
		return len(client.Cached(c, api.Secrets, "default", "t").Data["token"]) > 0
	})
	have := client.Cached(c, api.Secrets, "default", "t")
	if !bytes.Equal(have.Data["ca.crt"], s.PKI().ServerCA()) || string(have.Data["namespace"]) != "default" {
		t.Errorf("%v", have.Data)
	}
	robot := as(t, s, nil, nil)
	robot.header.Set("Authorization", "Bearer "+string(have.Data["token"]))
	if code, m := robot.message("GET", "/api/v1/nodes", ""); code != 403 || !strings.Contains(m, "system:serviceaccount:default:old-style") {
		t.Errorf("%d %s", code, m)
	}
	if err := client.Delete(t.Context(), c, api.ServiceAccounts, "default", "old-style", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the secret of the deleted account to go", func() bool { return client.Cached(c, api.Secrets, "default", "t") == nil })
	if code, _ := robot.do("GET", "/api/v1/nodes", ""); code != 401 {
		t.Errorf("its token still works: %d", code)
	}
}
