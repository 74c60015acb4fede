package claims

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"orch/agent/devices"
)

// Speaker is a Driver that leaves it to us to say in a claim's status how its devices are. Those
// of others write that themselves.
type Speaker interface {
	// Conditions are what there is to say of a prepared device beside that it is Ready.
	Conditions(d devices.ClaimDevice, state []byte) []metav1.Condition
}

// Words are what one driver says of its devices of one claim, in status.devices.
type Words struct {
	Namespace, Name string
	UID             types.UID
	Driver          string
	// Devices are empty where what was said is to be taken back. Their times are the writer's.
	Devices []resource.AllocatedDeviceStatus
}

// ConditionReady of a device says whether containers can use it.
const ConditionReady = "Ready"

// Reasons of ConditionReady.
const (
	reasonPrepared   = "Prepared"
	reasonUnprepared = "PrepareFailed"
)

// sayLimit bounds one write.
const sayLimit = 5 * time.Second

// maxSaid bounds a condition's message; the API has 32768.
const maxSaid = 1024

// ready are the words for devices that a driver prepared.
func ready(c devices.Claim, driver string, by Speaker, d devices.ClaimDriver) Words {
	return wordsFor(c, driver, d.Devices, func(one devices.ClaimDevice) []metav1.Condition {
		return append([]metav1.Condition{{Type: ConditionReady, Status: metav1.ConditionTrue, Reason: reasonPrepared}}, by.Conditions(one, d.State)...)
	})
}

// unready are those for devices that could not be prepared.
func unready(c devices.Claim, driver string, list []devices.ClaimDevice, why error) Words {
	text := strings.ToValidUTF8(why.Error(), "")
	return wordsFor(c, driver, list, func(devices.ClaimDevice) []metav1.Condition {
		return []metav1.Condition{{Type: ConditionReady, Status: metav1.ConditionFalse, Reason: reasonUnprepared, Message: strings.ToValidUTF8(text[:min(len(text), maxSaid)], "")}}
	})
}

// wordsFor says the same kind of thing of each device; one that several requests were given is one.
func wordsFor(c devices.Claim, driver string, list []devices.ClaimDevice, of func(devices.ClaimDevice) []metav1.Condition) Words {
	w := Words{Namespace: c.Namespace, Name: c.Name, UID: c.UID, Driver: driver}
	for _, d := range list {
		s := resource.AllocatedDeviceStatus{Driver: driver, Pool: d.Pool, Device: d.Device, Conditions: of(d)}
		if d.ShareID != "" {
			s.ShareID = &d.ShareID
		}
		if !slices.ContainsFunc(w.Devices, func(o resource.AllocatedDeviceStatus) bool { return sameDevice(o, s) }) {
			w.Devices = append(w.Devices, s)
		}
	}
	slices.SortFunc(w.Devices, func(a, b resource.AllocatedDeviceStatus) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Device, b.Device))
	})
	return w
}

func sameDevice(a, b resource.AllocatedDeviceStatus) bool {
	return a.Driver == b.Driver && a.Pool == b.Pool && a.Device == b.Device && equality.Semantic.DeepEqual(a.ShareID, b.ShareID)
}

// Spoken is the claim with the words in its status, nil if there is nothing to change: it says
// that already, or is another's of this name. What others said stays, conditions of other types
// too; a device that is not allocated any more gets nothing said of it. It is pure.
func Spoken(claim *resource.ResourceClaim, w Words, now time.Time) *resource.ResourceClaim {
	if claim.UID != w.UID || claim.Status.Allocation == nil {
		return nil
	}
	next := claim.DeepCopy()
	list := slices.DeleteFunc(next.Status.Devices, func(s resource.AllocatedDeviceStatus) bool {
		return s.Driver == w.Driver && !slices.ContainsFunc(w.Devices, func(o resource.AllocatedDeviceStatus) bool { return sameDevice(o, s) })
	})
	for _, d := range w.Devices {
		if !slices.ContainsFunc(claim.Status.Allocation.Devices.Results, func(r resource.DeviceRequestAllocationResult) bool {
			return sameDevice(d, resource.AllocatedDeviceStatus{Driver: r.Driver, Pool: r.Pool, Device: r.Device, ShareID: (*string)(r.ShareID)})
		}) {
			continue
		}
		i := slices.IndexFunc(list, func(s resource.AllocatedDeviceStatus) bool { return sameDevice(s, d) })
		if i < 0 {
			list, i = append(list, resource.AllocatedDeviceStatus{Driver: d.Driver, Pool: d.Pool, Device: d.Device, ShareID: d.ShareID}), len(list)
		}
		for _, c := range d.Conditions {
			c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
			meta.SetStatusCondition(&list[i].Conditions, c)
		}
	}
	if next.Status.Devices = list; len(list) == 0 {
		next.Status.Devices = nil
	}
	if equality.Semantic.DeepEqual(claim.Status.Devices, next.Status.Devices) {
		return nil
	}
	return next
}

