package volume

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
)

// authority signs for the tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, c, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func projected(s core.VolumeProjection) core.Volume {
	return core.Volume{Name: "v", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{Sources: []core.VolumeProjection{s}}}}
}

func TestTrustBundlesAreProjectedAndFollowed(t *testing.T) {
	f := newFixture(t)
	one, two := newAuthority(t, "one"), newAuthority(t, "two")
	bundle := func(name string, l map[string]string, text string) {
		t.Helper()
		o := &certificates.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}, Spec: certificates.ClusterTrustBundleSpec{SignerName: "example.com/s", TrustBundle: text}}
		if _, err := client.Create(context.Background(), f.c, api.ClusterTrustBundles, o); err != nil {
			t.Fatal(err)
		}
	}
	source := func(change func(*core.ClusterTrustBundleProjection)) core.Volume {
		s := &core.ClusterTrustBundleProjection{Path: "ca.pem"}
		change(s)
		return projected(core.VolumeProjection{ClusterTrustBundle: s})
	}
	bySigner := source(func(s *core.ClusterTrustBundleProjection) {
		s.SignerName, s.LabelSelector = new("example.com/s"), &metav1.LabelSelector{MatchLabels: map[string]string{"live": "yes"}}
	})
	if _, err := f.Mount(context.Background(), pod("p", bySigner)); err == nil || !strings.Contains(err.Error(), "matched zero ClusterTrustBundles") {
		t.Errorf("nothing to trust: %v", err)
	}
	bundle("example.com:s:a", map[string]string{"live": "yes"}, one.pem)
	bundle("example.com:s:other", nil, two.pem)
	m := f.mustMount(pod("p", bySigner))
	if got := read(t, m["v"].Path+"/ca.pem"); got != one.pem {
		t.Errorf("selected: %s", got)
	}
	bundle("example.com:s:b", map[string]string{"live": "yes"}, one.pem+two.pem)
	both := []string{one.pem + two.pem, two.pem + one.pem}
	if one.pem > two.pem {
		both[0] = both[1]
	}
	eventually(t, m["v"].Path+"/ca.pem", both[0]) // each once

	named := pod("q", source(func(s *core.ClusterTrustBundleProjection) { s.Name = new("example.com:s:other") }))
	named.UID = "uid-2"
	if got := read(t, f.mustMount(named)["v"].Path+"/ca.pem"); got != two.pem {
		t.Errorf("by name: %s", got)
	}
	missing := pod("r", source(func(s *core.ClusterTrustBundleProjection) { s.Name, s.Optional = new("none"), new(true) }))
	missing.UID = "uid-3"
	if got := read(t, f.mustMount(missing)["v"].Path+"/ca.pem"); got != "" {
		t.Errorf("an optional one that is missing: %q", got)
	}
}

