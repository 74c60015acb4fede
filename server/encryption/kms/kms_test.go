package kms

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"orch/server/encryption/kms/plugintest"
)

var place = []byte("/registry/secrets/default/a")

// rig is a provider with a clock of its own.
type rig struct {
	*Provider
	plugin *plugintest.Plugin
	ahead  atomic.Int64
	t      *testing.T
}

func connect(t *testing.T, p *plugintest.Plugin, timeout time.Duration) *rig {
	t.Helper()
	r := &rig{plugin: p, t: t}
	var err error
	r.Provider, err = New(Config{Name: "p", Endpoint: p.Endpoint(), Timeout: timeout, Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// later is the plugin's health as it is asked for after d.
func (r *rig) later(d time.Duration) error {
	r.ahead.Add(int64(d))
	return r.Check(r.t.Context())
}

func (r *rig) seal(text string) []byte {
	r.t.Helper()
	b, err := r.Seal(nil, []byte(text), place)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) opens(sealed []byte, want string) {
	r.t.Helper()
	if got, err := r.Open(sealed, place); err != nil || string(got) != want {
		r.t.Errorf("%q %v, want %q", got, err, want)
	}
}

func wants(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %q", err, text)
	}
}

// patience is for a plugin that answers.
const patience = time.Minute

func running(t *testing.T) *rig {
	t.Helper()
	p := plugintest.New(t)
	p.Start()
	return connect(t, p, patience)
}

func TestSealAndOpen(t *testing.T) {
	r := running(t)
	for _, text := range []string{"", "x", strings.Repeat("y", 5000)} {
		sealed := r.seal(text)
		r.opens(sealed, text)
		if r.Stale(sealed) {
			t.Error("a value that was just written is stale")
		}
		if bytes.Equal(sealed, r.seal(text)) {
			t.Error("sealing twice gives the same")
		}
		if _, err := r.Open(sealed, []byte("/registry/secrets/default/b")); err == nil {
			t.Error("a value was opened in another's place")
		}
		for n := range sealed {
			_, _ = r.Open(sealed[:n], place) // must not panic
			bad := bytes.Clone(sealed)
			bad[n] ^= 1
			if n < 40 { // the data
				if _, err := r.Open(bad, place); err == nil && len(text) > 0 && n > 3 {
					t.Errorf("a value with byte %d changed was opened", n)
				}
			}
		}
	}
	if sealed, opened := r.plugin.Calls(); sealed != 1 || opened > 100 {
		t.Errorf("the plugin sealed %d times and opened %d times, want once and only what was damaged", sealed, opened)
	}
}

// TestUpstreamsValues are bytes that k8s.io/apiserver v0.37.2 wrote with plugintest's way of
// sealing, by a seed and by a whole key.
func TestUpstreamsValues(t *testing.T) {
	r := running(t)
	for _, tc := range []struct {
		text  string
		stale bool
	}{
		{"0a4e13f4f4e0347bdd7e59913aa11f8eea47f4d4b58c108a68deb289626a2c9c59e04099525df688522ecf8f22a632855f87d573866cf0b5dfdf7b1f298832074ed5198d576dcba576d0d571969c4d0e12046b6579311a20a629056f801877a24f97b08f037822f1cc6150a0391452fc5001a51f4263f3d722190a116d697865642e6578616d706c652e636f6d12046b6579312801", false},
		{"0a2e9c1acf5b01ca9a3b00000000efd6f2bbc70c683c2ab57f20791405985b6924f9a19db352764f34a574bfa93df36f12046b6579311a20237e86d36489bee9874ae0f54757530f27e84709857ee8da540734aeef5f03f922190a116d697865642e6578616d706c652e636f6d12046b657931", true},
	} {
		sealed, err := hex.DecodeString(tc.text)
		if err != nil {
			t.Fatal(err)
		}
		r.opens(sealed, "sealed by upstream")
		if r.Stale(sealed) != tc.stale {
			t.Errorf("stale is %v", !tc.stale)
		}
	}
}

func TestKeyOfTheKMSChanges(t *testing.T) {
	r := running(t)
	old := r.seal("old")
	r.plugin.Set(map[string]string{"keyID": "key2"})
	if err := r.later(10 * time.Second); err != nil || r.Stale(old) {
		t.Errorf("an answer of ten seconds ago will do: %v", err)
	}
	if err := r.later(askWhenWell); err != nil {
		t.Fatal(err)
	}
	young := r.seal("young")
	if !r.Stale(old) || r.Stale(young) {
		t.Error("the old value is stale, the young one not")
	}
	r.opens(old, "old")
	r.opens(young, "young")
	if sealed, opened := r.plugin.Calls(); sealed != 2 || opened != 0 {
		t.Errorf("the plugin sealed %d times and opened %d times, want 2 and 0", sealed, opened)
	}
	other := connect(t, r.plugin, patience)
	for range 3 {
		other.opens(old, "old")
		other.opens(young, "young")
	}
	if _, opened := r.plugin.Calls(); opened != 2 {
		t.Errorf("another server asked %d times for two seeds", opened)
	}
}

func TestPluginComesLater(t *testing.T) {
	p := plugintest.New(t)
	r := connect(t, p, 200*time.Millisecond)
	_, err := r.Seal(nil, nil, place)
	wants(t, err, "the KMS plugin p has not answered yet")
	sealed, _ := hex.DecodeString("0a01001201781a0178")
	start := time.Now()
	for range 50 {
		_, err = r.Open(sealed, place)
	}
	wants(t, err, "failed to decrypt DEK")
	if took := time.Since(start); took > 5*time.Second { // of the ten that they would take
		t.Errorf("reads wait for a plugin that does not answer: %v", took)
	}
	wants(t, r.Check(t.Context()), "kmsv2 Provider p is not healthy")
	p.Start()
	r.remote.timeout = patience
	deadline := time.Now().Add(time.Minute)
	for r.later(freshIfIll) != nil {
		if time.Now().After(deadline) {
			t.Fatal("the plugin is not noticed")
		}
	}
	r.opens(r.seal("x"), "x")
}

func TestPluginFails(t *testing.T) {
	r := running(t)
	had := r.seal("x")
	for _, tc := range []struct {
		name, field, value, good, says string
	}{
		{"ill", "healthz", "no key", "ok", "got unexpected healthz status: no key"},
		{"another protocol", "version", "v3", "v2", "expected KMSv2 API version v2, got v3"},
		{"beta after all", "version", "v2beta1", "v2", "should not change after the initial status response version v2, got v2beta1"},
		{"no key", "keyID", "", "key1", "keyID is empty"},
		{"long key", "keyID", strings.Repeat("k", 1025), "key1", "keyID is 1025 bytes, which exceeds the max size of 1024"},
		{"two keys", "sealing", "key9", "", "but it encrypts with sha256:"},
		{"deaf", "deaf", "yes", "", "DeadlineExceeded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.field == "sealing" {
				r.plugin.Set(map[string]string{"keyID": "key2"})
				defer r.plugin.Set(map[string]string{"keyID": "key1"})
			}
			r.plugin.Set(map[string]string{tc.field: tc.value})
			if tc.field == "deaf" {
				r.remote.timeout = 100 * time.Millisecond
				defer func() { r.remote.timeout = patience }()
			}
			wants(t, r.later(askWhenWell), tc.says)
			r.opens(had, "x")
			r.plugin.Set(map[string]string{tc.field: tc.good})
		})
	}
	if err := r.later(freshIfIll); err != nil {
		t.Error(err)
	}
}

