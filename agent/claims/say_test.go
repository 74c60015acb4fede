package claims

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	resource "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
)

// speaking is a driver that says something of its own.
type speaking struct{ *driver }

func (speaking) Conditions(d devices.ClaimDevice, _ []byte) []metav1.Condition {
	return []metav1.Condition{{Type: "Warm", Status: metav1.ConditionFalse, Reason: "Cold", Message: d.Device}}
}

func told(list []resource.AllocatedDeviceStatus) string {
	var out []string
	for _, d := range list {
		var of []string
		for _, c := range d.Conditions {
			of = append(of, fmt.Sprintf("%s=%s:%s:%s@%d", c.Type, c.Status, c.Reason, c.Message, c.LastTransitionTime.Unix()))
		}
		out = append(out, d.Driver+"/"+d.Pool+"/"+d.Device+" "+strings.Join(of, ","))
	}
	return strings.Join(out, "; ")
}

func TestSpoken(t *testing.T) {
	ready := func(status metav1.ConditionStatus, reason string) []metav1.Condition {
		return []metav1.Condition{{Type: "Ready", Status: status, Reason: reason}}
	}
	at := func(n int64, c []metav1.Condition) []metav1.Condition {
		c[0].LastTransitionTime = metav1.Unix(n, 0)
		return c
	}
	others := resource.AllocatedDeviceStatus{Driver: "e.io", Pool: "n1", Device: "a", Conditions: at(1, ready("True", "Theirs"))}
	mine := resource.AllocatedDeviceStatus{Driver: "d.io", Pool: "n1", Device: "a", Conditions: at(2, ready("True", "Prepared"))}
	bound := mine
	bound.Conditions = append([]metav1.Condition{{Type: "d.io/bound", Status: "True", Reason: "X", LastTransitionTime: metav1.Unix(3, 0)}}, at(2, ready("True", "Prepared"))...)
	word := resource.AllocatedDeviceStatus{Driver: "d.io", Pool: "n1", Device: "a", Conditions: ready("True", "Prepared")}
	failed := resource.AllocatedDeviceStatus{Driver: "d.io", Pool: "n1", Device: "a", Conditions: ready("False", "PrepareFailed")}
	elsewhere := resource.AllocatedDeviceStatus{Driver: "d.io", Pool: "n1", Device: "z", Conditions: ready("True", "Prepared")}
	for _, tc := range []struct {
		name string
		has  []resource.AllocatedDeviceStatus
		says []resource.AllocatedDeviceStatus
		want string
	}{
		{"the first word", nil, []resource.AllocatedDeviceStatus{word}, "d.io/n1/a Ready=True:Prepared:@9"},
		{"beside another driver's", []resource.AllocatedDeviceStatus{others}, []resource.AllocatedDeviceStatus{word}, "e.io/n1/a Ready=True:Theirs:@1; d.io/n1/a Ready=True:Prepared:@9"},
		{"said already", []resource.AllocatedDeviceStatus{mine}, []resource.AllocatedDeviceStatus{word}, "nothing"},
		{"another status", []resource.AllocatedDeviceStatus{mine}, []resource.AllocatedDeviceStatus{failed}, "d.io/n1/a Ready=False:PrepareFailed:@9"},
		{"conditions of others stay", []resource.AllocatedDeviceStatus{bound}, []resource.AllocatedDeviceStatus{failed}, "d.io/n1/a d.io/bound=True:X:@3,Ready=False:PrepareFailed:@9"},
		{"not allocated", nil, []resource.AllocatedDeviceStatus{elsewhere}, "nothing"},
		{"taken back", []resource.AllocatedDeviceStatus{others, mine}, nil, "e.io/n1/a Ready=True:Theirs:@1"},
		{"nothing to take back", nil, nil, "nothing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &resource.ResourceClaim{}
			c.UID, c.Status.Devices = "u", tc.has
			c.Status.Allocation = &resource.AllocationResult{Devices: resource.DeviceAllocationResult{Results: []resource.DeviceRequestAllocationResult{
				{Driver: "d.io", Pool: "n1", Device: "a"}, {Driver: "e.io", Pool: "n1", Device: "a"}}}}
			before := told(c.Status.Devices)
			got := "nothing"
			if next := Spoken(c, Words{UID: "u", Driver: "d.io", Devices: tc.says}, time.Unix(9, 5)); next != nil {
				got = told(next.Status.Devices)
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if told(c.Status.Devices) != before {
				t.Error("the claim itself was changed")
			}
			if Spoken(c, Words{UID: "v", Driver: "d.io", Devices: tc.says}, time.Unix(9, 0)) != nil {
				t.Error("something is said of another claim of this name")
			}
		})
	}
}

