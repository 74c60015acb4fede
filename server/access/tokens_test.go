package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/api"
	"orch/api/client"
)

// things is a cache of a few objects by key.
type things map[string]api.Object

func (c things) Lookup(f *api.Facts, ns, name string) api.Object {
	if o, ok := c[f.Key(ns, name)]; ok {
		return o
	}
	return nil
}
func (c things) Each(*api.Facts, string, func(api.Object) bool)                   {}
func (c things) Subscribe(context.Context, *api.Facts, func(client.Change)) error { return nil }
func (c things) Revision(*api.Facts) int64                                        { return 0 }
func (c things) WaitRevision(context.Context, *api.Facts, int64) error            { return nil }
func (c things) put(f *api.Facts, o api.Object)                                   { c[f.Key(o.GetNamespace(), o.GetName())] = o }

type keys struct{ *ecdsa.PrivateKey }

func (k keys) ServiceKey() *ecdsa.PrivateKey          { return k.PrivateKey }
func (k keys) VerifyClient([]*x509.Certificate) error { return nil }

func (k keys) VerifyFrontProxy([]*x509.Certificate) error { return errors.New("no proxy") }

func meta(name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(uid)}
}

// bench has an account with a pod, and a clock.
type bench struct {
	*Access
	cache things
	now   time.Time
	sa    *core.ServiceAccount
}

