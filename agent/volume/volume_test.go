package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/agent/host"
	"orch/api"
	"orch/api/client"
	"orch/datastore/memory"
	"orch/server/registry"
)

type fixture struct {
	*testing.T
	*Volumes
	c *client.Client

	guard  sync.Mutex // of what follows
	tokens int
	clock  time.Time
	// asked, where there is one, is told of each request for a token, which waits until what
	// it sent is closed.
	asked chan chan struct{}
}

// later moves the clock, and has requests for tokens told to asked from now on.
func (f *fixture) later(d time.Duration, asked chan chan struct{}) {
	f.guard.Lock()
	defer f.guard.Unlock()
	f.clock, f.asked = f.clock.Add(d), asked
}

func (f *fixture) Now() time.Time {
	f.guard.Lock()
	defer f.guard.Unlock()
	return f.clock
}

type podFields struct{}

func (podFields) Field(p *core.Pod, path string) (string, error) {
	return fmt.Sprintf("%s of %s: %v", path, p.Name, p.Labels), nil
}
func (podFields) Resource(*core.Pod, *core.ResourceFieldSelector) (string, error) { return "1", nil }

// newFixture has a real API in memory behind it and volumes in a temporary root.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, clock: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	r, err := registry.New(registry.Config{Store: memory.New(), Resources: registry.BuiltIn()})
	if err != nil {
		t.Fatal(err)
	}
	r.SetSub(api.ServiceAccounts.Facts, "token", func(_ context.Context, _ registry.Request, _ api.Object, body runtime.Object) (runtime.Object, error) {
		f.guard.Lock()
		asked := f.asked
		f.guard.Unlock()
		if asked != nil {
			goOn := make(chan struct{})
			select {
			case asked <- goOn:
				<-goOn
			case <-ctx.Done():
			}
		}
		f.guard.Lock()
		defer f.guard.Unlock()
		f.tokens++
		q := body.(*authn.TokenRequest)
		q.Status = authn.TokenRequestStatus{Token: fmt.Sprintf("token-%d", f.tokens), ExpirationTimestamp: metav1.NewTime(f.clock.Add(time.Hour))}
		return q, nil
	})
	done := make(chan error, 2)
	go func() { done <- r.Run(ctx) }()
	<-r.Ready()
	f.c = r.Client(registry.User{Name: "system:node:n"})
	v, err := New(Config{Root: t.TempDir(), Client: f.c, Fields: podFields{}, Images: madeUp{}, Now: f.Now})
	if err != nil {
		t.Fatal(err)
	}
	f.Volumes = v
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; <-done })
	return f
}

func (f *fixture) create(o api.Object, k *api.Facts) {
	f.Helper()
	if _, err := f.c.Create(context.Background(), client.Target{Kind: k, Namespace: "default"}, o, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "default"}
}

func pod(name string, volumes ...core.Volume) *core.Pod {
	return &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: "uid-" + "1", Labels: map[string]string{"a": "b"}},
		Spec: core.PodSpec{Volumes: volumes, Containers: []core.Container{{Name: "c"}}}}
}

func (f *fixture) mustMount(p *core.Pod) map[string]host.Mounted {
	f.Helper()
	m, err := f.Mount(context.Background(), p)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { f.Unmount(context.Background(), p.UID) })
	return m
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(b)
}

// eventually waits until the file has the content.
func eventually(t *testing.T, path, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if read(t, path) == want {
			return
		}
	}
	t.Fatalf("%s holds %q, want %q", path, read(t, path), want)
}

