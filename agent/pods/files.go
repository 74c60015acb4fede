package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/agent/host"
	"orch/agent/pods/spec"
)

// saved is the part of a sandbox that a restarted agent has to know. It lies in the run
// directory, which a reboot empties, as it does with namespaces.
type saved struct {
	host.Sandbox
	IPs []string `json:"ips"`
}

// files are mounts of files that the agent makes for the pod.
type files struct{ hosts, hostname, resolv, shm string }

func (p *Pods) podRunDir(uid string) string { return filepath.Join(p.config.RunDir, "pods", uid) }

// PodDir is the pod's directory below the root directory, as upstream lays it out.
func (p *Pods) podDir(uid string) string { return filepath.Join(p.config.RootDir, "pods", uid) }

// shmBytes is the size of a pod's /dev/shm, as upstream's runtimes make it.
const shmBytes = "67108864"

// makeFiles writes the pod's generated files and makes its /dev/shm.
func (p *Pods) makeFiles(pod *core.Pod, s host.Sandbox) (files, error) {
	dir := p.podRunDir(string(pod.UID))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return files{}, fmt.Errorf("making the pod's run directory: %w", err)
	}
	if err := os.MkdirAll(p.podDir(string(pod.UID)), 0o750); err != nil {
		return files{}, fmt.Errorf("making the pod's directory: %w", err)
	}
	f := files{
		hosts: filepath.Join(dir, "hosts"), hostname: filepath.Join(dir, "hostname"), resolv: filepath.Join(dir, "resolv.conf"), shm: "/dev/shm",
	}
	// Only join writes into it: containers are made with the file, and started when it is filled.
	hosts, err := os.OpenFile(f.hosts, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return files{}, fmt.Errorf("making the pod's hosts file: %w", err)
	}
	hosts.Close()
	name := s.Hostname
	if pod.Spec.HostNetwork {
		name, _ = os.Hostname()
	}
	if err := os.WriteFile(f.hostname, []byte(name+"\n"), 0o644); err != nil {
		return files{}, fmt.Errorf("writing the pod's hostname: %w", err)
	}
	if err := os.WriteFile(f.resolv, []byte(spec.ResolverFor(pod, p.config.DNS).String()), 0o644); err != nil {
		return files{}, fmt.Errorf("writing the pod's resolv.conf: %w", err)
	}
	if s.IPC == "" {
		return f, nil
	}
	f.shm = filepath.Join(dir, "shm")
	return f, mountShm(f.shm)
}

func mountShm(dir string) error {
	if err := os.Mkdir(dir, 0o1777); err != nil {
		if !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making the pod's shm: %w", err)
		}
		var fs unix.Statfs_t
		var outer unix.Stat_t
		var inner unix.Stat_t
		if unix.Statfs(dir, &fs) == nil && unix.Stat(dir, &inner) == nil && unix.Stat(filepath.Dir(dir), &outer) == nil && inner.Dev != outer.Dev {
			return nil // mounted by an earlier run
		}
	}
	err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size="+shmBytes)
	if err != nil {
		return fmt.Errorf("mounting the pod's shm: %w", err)
	}
	return nil
}

// writeHosts writes in place: running containers have the file mounted.
func (p *Pods) writeHosts(pod *core.Pod, ips []string) error {
	base := ""
	if pod.Spec.HostNetwork {
		b, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("reading the host's hosts file: %w", err)
		}
		base = string(b)
	}
	name := filepath.Join(p.podRunDir(string(pod.UID)), "hosts")
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("making the pod's run directory: %w", err)
	}
	if err := os.WriteFile(name, []byte(spec.HostsFile(pod, ips, p.config.DNS.Domain, base)), 0o644); err != nil {
		return fmt.Errorf("writing the pod's hosts file: %w", err)
	}
	return nil
}

func (p *Pods) savedPath(uid string) string { return filepath.Join(p.podRunDir(uid), "sandbox.json") }

func (p *Pods) save(s saved) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding the sandbox: %w", err)
	}
	name := p.savedPath(string(s.UID))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("making the pod's run directory: %w", err)
	}
	if err := os.WriteFile(name+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("saving the sandbox: %w", err)
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return fmt.Errorf("saving the sandbox: %w", err)
	}
	return nil
}

func (p *Pods) load(uid string) (saved, bool) {
	b, err := os.ReadFile(p.savedPath(uid))
	if err != nil {
		return saved{}, false
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return saved{}, false
	}
	return s, true
}

// logPath is where a container's output goes, as upstream lays it out.
func (p *Pods) logPath(pod *core.Pod, container string, attempt int) string {
	return filepath.Join(p.logDir(pod), container, fmt.Sprintf("%d.log", attempt))
}

func (p *Pods) logDir(pod *core.Pod) string {
	return filepath.Join(p.config.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// link puts the name that log collectors look for beside the log.
func (s *starting) link(id, logPath string) {
	if s.p.config.LinkDir == "" {
		return
	}
	name := filepath.Join(s.p.config.LinkDir, s.p.linkName(&s.pod.ObjectMeta, s.named.Name, id))
	if err := os.Symlink(logPath, name); err != nil && !errors.Is(err, os.ErrExist) {
		s.p.Log.Warn("linking a container's log failed", "link", name, "err", err)
	}
}

func (p *Pods) linkName(pod *metav1.ObjectMeta, container, id string) string {
	return pod.Name + "_" + pod.Namespace + "_" + container + "-" + id + ".log"
}

// messageFile is mounted where the container leaves its last words.
func (p *Pods) messageFile(pod *core.Pod, container, id string) string {
	return filepath.Join(p.podDir(string(pod.UID)), "containers", container, id[:8])
}
