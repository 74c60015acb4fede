package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
)

func requestOf(t *testing.T, r x509.CertificateRequest) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &r, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// TestSigners approves requests of all sorts by HTTP and looks at what comes of them.
func TestSigners(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	c := s.Client("test", api.GroupMasters)
	const path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	node := pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}
	link, _ := url.Parse("spiffe://x/y")
	serving := x509.CertificateRequest{Subject: node, DNSNames: []string{"n1"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	plain := x509.CertificateRequest{Subject: pkix.Name{CommonName: "dora", Organization: []string{"devs"}, OrganizationalUnit: []string{"unit"}}, EmailAddresses: []string{"d@x"}, URIs: []*url.URL{link}}
	for i, tc := range []struct {
		name, signer string
		request      x509.CertificateRequest
		usages       string
		seconds      int
		failed       string
	}{
		{"client", "kube-apiserver-client", plain, "client auth,digital signature,key encipherment", 3600, ""},
		{"client of another usage", "kube-apiserver-client", plain, "client auth,server auth", 0, "invalid usage for client certificate: server auth"},
		{"client without the usage", "kube-apiserver-client", plain, "digital signature", 0, "missing required usage for client certificate: client auth"},
		{"kubelet", "kube-apiserver-client-kubelet", x509.CertificateRequest{Subject: node}, "client auth,digital signature", 0, ""},
		{"kubelet without signature", "kube-apiserver-client-kubelet", x509.CertificateRequest{Subject: node}, "client auth", 0, "usages did not match [client auth digital signature key encipherment]"},
		{"kubelet with a name", "kube-apiserver-client-kubelet", x509.CertificateRequest{Subject: node, DNSNames: []string{"x"}}, "client auth,digital signature", 0, "DNS subjectAltNames are not allowed"},
		{"kubelet with an address", "kube-apiserver-client-kubelet", x509.CertificateRequest{Subject: node, IPAddresses: []net.IP{net.IPv4(1, 1, 1, 1)}}, "client auth,digital signature", 0, "IP subjectAltNames are not allowed"},
		{"kubelet with mail", "kube-apiserver-client-kubelet", x509.CertificateRequest{Subject: node, EmailAddresses: []string{"a@b"}}, "client auth,digital signature", 0, "Email subjectAltNames are not allowed"},
		{"kubelet with a link", "kube-apiserver-client-kubelet", x509.CertificateRequest{Subject: node, URIs: []*url.URL{link}}, "client auth,digital signature", 0, "URI subjectAltNames are not allowed"},
		{"kubelet of another group", "kube-apiserver-client-kubelet", plain, "client auth,digital signature", 0, "subject organization is not system:nodes"},
		{"kubelet of another name", "kube-apiserver-client-kubelet", x509.CertificateRequest{Subject: pkix.Name{CommonName: "n1", Organization: node.Organization}}, "client auth,digital signature", 0, "subject common name does not begin with system:node:"},
		{"serving", "kubelet-serving", serving, "server auth,digital signature,key encipherment", 600, ""},
		{"serving without names", "kubelet-serving", x509.CertificateRequest{Subject: node}, "server auth,digital signature", 0, "DNS or IP subjectAltName is required"},
		{"serving for clients", "kubelet-serving", serving, "client auth,digital signature", 0, "usages did not match [digital signature key encipherment server auth]"},
		{"legacy", "legacy-unknown", plain, "code signing,cert sign,server auth", 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name, extra := fmt.Sprint("r", i), ""
			if tc.seconds > 0 {
				extra = fmt.Sprintf(`,"expirationSeconds":%d`, tc.seconds)
			}
			body := fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"request":%q,"signerName":"kubernetes.io/%s","usages":["%s"]%s}}`,
				name, requestOf(t, tc.request), tc.signer, strings.ReplaceAll(tc.usages, ",", `","`), extra)
			if code, m := admin.message("POST", path, body); code != 201 {
				t.Fatal(code, m)
			}
			if code, m := admin.message("PATCH", path+"/"+name+"/approval", `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"x"}]}}`); code != 200 {
				t.Fatal(code, m)
			}
			var r *certificates.CertificateSigningRequest
			waitFor(t, "the signer", func() bool {
				r = client.Cached(c, api.CertificateSigningRequests, "", name)
				return len(r.Status.Certificate) > 0 || len(r.Status.Conditions) > 1
			})
			if tc.failed != "" {
				last := r.Status.Conditions[len(r.Status.Conditions)-1]
				if len(r.Status.Certificate) > 0 || last.Type != certificates.CertificateFailed || last.Reason != "SignerValidationFailure" || last.Message != tc.failed {
					t.Errorf("%+v, want %s", r.Status, tc.failed)
				}
				return
			}
			checkIssued(t, r, tc.request, tc.seconds)
		})
	}
}

func checkIssued(t *testing.T, r *certificates.CertificateSigningRequest, want x509.CertificateRequest, seconds int) {
	t.Helper()
	if len(r.Status.Certificate) == 0 {
		t.Fatalf("%+v", r.Status)
	}
	b, _ := pem.Decode(r.Status.Certificate)
	x, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if x.Subject.String() != want.Subject.String() || !slices.Equal(x.DNSNames, want.DNSNames) || len(x.IPAddresses) != len(want.IPAddresses) ||
		!slices.Equal(x.EmailAddresses, want.EmailAddresses) || len(x.URIs) != len(want.URIs) || x.IsCA {
		t.Errorf("%+v %+v", x.Subject, x)
	}
	life := x.NotAfter.Sub(x.NotBefore)
	if seconds > 0 && life != time.Duration(seconds)*time.Second+5*time.Minute || seconds == 0 && life > 366*24*time.Hour {
		t.Errorf("it lives %v for %d seconds", life, seconds)
	}
	for _, u := range r.Spec.Usages {
		has := map[certificates.KeyUsage]bool{
			"client auth": slices.Contains(x.ExtKeyUsage, x509.ExtKeyUsageClientAuth), "server auth": slices.Contains(x.ExtKeyUsage, x509.ExtKeyUsageServerAuth),
			"code signing": slices.Contains(x.ExtKeyUsage, x509.ExtKeyUsageCodeSigning), "digital signature": x.KeyUsage&x509.KeyUsageDigitalSignature != 0,
			"key encipherment": x.KeyUsage&x509.KeyUsageKeyEncipherment != 0, "cert sign": x.KeyUsage&x509.KeyUsageCertSign != 0,
		}
		if !has[u] {
			t.Errorf("%s is missing: %v %v", u, x.KeyUsage, x.ExtKeyUsage)
		}
	}
}

// TestSignersRights: who may approve and sign is asked for each signer.
func TestSignersRights(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	const path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	granted(t, admin, "rita", `{"apiGroups":["certificates.k8s.io"],"resources":["certificatesigningrequests","certificatesigningrequests/approval","certificatesigningrequests/status"],"verbs":["*"]},`+
		`{"apiGroups":["certificates.k8s.io"],"resources":["signers"],"resourceNames":["kubernetes.io/legacy-unknown","example.com/*"],"verbs":["approve","sign"]}`)
	rita := user(t, s, "rita")
	post := func(name, signer string) {
		t.Helper()
		if code, m := rita.message("POST", path, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"request":%q,"signerName":%q,"usages":["client auth"]}}`,
			name, requestOf(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}), signer)); code != 201 {
			t.Fatal(code, m)
		}
	}
	post("theirs", "kubernetes.io/kube-apiserver-client")
	post("own", "example.com/any")
	const yes, no = `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"x"}]}}`, `{"status":{"conditions":[{"type":"Denied","status":"True","reason":"x"}]}}`
	if code, m := rita.message("PATCH", path+"/theirs/approval", yes); code != 403 || !strings.Contains(m, `user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client"`) {
		t.Errorf("%d %s", code, m)
	}
	if code, m := rita.message("PATCH", path+"/own/approval", no); code != 200 {
		t.Errorf("%d %s", code, m)
	}
	if code, m := rita.message("PATCH", path+"/own/approval", strings.Replace(no, "[", `[{"type":"Approved","status":"True","reason":"x"},`, 1)); code != 422 || !strings.Contains(m, "Approved and Denied conditions are mutually exclusive") {
		t.Errorf("%d %s", code, m)
	}
	if code, m := rita.message("PATCH", path+"/theirs/status", `{"status":{"conditions":[{"type":"Failed","status":"True","reason":"x"}]}}`); code != 403 || !strings.Contains(m, `user not permitted to sign requests with signerName "kubernetes.io/kube-apiserver-client"`) {
		t.Errorf("%d %s", code, m)
	}
	if code, m := rita.message("PATCH", path+"/own/status", `{"status":{"conditions":[{"type":"Denied","status":"True","reason":"x"},{"type":"Failed","status":"True","reason":"x"}]}}`); code != 200 {
		t.Errorf("a signer that is hers: %d %s", code, m)
	}
	code, body := admin.do("GET", path+"/own", "")
	var r certificates.CertificateSigningRequest
	if err := json.Unmarshal([]byte(body), &r); code != 200 || err != nil || r.Spec.Username != "rita" || len(r.Status.Conditions) != 2 {
		t.Errorf("%d %s %v", code, body, err)
	}
}
