package admit

import (
	"fmt"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"orch/agent/pods/status"
)

// safe are the kernel parameters that concern their pod alone.
var safe = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
}

// Sysctls checks that a list of kernel parameters, or patterns that end in *, is of such as
// belong to a namespace: others would change the whole host.
func Sysctls(patterns []string) error {
	for _, p := range patterns {
		if ns, name, _ := sysctl.GetNamespace(p); ns == sysctl.UnknownNamespace {
			return fmt.Errorf("the sysctls %q are not known to be namespaced", name)
		}
	}
	return nil
}

// sysctls refuses parameters that are neither safe nor allowed here, and those of a namespace
// that the pod shares with the host.
func sysctls(pod *core.Pod, allowed []string) *status.Verdict {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if why := refused(pod, sysctl.NormalizeName(s.Name), allowed); why != "" {
			return &status.Verdict{Reason: "SysctlForbidden", Message: fmt.Sprintf("forbidden sysctl: %q %s", sysctl.NormalizeName(s.Name), why)}
		}
	}
	return nil
}

func refused(pod *core.Pod, name string, allowed []string) string {
	for _, list := range [][]string{safe, allowed} {
		for _, pattern := range list {
			ns, want, prefix := sysctl.GetNamespace(pattern)
			if name != want && !(prefix && strings.HasPrefix(name, want)) {
				continue
			}
			if ns == sysctl.IPCNamespace && pod.Spec.HostIPC || ns == sysctl.NetNamespace && pod.Spec.HostNetwork ||
				ns == sysctl.UserNamespace && (pod.Spec.HostUsers == nil || *pod.Spec.HostUsers) {
				return fmt.Sprintf("not allowed with host %s enabled", ns)
			}
			return ""
		}
	}
	return "not allowlisted"
}