// topic is what words are about.
type topic struct {
	claim  types.UID
	driver string
}

// voice says in the claims' status what it was last told; a pod never waits for that.
type voice struct {
	say func(ctx context.Context, w Words) error // nil: nobody listens
	// wake has something in it when there is something new to say.
	wake chan struct{}
	// speaking is held while something is written, before mu.
	speaking sync.Mutex

	mu sync.Mutex // guards want and said
	// want is what is to be said, said what was.
	want map[topic]wanted
	said map[topic]Words
}

// wanted are words; pod is who waits in vain for the devices, empty if they are ready.
type wanted struct {
	Words
	pod types.UID
}

func newVoice(say func(context.Context, Words) error) *voice {
	return &voice{say: say, wake: make(chan struct{}, 1), want: map[topic]wanted{}, said: map[topic]Words{}}
}

func (v *voice) tell(w Words, pod types.UID) {
	if v.say == nil || len(w.Devices) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.want[topic{w.UID, w.Driver}] = wanted{w, pod}
	select {
	case v.wake <- struct{}{}:
	default: // it has not looked yet
	}
}

// giveUp forgets what pods waited for that are gone. With the reservation of the last pod
// goes the allocation, and with it what was said.
func (v *voice) giveUp(gone func(pod types.UID) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.want, func(_ topic, w wanted) bool { return w.pod != "" && gone(w.pod) })
}

// takeBack has nothing said of a claim's devices any more. The server may refuse, as the
// node has no say in claims of pods that are gone, or be away: then they go with the allocation.
func (v *voice) takeBack(ctx context.Context, w Words) error {
	if v.say == nil {
		return nil
	}
	v.speaking.Lock()
	defer v.speaking.Unlock()
	v.mu.Lock()
	delete(v.want, topic{w.UID, w.Driver})
	delete(v.said, topic{w.UID, w.Driver})
	v.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sayLimit)
	defer cancel()
	return v.say(ctx, w)
}

// next is something that is to be said and was not.
func (v *voice) next() (topic, Words, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.said, func(t topic, _ Words) bool { _, ok := v.want[t]; return !ok })
	for t, w := range v.want {
		if s, ok := v.said[t]; !ok || !equality.Semantic.DeepEqual(s, w.Words) {
			return t, w.Words, true
		}
	}
	return topic{}, Words{}, false
}

// speak says all that is to be said; the error is the first.
func (v *voice) speak(ctx context.Context) error {
	for ctx.Err() == nil {
		done, err := v.sayNext(ctx)
		if done || err != nil {
			return err
		}
	}
	return nil
}

func (v *voice) sayNext(ctx context.Context) (done bool, err error) {
	v.speaking.Lock()
	defer v.speaking.Unlock()
	t, w, ok := v.next()
	if !ok {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sayLimit)
	defer cancel()
	if err := v.say(ctx, w); err != nil {
		return false, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said[t] = w
	return false, nil
}

// runVoice says what is told until ctx ends, beginning with what was prepared before orch was started.
func (c *Claims) runVoice(ctx context.Context) {
	for _, held := range c.config.Ledger.Claims() {
		if len(held.Pods) > 0 {
			c.tellReady(held)
		}
	}
	retry := firstRetry
	for {
		var again <-chan time.Time
		if err := c.voice.speak(ctx); err != nil && ctx.Err() == nil {
			if retry == firstRetry {
				c.config.Log.Warn("writing how a claim's devices are failed, it is tried again", "err", err)
			}
			again, retry = time.After(retry), min(2*retry, maxRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-c.voice.wake:
		case <-again:
		}
	}
}

// tellReady has said what is prepared of a claim.
func (c *Claims) tellReady(held devices.Claim) {
	for name, d := range held.Drivers {
		if by, ok := c.speaker(name); ok && d.Prepared == c.config.Boot {
			c.voice.tell(ready(held, name, by, d), "")
		}
	}
}

// tellFailed has said why a pod does not get a claim's devices.
func (c *Claims) tellFailed(pod types.UID, u use, why error) {
	held := devices.Claim{UID: u.claim.UID, Namespace: u.claim.Namespace, Name: u.claim.Name}
	for name, list := range allocated(u.claim) {
		if _, ok := c.speaker(name); ok {
			c.voice.tell(unready(held, name, list, why), pod)
		}
	}
}

func (c *Claims) speaker(name string) (Speaker, bool) {
	driver, ok := c.config.Driver(name)
	if !ok {
		return nil, false
	}
	by, ok := driver.(Speaker)
	return by, ok
}