// sign answers the requests for certificates, each with what answer makes of it.
func (f *fixture) sign(t *testing.T, answer func(*certificates.PodCertificateRequest)) {
	w, err := f.c.Watch(context.Background(), client.Target{Kind: api.PodCertificateRequests.Facts}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	go func() {
		for e := range w.ResultChan() {
			r, ok := e.Object.(*certificates.PodCertificateRequest)
			if !ok || len(r.Status.Conditions) > 0 {
				continue
			}
			r = r.DeepCopy()
			answer(r)
			if _, err := client.UpdateStatus(context.Background(), f.c, api.PodCertificateRequests, r); err != nil {
				t.Error(err)
			}
		}
	}()
}

func TestPodCertificateIsIssuedAndRenewed(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ServiceAccount{ObjectMeta: meta("default")}, api.ServiceAccounts.Facts)
	if _, err := client.Create(context.Background(), f.c, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}); err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, "ca")
	serial := int64(1)
	f.sign(t, func(r *certificates.PodCertificateRequest) {
		proof, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		if err != nil || r.Spec.PodName != "p" || r.Spec.NodeName != "n" || r.Spec.ServiceAccountName != "default" {
			t.Errorf("request %+v, %v", r.Spec, err)
			return
		}
		serial++
		from := time.Now().Truncate(time.Second)
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: r.Spec.PodName}, NotBefore: from, NotAfter: from.Add(2 * time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, proof.PublicKey, ca.key)
		if err != nil {
			t.Error(err)
		}
		at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: from.Add(d)} }
		r.Status = certificates.PodCertificateRequestStatus{CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
			NotBefore: at(0), NotAfter: at(2 * time.Hour), BeginRefreshAt: at(time.Hour),
			Conditions: []metav1.Condition{{Type: certificates.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Issued", LastTransitionTime: *at(0)}}}
	})
	p := pod("p", projected(core.VolumeProjection{PodCertificate: &core.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ECDSAP256",
		CredentialBundlePath: "all.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem"}}))
	p.Spec.ServiceAccountName, p.Spec.NodeName = "default", "n"
	dir := f.mustMount(p)["v"].Path
	first := read(t, dir+"/chain.pem")
	if !strings.Contains(first, "BEGIN CERTIFICATE") || !strings.Contains(read(t, dir+"/key.pem"), "BEGIN PRIVATE KEY") || read(t, dir+"/all.pem") != read(t, dir+"/key.pem")+first {
		t.Fatalf("files: %s", read(t, dir+"/all.pem"))
	}
	f.later(90*time.Minute, nil) // past the refresh, before the end
	for deadline := time.Now().Add(time.Minute); read(t, dir+"/chain.pem") == first; time.Sleep(5 * time.Millisecond) {
		if f.follower.ring(); time.Now().After(deadline) {
			t.Fatal("not renewed")
		}
	}
}

func TestRefusedPodCertificateSaysWhy(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ServiceAccount{ObjectMeta: meta("default")}, api.ServiceAccounts.Facts)
	if _, err := client.Create(context.Background(), f.c, api.Nodes, &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}); err != nil {
		t.Fatal(err)
	}
	f.sign(t, func(r *certificates.PodCertificateRequest) {
		r.Status.Conditions = []metav1.Condition{{Type: certificates.PodCertificateRequestConditionTypeDenied, Status: metav1.ConditionTrue, Reason: "Nobody", Message: "no", LastTransitionTime: metav1.Now()}}
	})
	p := pod("p", projected(core.VolumeProjection{PodCertificate: &core.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519", KeyPath: "key.pem"}}))
	p.Spec.ServiceAccountName, p.Spec.NodeName = "default", "n"
	if _, err := f.Mount(context.Background(), p); err == nil || !strings.Contains(err.Error(), `was denied, reason="Nobody", message="no"`) {
		t.Errorf("%v", err)
	}
}

// hookedFields calls hook whenever a volume shows a field of its pod.
type hookedFields struct {
	podFields
	hook func()
}

func (h hookedFields) Field(p *core.Pod, path string) (string, error) {
	h.hook()
	return h.podFields.Field(p, path)
}

// TestChangeDuringRenewalIsNotLost: several objects of a pod change at once, one of them after
// its volume was read.
func TestChangeDuringRenewalIsNotLost(t *testing.T) {
	f := newFixture(t)
	p := pod("p", core.Volume{Name: "v", VolumeSource: core.VolumeSource{DownwardAPI: &core.DownwardAPIVolumeSource{
		Items: []core.DownwardAPIVolumeFile{{Path: "name", FieldRef: &core.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}})
	f.mustMount(p)
	mark := func() {
		f.follower.mu.Lock()
		f.follower.dirty[p.UID] = true
		f.follower.ring()
		f.follower.mu.Unlock()
	}
	looks := make(chan int, 100)
	n := 0
	f.fields = hookedFields{hook: func() {
		if n++; n == 1 {
			mark()
		}
		looks <- n
	}}
	mark()
	for want := 1; want <= 2; want++ {
		select {
		case <-looks:
		case <-time.After(time.Minute):
			t.Fatalf("the volume was made %d times, want 2", want-1)
		}
	}
}
