package agent

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"orch/api/hostaddress"
)

// outwardIP is the host's address, which the pod network wants to be IPv4.
func outwardIP() (string, error) {
	if ip := hostaddress.Outward(); ip.Is4() {
		return ip.String(), nil
	}
	return "", errors.New("finding the node's address: no interface has one; give --node-ip")
}

// oomFloor is the lowest oom_score_adj that processes of ours can be given. Without
// CAP_SYS_RESOURCE it can only be raised.
func oomFloor() int {
	const lowest = -1000
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return lowest
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}