func newBench(t *testing.T) *bench {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{cache: things{}, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	b.Access, err = New(Config{Keys: keys{key}, Cache: b.cache, Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	b.sa = &core.ServiceAccount{ObjectMeta: meta("robot", "u1")}
	b.cache.put(api.ServiceAccounts.Facts, b.sa)
	b.cache.put(api.Pods.Facts, &core.Pod{ObjectMeta: meta("pod", "p1"), Spec: core.PodSpec{ServiceAccountName: "robot", NodeName: "n1"}})
	b.cache.put(api.Pods.Facts, &core.Pod{ObjectMeta: meta("stranger", "p2"), Spec: core.PodSpec{ServiceAccountName: "other"}})
	return b
}

func (b *bench) issue(t *testing.T, spec authn.TokenRequestSpec) string {
	t.Helper()
	r, err := b.IssueToken(b.sa, &authn.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

var toPod = &authn.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "pod", UID: "p1"}

func TestTokenLife(t *testing.T) {
	for _, tc := range []struct {
		name string
		spec authn.TokenRequestSpec
		// then is what happens before the token is shown to audience.
		then     func(b *bench)
		audience []string
		says     string
	}{
		{"fresh", authn.TokenRequestSpec{}, nil, nil, ""},
		{"just before its end", authn.TokenRequestSpec{}, func(b *bench) { b.now = b.now.Add(59 * time.Minute) }, nil, ""},
		{"after its end", authn.TokenRequestSpec{}, func(b *bench) { b.now = b.now.Add(61 * time.Minute) }, nil, "service account token has expired"},
		{"a clock a little behind", authn.TokenRequestSpec{}, func(b *bench) { b.now = b.now.Add(-30 * time.Second) }, nil, ""},
		{"a clock far behind", authn.TokenRequestSpec{}, func(b *bench) { b.now = b.now.Add(-time.Hour) }, nil, "not valid yet"},
		{"a clock that is not set", authn.TokenRequestSpec{}, func(b *bench) { b.now = time.Unix(60, 0) }, nil, ""},
		{"account gone", authn.TokenRequestSpec{}, func(b *bench) { delete(b.cache, api.ServiceAccounts.Key("d", "robot")) }, nil, "serviceaccounts \"robot\" not found"},
		{"account made anew", authn.TokenRequestSpec{}, func(b *bench) {
			b.cache.put(api.ServiceAccounts.Facts, &core.ServiceAccount{ObjectMeta: meta("robot", "u2")})
		}, nil, "service account UID (u2) does not match claim (u1)"},
		{"for somebody else", authn.TokenRequestSpec{Audiences: []string{"vault"}}, nil, nil, "is invalid for the target audiences"},
		{"for the one who asks", authn.TokenRequestSpec{Audiences: []string{"vault"}}, nil, []string{"vault"}, ""},
		{"of a pod", authn.TokenRequestSpec{BoundObjectRef: toPod}, nil, nil, ""},
		{"of a pod that is gone", authn.TokenRequestSpec{BoundObjectRef: toPod}, func(b *bench) { delete(b.cache, api.Pods.Key("d", "pod")) }, nil, "has been invalidated"},
		{"of a pod made anew", authn.TokenRequestSpec{BoundObjectRef: toPod}, func(b *bench) {
			b.cache.put(api.Pods.Facts, &core.Pod{ObjectMeta: meta("pod", "p9"), Spec: core.PodSpec{ServiceAccountName: "robot"}})
		}, nil, "pod UID (p9) does not match service account pod ref claim (p1)"},
		{"of a pod that ends", authn.TokenRequestSpec{BoundObjectRef: toPod}, func(b *bench) { b.endPod(30 * time.Second) }, nil, ""},
		{"of a pod that should have ended", authn.TokenRequestSpec{BoundObjectRef: toPod}, func(b *bench) { b.endPod(2 * time.Minute) }, nil, "has been invalidated"},
		{"put into a pod, after an hour", authn.TokenRequestSpec{BoundObjectRef: toPod, ExpirationSeconds: new(int64(PodTokenSeconds))}, func(b *bench) { b.now = b.now.Add(2 * time.Hour) }, nil, ""},
		{"put into a pod, after a year", authn.TokenRequestSpec{BoundObjectRef: toPod, ExpirationSeconds: new(int64(PodTokenSeconds))}, func(b *bench) { b.now = b.now.Add(366 * 24 * time.Hour) }, nil, "has expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			token := b.issue(t, tc.spec)
			if _, err := b.tokens.verify(token, tc.audience); tc.says == "" && err != nil {
				t.Fatal(err) // and once more below, from what is remembered
			}
			if tc.then != nil {
				tc.then(b)
			}
			v, err := b.tokens.verify(token, tc.audience)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("got %v, want %s", err, tc.says)
				}
				return
			}
			if err != nil || v.user.Name != "system:serviceaccount:d:robot" || v.user.UID != "u1" || v.user.Groups[1] != "system:serviceaccounts:d" {
				t.Errorf("%+v %v", v, err)
			}
			if tc.spec.BoundObjectRef != nil && (v.user.Extra["authentication.kubernetes.io/pod-name"][0] != "pod" || v.user.Extra["authentication.kubernetes.io/node-name"][0] != "n1") {
				t.Errorf("extra %v", v.user.Extra)
			}
		})
	}
}

// endPod deletes the pod so long ago.
func (b *bench) endPod(ago time.Duration) {
	p := &core.Pod{ObjectMeta: meta("pod", "p1"), Spec: core.PodSpec{ServiceAccountName: "robot"}}
	p.DeletionTimestamp = &metav1.Time{Time: b.now.Add(-ago)}
	b.cache.put(api.Pods.Facts, p)
}

func TestTokenRefusals(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		spec       authn.TokenRequestSpec
	}{
		{"too short", "may not specify a duration less than 10 minutes", authn.TokenRequestSpec{ExpirationSeconds: new(int64(599))}},
		{"too long", "may not specify a duration larger than 2^32 seconds", authn.TokenRequestSpec{ExpirationSeconds: new(int64(1<<32 + 1))}},
		{"a pod of another account", `cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.`, authn.TokenRequestSpec{BoundObjectRef: &authn.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "stranger"}}},
		{"a pod that is not there", `pods "nix" not found`, authn.TokenRequestSpec{BoundObjectRef: &authn.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "nix"}}},
		{"an older pod", "does not match the UID in record", authn.TokenRequestSpec{BoundObjectRef: &authn.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "pod", UID: "p0"}}},
		{"a deployment", `cannot bind token to object of type apps/v1, Kind=Deployment`, authn.TokenRequestSpec{BoundObjectRef: &authn.BoundObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "x"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			if _, err := b.IssueToken(b.sa, &authn.TokenRequest{Spec: tc.spec}); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	b, other := newBench(t), newBench(t)
	good := b.issue(t, authn.TokenRequestSpec{})
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"empty": "", "junk": "junk", "three dots": "a.b.c.d", "of another key": other.issue(t, authn.TokenRequestSpec{}),
		"cut": good[:len(good)-4], "swapped body": parts[0] + "." + strings.Split(b.issue(t, authn.TokenRequestSpec{Audiences: []string{"x"}}), ".")[1] + "." + parts[2],
		"no signature": parts[0] + "." + parts[1] + ".", "huge": strings.Repeat("a", 1<<20) + ".b.c",
		"none algorithm": "eyJhbGciOiJub25lIn0." + parts[1] + ".",
	} {
		if _, err := b.tokens.verify(token, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLegacyToken(t *testing.T) {
	b := newBench(t)
	token, err := b.Legacy("d", "robot", "u1", "robot-token")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.tokens.verify(token, nil); err == nil {
		t.Error("the token works without its secret")
	}
	b.cache.put(api.Secrets.Facts, &core.Secret{ObjectMeta: meta("robot-token", "s1"), Data: map[string][]byte{"token": []byte(token)}})
	b.now = b.now.Add(10 * 365 * 24 * time.Hour)
	if v, err := b.tokens.verify(token, nil); err != nil || v.user.Name != "system:serviceaccount:d:robot" {
		t.Errorf("%+v %v", v, err)
	}
}

func TestRememberedTokensAreBounded(t *testing.T) {
	m := newBounded[int, int](10)
	for i := range 100 {
		m.put(i, i)
	}
	if len(m.m) != 10 {
		t.Errorf("%d entries", len(m.m))
	}
}

func BenchmarkVerify(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	cache := things{}
	sa := &core.ServiceAccount{ObjectMeta: meta("robot", "u1")}
	cache.put(api.ServiceAccounts.Facts, sa)
	a, err := New(Config{Keys: keys{key}, Cache: cache})
	if err != nil {
		b.Fatal(err)
	}
	r, err := a.IssueToken(sa, &authn.TokenRequest{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := a.tokens.verify(r.Status.Token, nil); err != nil {
			b.Fatal(err)
		}
	}
}
