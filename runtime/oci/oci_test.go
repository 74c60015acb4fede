package oci

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"orch/runtime/engine"
)

var files = map[string]string{
	"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/:/bin/false\nbroken line\n# comment\n",
	"/etc/group":  "root:x:0:root\nweb:x:102:\nextra:x:200:web,other\nshort:x\n",
}

func readFile(p string) ([]byte, error) {
	if s, ok := files[p]; ok {
		return []byte(s), nil
	}
	return nil, fs.ErrNotExist
}

var host = Host{Caps: CapsOf(1<<41 - 1), Seccomp: true, MinOOMScoreAdj: -1000}

func TestUser(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	tests := []struct {
		name  string
		image string
		user  engine.User
		want  specs.User
	}{
		{"nothing said", "", engine.User{}, specs.User{AdditionalGids: []uint32{0}}},
		{"name in image", "web", engine.User{}, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 200}}},
		{"number in image", "101", engine.User{}, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 200}}},
		{"unknown number", "4711", engine.User{}, specs.User{UID: 4711, AdditionalGids: []uint32{0}}},
		{"name and group", "web:extra", engine.User{}, specs.User{UID: 101, GID: 200, AdditionalGids: []uint32{200}}},
		{"numbers in image", "5:6", engine.User{}, specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{6}}},
		{"asked for a user", "web", engine.User{UID: id(1000)}, specs.User{UID: 1000, AdditionalGids: []uint32{0}}},
		{"asked for user and group", "web", engine.User{UID: id(101), GID: id(7)}, specs.User{UID: 101, GID: 7, AdditionalGids: []uint32{7, 200}}},
		{"asked for a group", "web", engine.User{GID: id(7)}, specs.User{UID: 101, GID: 7, AdditionalGids: []uint32{7, 200}}},
		{"more groups", "web", engine.User{Groups: []int64{9, 200}}, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 200, 9}}},
		{"strict groups", "web", engine.User{Groups: []int64{9}, StrictGroups: true}, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 9}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Build(Input{Spec: engine.Spec{Command: []string{"x"}, User: tt.user}, Image: imagespec.ImageConfig{User: tt.image}, Host: host, ReadFile: readFile})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, s.Process.User); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	img := imagespec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"a", "b"}, Env: []string{"PATH=/p", "X=1"}, WorkingDir: "/w"}
	tests := []struct {
		name          string
		command, args []string
		want          string
	}{
		{"image's", nil, nil, "/entry a b"},
		{"other args", nil, []string{"c"}, "/entry c"},
		{"other command", []string{"sh"}, nil, "sh"},
		{"both", []string{"sh"}, []string{"-c"}, "sh -c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Build(Input{Spec: engine.Spec{Command: tt.command, Args: tt.args, Env: []string{"X=2", "Y=3"}}, Image: img, Host: host})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.Process.Args, " "); got != tt.want {
				t.Errorf("args %q, want %q", got, tt.want)
			}
			if d := cmp.Diff([]string{"PATH=/p", "X=2", "Y=3"}, s.Process.Env); d != "" {
				t.Error(d)
			}
			if s.Process.Cwd != "/w" {
				t.Errorf("folder %q", s.Process.Cwd)
			}
		})
	}
}

// TestSELinuxLabelsAreLeftOutWithoutSELinux: runc refuses to start a container with a label on
// a host that has none, and pods with seLinuxOptions run everywhere.
func TestSELinuxLabelsAreLeftOutWithoutSELinux(t *testing.T) {
	for _, enabled := range []bool{false, true} {
		h := host
		h.SELinux = enabled
		out := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
		if err := security(Input{Spec: engine.Spec{Security: engine.Security{SELinux: "u:r:t:s0"}}, Host: h}, out); err != nil {
			t.Fatal(err)
		}
		if got := out.Process.SelinuxLabel != ""; got != enabled {
			t.Errorf("with SELinux %v the label is %q", enabled, out.Process.SelinuxLabel)
		}
	}
}