// listener is a server's end of Config.Say.
type listener struct {
	mu    sync.Mutex
	log   []string
	fails int
}

func (l *listener) say(_ context.Context, w Words) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails > 0 {
		l.fails--
		return errors.New("away")
	}
	l.log = append(l.log, w.Name+": "+strings.ReplaceAll(told(w.Devices), "@-62135596800", ""))
	return nil
}

func (l *listener) heard() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := strings.Join(l.log, " | ")
	l.log = nil
	return out
}

// TestClaimsSayHowTheirDevicesAre: once when prepared, again after a restart, with the reason when
// it failed; a server that is away is told later; and nothing is said any more when the last pod went.
func TestClaimsSayHowTheirDevicesAre(t *testing.T) {
	path := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, path: path + "/ledger", driver: &driver{}, boot: "boot", ready: make(chan struct{}), server: map[string]*resource.ResourceClaim{}}
		close(r.ready)
		to := &listener{fails: 2}
		var stop context.CancelFunc
		start := func() {
			r.restart()
			r.config.Say, r.voice = to.say, newVoice(to.say)
			r.config.Driver = func(name string) (Driver, bool) { return speaking{r.driver}, name == "d.io" }
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			stop = func() { cancel(); <-done }
			synctest.Wait() // it has looked what there is
		}
		hears := func(when, want string) {
			t.Helper()
			synctest.Wait()
			if got := to.heard(); got != want {
				t.Errorf("%s:\nheard %s\nwant  %s", when, got, want)
			}
		}
		start()
		r.claim("a", []string{"x", "y"}, "p", "q")
		const isReady = "a: d.io/n1/a-0 Ready=True:Prepared:,Warm=False:Cold:a-0; d.io/n1/a-1 Ready=True:Prepared:,Warm=False:Cold:a-1"
		r.must(r.Prepare(t.Context(), pod("p", []string{"a"}, "r0")), "prepare a")
		hears("while the server is away", "")
		time.Sleep(4 * time.Second)
		hears("when it is back", isReady)
		r.must(r.Prepare(t.Context(), pod("q", []string{"a"}, "r0")), "")
		hears("another pod", "")
		stop()
		start()
		hears("after a restart", isReady)

		r.claim("b", []string{"x"}, "z")
		r.driver.refuse = errors.New("no such luck")
		for range 2 {
			if r.Prepare(t.Context(), pod("z", []string{"b"}, "r0")) == nil {
				t.Fatal("it did not fail")
			}
		}
		hears("a failure, once", "b: d.io/n1/b-0 Ready=False:PrepareFailed:NodePrepareResources failed for ResourceClaim b: no such luck")
		r.driver.refuse = nil
		r.driver.asked()
		r.must(r.Prepare(t.Context(), pod("z", []string{"b"}, "r0")), "prepare b")
		hears("and then it works", "b: d.io/n1/b-0 Ready=True:Prepared:,Warm=False:Cold:b-0")

		r.must(r.Release(t.Context(), "p"), "")
		hears("one of two pods went", "")
		r.must(r.Release(t.Context(), "q"), "unprepare a")
		hears("the last went", "a: ")
		to.fails = 1 // the claim goes then, and what was said with it
		r.must(r.Release(t.Context(), "z"), "unprepare b")
		hears("the last went while the server was away", "")
		if len(r.voice.want)+len(r.config.Ledger.Claims()) > 0 {
			t.Errorf("left: %v", r.voice.want)
		}
		stop()
	})
}

// TestWhatAPodWaitedForIsForgottenWithIt: a pod that never got its claim leaves nothing behind.
func TestWhatAPodWaitedForIsForgottenWithIt(t *testing.T) {
	v := newVoice(func(context.Context, Words) error { return nil })
	w := Words{UID: "u", Driver: "d.io", Devices: []resource.AllocatedDeviceStatus{{Device: "x"}}}
	v.tell(w, "p")
	if err := v.speak(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.giveUp(func(uid types.UID) bool { return uid == "q" })
	if len(v.want) != 1 {
		t.Error("forgotten while the pod waits")
	}
	v.giveUp(func(uid types.UID) bool { return uid == "p" })
	if _, _, more := v.next(); more || len(v.want)+len(v.said) > 0 {
		t.Errorf("left: %v %v", v.want, v.said)
	}
}