func TestWritesEndWithTheAnswers(t *testing.T) {
	r := running(t)
	had := r.seal("x")
	r.plugin.Stop()
	r.remote.timeout = 50 * time.Millisecond
	wants(t, r.later(2*time.Minute), "is not healthy")
	r.seal("still")
	r.ahead.Add(int64(2 * time.Minute))
	_, err := r.Seal(nil, nil, place)
	wants(t, err, "has expired at")
	r.opens(had, "x")
	r.plugin.Start()
	r.remote.timeout = patience
	if err := r.later(freshIfIll); err != nil {
		t.Fatal(err)
	}
	r.seal("again")
}

func TestSeedsAreBounded(t *testing.T) {
	asked := 0
	c := newSeeds(func(_ context.Context, _ string, s source) ([]byte, error) {
		asked++
		if s.keyID == "bad" {
			return nil, fmt.Errorf("no such key")
		}
		return make([]byte, seedBytes), nil
	}, time.Now)
	for i := range maxSeeds + 10 {
		if _, err := c.fetch(source{kind: derived, sealed: fmt.Append(nil, i), keyID: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	if c.size() != maxSeeds || len(c.order) != maxSeeds {
		t.Errorf("%d are kept", c.size())
	}
	asked = 0
	for range 5 {
		_, err := c.fetch(source{kind: derived, sealed: []byte("x"), keyID: "bad"})
		wants(t, err, "no such key")
	}
	if asked != 1 {
		t.Errorf("what failed was asked for %d times in a moment", asked)
	}
	c = newSeeds(func(context.Context, string, source) ([]byte, error) { return []byte("short"), nil }, time.Now)
	_, err := c.fetch(source{kind: derived})
	wants(t, err, "invalid seed length 5")
}

// A plugin that is well again is told of at once, whoever noticed it, so that what could
// not be read is read again.
func TestRunTellsOfRecovery(t *testing.T) {
	r := running(t)
	r.plugin.Set(map[string]string{"healthz": "no"})
	wants(t, r.later(askWhenWell), "is not healthy")
	ctx, stop := context.WithCancel(t.Context())
	told := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx, func(context.Context) { close(told) }); err != nil {
			t.Error(err)
		}
	})
	r.plugin.Set(map[string]string{"healthz": "ok"})
	if err := r.later(freshIfIll); err != nil {
		t.Error(err)
	}
	<-told
	stop()
	wg.Wait()
}

func TestNumbers(t *testing.T) {
	r := running(t)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(r)
	families, err := reg.Gather()
	if err != nil || len(families) != 3 { // nothing was wrong with any key ID
		t.Errorf("%d families, %v", len(families), err)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
