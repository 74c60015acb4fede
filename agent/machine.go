package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// outwardIP is the address that a packet to the outside would have, else the first
// global one of an interface that is up: there need not be a default route.
func outwardIP() (string, error) {
	// Connecting UDP sends nothing; it asks the routing table.
	if conn, err := net.Dial("udp4", "203.0.113.1:9"); err == nil {
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok && a.IP.IsGlobalUnicast() {
			return a.IP.String(), nil
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("finding the node's address: %w", err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || virtual(i.Name) {
			continue
		}
		list, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
				return n.IP.String(), nil
			}
		}
	}
	return "", errors.New("finding the node's address: no interface has one; give --node-ip")
}

// virtual interfaces are made by us and by other container tools.
func virtual(name string) bool {
	for _, p := range []string{"orch", "veth", "cni", "flannel", "docker", "br-", "virbr"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
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