func TestCapabilities(t *testing.T) {
	tests := []struct {
		name string
		sec  engine.Security
		want int
		has  string
	}{
		{"defaults", engine.Security{}, 14, "CAP_CHOWN"},
		{"drop all add one", engine.Security{DropCaps: []string{"ALL"}, AddCaps: []string{"net_admin"}}, 1, "CAP_NET_ADMIN"},
		{"add all drop one", engine.Security{AddCaps: []string{"ALL"}, DropCaps: []string{"SYS_ADMIN"}}, 40, "CAP_BPF"},
		{"privileged", engine.Security{Privileged: true}, 41, "CAP_SYS_ADMIN"},
		{"with prefix", engine.Security{AddCaps: []string{"CAP_SYS_TIME"}}, 15, "CAP_SYS_TIME"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := capabilities(Input{Spec: engine.Spec{Security: tt.sec}, Host: host})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, c := range got {
				found = found || c == tt.has
			}
			if len(got) != tt.want || !found {
				t.Errorf("%d capabilities: %v", len(got), got)
			}
		})
	}
}

func TestMountOrder(t *testing.T) {
	s, err := Build(Input{Host: host, Spec: engine.Spec{Command: []string{"x"}, Mounts: []engine.Mount{
		{Source: "/h/deep", Target: "/data/sub"}, {Source: "/h", Target: "/data", Propagation: "rshared"}, {Source: "/pod/shm", Target: "/dev/shm"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, m := range s.Mounts {
		order = append(order, m.Destination)
	}
	want := []string{"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/data", "/data/sub", "/dev/shm"}
	if d := cmp.Diff(want, order); d != "" {
		t.Error(d)
	}
	if s.Linux.RootfsPropagation != "rshared" {
		t.Errorf("root's propagation is %q", s.Linux.RootfsPropagation)
	}
}

func TestRefused(t *testing.T) {
	x := []string{"x"}
	tests := []struct {
		name  string
		spec  engine.Spec
		image imagespec.ImageConfig
		want  string
	}{
		{"no command", engine.Spec{}, imagespec.ImageConfig{}, "no command specified"},
		{"unknown user", engine.Spec{Command: x}, imagespec.ImageConfig{User: "nobody"}, `no user "nobody"`},
		{"unknown group", engine.Spec{Command: x}, imagespec.ImageConfig{User: "web:none"}, `no group "none"`},
		{"unknown capability", engine.Spec{Command: x, Security: engine.Security{AddCaps: []string{"FLY"}}}, imagespec.ImageConfig{}, `"CAP_FLY"`},
		{"relative mount", engine.Spec{Command: x, Mounts: []engine.Mount{{Target: "a"}}}, imagespec.ImageConfig{}, "not absolute"},
		{"mount type", engine.Spec{Command: x, Mounts: []engine.Mount{{Target: "/a", Type: "nfs"}}}, imagespec.ImageConfig{}, `type "nfs"`},
		{"propagation", engine.Spec{Command: x, Mounts: []engine.Mount{{Target: "/a", Propagation: "up"}}}, imagespec.ImageConfig{}, `propagation "up"`},
		{"namespace", engine.Spec{Command: x, Namespaces: engine.Namespaces{Network: "pod"}}, imagespec.ImageConfig{}, `"pod"`},
		{"seccomp profile", engine.Spec{Command: x, Security: engine.Security{Seccomp: "/f"}}, imagespec.ImageConfig{}, "seccomp profile /f"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Build(Input{Spec: tt.spec, Image: tt.image, Host: host, ReadFile: readFile})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a word of %q", err, tt.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	got := Limits(engine.Resources{CPUShares: 512, MemoryBytes: 100, PidsLimit: 7, Hugepages: map[string]uint64{"2MB": 1, "1GB": 2}}, true)
	if *got.CPU.Shares != 512 || *got.Memory.Limit != 100 || *got.Memory.Swap != 100 || *got.Pids.Limit != 7 || got.HugepageLimits[0].Pagesize != "1GB" {
		t.Errorf("limits: %+v", got)
	}
	if got := Limits(engine.Resources{}, true); got.CPU != nil || got.Memory != nil || got.Pids != nil {
		t.Errorf("no limits: %+v", got)
	}
}