func TestConfigMapIsMountedAndFollowed(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ConfigMap{ObjectMeta: meta("cm"), Data: map[string]string{"a": "1", "b": "2"}}, api.ConfigMaps.Facts)
	all := core.Volume{Name: "all", VolumeSource: core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: core.LocalObjectReference{Name: "cm"}}}}
	some := *all.DeepCopy()
	some.Name = "some"
	some.ConfigMap.Items = []core.KeyToPath{{Key: "b", Path: "deep/er/b", Mode: new(int32(0o400))}}
	m := f.mustMount(pod("p", all, some))
	if got := read(t, m["all"].Path+"/a") + read(t, m["all"].Path+"/b") + read(t, m["some"].Path+"/deep/er/b"); got != "122" {
		t.Fatal(got)
	}
	if st, _ := os.Stat(m["some"].Path + "/deep/er/b"); st.Mode().Perm() != 0o400 {
		t.Errorf("mode %v", st.Mode())
	}
	before, _ := os.Readlink(m["all"].Path + "/..data")
	if _, err := client.Patch(context.Background(), f.c, api.ConfigMaps, client.Target{Namespace: "default", Name: "cm"}, "application/merge-patch+json", []byte(`{"data":{"a":null,"b":"3"}}`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, m["all"].Path+"/b", "3")
	eventually(t, m["some"].Path+"/deep/er/b", "3")
	if _, err := os.Lstat(m["all"].Path + "/a"); err == nil {
		t.Error("a key that is gone is still a file")
	}
	if after, _ := os.Readlink(m["all"].Path + "/..data"); after == before {
		t.Error("the files were changed in place")
	}
}

func TestMissingObjects(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ConfigMap{ObjectMeta: meta("cm"), Data: map[string]string{"a": "1"}}, api.ConfigMaps.Facts)
	ref := func(name string) core.LocalObjectReference { return core.LocalObjectReference{Name: name} }
	for want, s := range map[string]core.VolumeSource{
		`configmap "none" not found`:                           {ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: ref("none")}},
		`secret "none" not found`:                              {Secret: &core.SecretVolumeSource{SecretName: "none"}},
		`configmap references non-existent config key: x`:      {ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: ref("cm"), Items: []core.KeyToPath{{Key: "x", Path: "x"}}}},
		`invalid path "../x" in the volume`:                    {ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: ref("cm"), Items: []core.KeyToPath{{Key: "a", Path: "../x"}}}},
		`no storage for volumes of type persistentVolumeClaim`: {PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: "x"}},
	} {
		_, err := f.Mount(context.Background(), pod("p", core.Volume{Name: "v", VolumeSource: s}))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `MountVolume.SetUp failed for volume "v" : `) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	optional := core.VolumeSource{Secret: &core.SecretVolumeSource{SecretName: "later", Optional: new(true)}}
	m := f.mustMount(pod("p", core.Volume{Name: "v", VolumeSource: optional}))
	f.create(&core.Secret{ObjectMeta: meta("later"), Data: map[string][]byte{"k": []byte("v")}}, api.Secrets.Facts)
	eventually(t, m["v"].Path+"/k", "v")
}

func TestProjectedTokenIsRenewedInTime(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ServiceAccount{ObjectMeta: meta("default")}, api.ServiceAccounts.Facts)
	f.create(&core.ConfigMap{ObjectMeta: meta("ca"), Data: map[string]string{"ca.crt": "CA"}}, api.ConfigMaps.Facts)
	p := pod("p", core.Volume{Name: "v", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{Sources: []core.VolumeProjection{
		{ServiceAccountToken: &core.ServiceAccountTokenProjection{Path: "token"}},
		{ConfigMap: &core.ConfigMapProjection{LocalObjectReference: core.LocalObjectReference{Name: "ca"}}},
		{DownwardAPI: &core.DownwardAPIProjection{Items: []core.DownwardAPIVolumeFile{{Path: "ns", FieldRef: &core.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}})
	m := f.mustMount(p)
	if got := read(t, m["v"].Path+"/token") + read(t, m["v"].Path+"/ca.crt"); got != "token-1CA" {
		t.Fatal(got)
	}
	if _, err := client.Patch(context.Background(), f.c, api.ConfigMaps, client.Target{Namespace: "default", Name: "ca"}, "application/merge-patch+json", []byte(`{"data":{"ca.crt":"CA2"}}`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, m["v"].Path+"/ca.crt", "CA2")
	if got := read(t, m["v"].Path+"/token"); got != "token-1" {
		t.Errorf("the token was renewed early: %s", got)
	}
	f.later(50*time.Minute, nil)
	f.follower.ring()
	eventually(t, m["v"].Path+"/token", "token-2")
}

// TestTokensBelongToWhoUsesThem: tokens of pods that do not run as root could be read by every user in the pod.
func TestTokensBelongToWhoUsesThem(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ServiceAccount{ObjectMeta: meta("default")}, api.ServiceAccounts.Facts)
	for i, tt := range []struct {
		pod, own, fsGroup *int64
		want              string
	}{
		{nil, nil, nil, "-rw-r--r-- 0:0"},
		{new(int64(1000)), nil, nil, "-rw------- 1000:0"},
		{new(int64(1000)), nil, new(int64(2000)), "-rw-r----- 1000:2000"},
		{nil, nil, new(int64(2000)), "-rw-r----- 0:2000"},
		{new(int64(1000)), new(int64(1001)), nil, "-rw-r--r-- 0:0"},
		{new(int64(0)), nil, nil, "-rw------- 0:0"},
	} {
		p := pod(fmt.Sprint("p", i), core.Volume{Name: "v", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{
			Sources: []core.VolumeProjection{{ServiceAccountToken: &core.ServiceAccountTokenProjection{Path: "token"}}}}}})
		p.Spec.SecurityContext = &core.PodSecurityContext{RunAsUser: tt.pod, FSGroup: tt.fsGroup}
		p.Spec.Containers = []core.Container{{Name: "a"}, {Name: "b", SecurityContext: &core.SecurityContext{RunAsUser: tt.own}}}
		st, err := os.Stat(f.mustMount(p)["v"].Path + "/token")
		if err != nil {
			t.Fatal(err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%s %d:%d", st.Mode(), sys.Uid, sys.Gid); got != tt.want {
			t.Errorf("%s: %s, want %s", p.Name, got, tt.want)
		}
	}
}

// TestUnmountDuringRenewal: a volume that is being renewed while its pod is unmounted is not
// there again afterwards.
func TestUnmountDuringRenewal(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ServiceAccount{ObjectMeta: meta("default")}, api.ServiceAccounts.Facts)
	p := pod("p", core.Volume{Name: "v", VolumeSource: core.VolumeSource{Projected: &core.ProjectedVolumeSource{Sources: []core.VolumeProjection{
		{ServiceAccountToken: &core.ServiceAccountTokenProjection{Path: "token"}}}}}})
	f.mustMount(p)
	asked := make(chan chan struct{})
	f.later(50*time.Minute, asked)
	renewed := make(chan error, 1)
	go func() { renewed <- f.renew(t.Context(), p.UID) }()
	first := <-asked // of this one or of the follower, who may be at it as well
	if err := f.Unmount(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	close(first)
	for done := false; !done; {
		select {
		case other := <-asked:
			close(other)
		case err := <-renewed:
			if done = true; err != nil {
				t.Errorf("renewing what is gone failed: %v", err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(f.podDir(p.UID), "volumes")); !os.IsNotExist(err) {
		t.Errorf("the volumes are there again: %v", err)
	}
}

// TestUnmountedIsNotFollowed: a pod that was unmounted at the end of a renewal was followed for
// ever after, and once its token was due the agent did nothing but look at it.
func TestUnmountedIsNotFollowed(t *testing.T) {
	f := newFixture(t)
	f.create(&core.ConfigMap{ObjectMeta: meta("cm"), Data: map[string]string{"a": "1"}}, api.ConfigMaps.Facts)
	p := pod("p", core.Volume{Name: "v", VolumeSource: core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{LocalObjectReference: core.LocalObjectReference{Name: "cm"}}}})
	for range 300 {
		if _, err := f.Mount(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		renewed := make(chan error, 1)
		go func() { renewed <- f.renew(t.Context(), p.UID) }()
		goruntime.Gosched()
		if err := errors.Join(f.Unmount(t.Context(), p.UID), <-renewed); err != nil && !errors.Is(err, errUnmounted) {
			t.Fatal(err)
		}
	}
	f.follower.mu.Lock()
	defer f.follower.mu.Unlock()
	if len(f.follower.pods)+len(f.follower.objects) > 0 {
		t.Errorf("%d pods and %d objects are followed, and none is mounted", len(f.follower.pods), len(f.follower.objects))
	}
}

func TestScratchAndHostPaths(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	kind := func(k core.HostPathType) *core.HostPathType { return &k }
	p := pod("p",
		core.Volume{Name: "disk", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{}}},
		core.Volume{Name: "memory", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{Medium: core.StorageMediumMemory, SizeLimit: new(resource.MustParse("1Mi"))}}},
		core.Volume{Name: "host", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: dir + "/new", Type: kind(core.HostPathDirectoryOrCreate)}}})
	p.Spec.SecurityContext = &core.PodSecurityContext{FSGroup: new(int64(4711))}
	m := f.mustMount(p)
	st, err := os.Stat(m["disk"].Path)
	if err != nil || st.Sys().(*syscall.Stat_t).Gid != 4711 || st.Mode()&os.ModeSetgid == 0 {
		t.Errorf("emptyDir: %v %v", st, err)
	}
	if err := os.WriteFile(m["memory"].Path+"/big", make([]byte, 2<<20), 0o600); err == nil {
		t.Error("2 MiB fit into a memory volume of 1 MiB")
	}
	if _, err := os.Stat(dir + "/new"); err != nil {
		t.Error(err)
	}
	again := f.mustMount(p)
	if again["memory"].Path != m["memory"].Path {
		t.Error("mounting again moved the volume")
	}
	for _, k := range []core.HostPathType{core.HostPathFile, core.HostPathSocket, core.HostPathBlockDev} {
		_, err := f.Mount(context.Background(), pod("q", core.Volume{Name: "v", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: dir, Type: kind(k)}}}))
		if err == nil || !strings.Contains(err.Error(), "hostPath type check failed") {
			t.Errorf("%s: %v", k, err)
		}
	}
	if err := f.Unmount(context.Background(), p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(f.podDir(p.UID), "volumes")); err == nil {
		t.Error("something is left of the volumes")
	}
	if _, err := os.Stat(dir + "/new"); err != nil {
		t.Error("unmounting took the host's directory away")
	}
}

func TestSubPathDoesNotLeaveTheVolume(t *testing.T) {
	f := newFixture(t)
	p := pod("p", core.Volume{Name: "v", VolumeSource: core.VolumeSource{EmptyDir: &core.EmptyDirVolumeSource{}}})
	m := f.mustMount(p)
	os.WriteFile(m["v"].Path+"/file", []byte("x"), 0o600)
	os.Symlink("/etc", m["v"].Path+"/out")
	os.Symlink("file", m["v"].Path+"/in")
	sub := func(path string, i int) (string, error) {
		return f.SubPath(context.Background(), host.SubPath{Pod: p.UID, Volume: "v", Container: "c", Index: i, Path: path, Host: m["v"]})
	}
	for i, path := range []string{"made/as/dir", "file", "in"} {
		got, err := sub(path, i)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Stat(got); err != nil {
			t.Error(err)
		}
	}
	for i, path := range []string{"out", "out/passwd", "../../x"} {
		if got, err := sub(path, 10+i); err == nil {
			t.Errorf("%s led to %s", path, got)
		}
	}
	if err := f.Unmount(context.Background(), p.UID); err != nil {
		t.Fatal(err)
	}
}
