package link

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"orch/network/netns"
)

// Sysctl sets a kernel setting (slashes, relative to /proc/sys) inside the
// namespace pinned on path. It reads first: on a host where /proc/sys is
// read-only, a setting that is right is good enough.
func Sysctl(path, name, value string) error {
	return netns.Do(path, func() error {
		file := filepath.Join("/proc/sys", name)
		have, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading a kernel setting: %w", err)
		}
		if strings.TrimSpace(string(have)) == value {
			return nil
		}
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			return fmt.Errorf("setting %s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
		}
		return nil
	})
}

// Forwarding makes the namespace route packets, and bridges pass them through
// the packet filter, without which a Service's answer between two pods of one
// bridge takes a short cut past its translation.
func Forwarding(path string) error {
	const bridges = "net/bridge/bridge-nf-call-iptables"
	err := Sysctl(path, bridges, "1")
	if errors.Is(err, os.ErrNotExist) && loadModule("br_netfilter") == nil {
		err = Sysctl(path, bridges, "1")
	}
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("the kernel module br_netfilter is not loaded (remedy: modprobe br_netfilter): %w", err)
	}
	return errors.Join(Sysctl(path, "net/ipv4/ip_forward", "1"), err)
}

// loadModule asks the host's modprobe; it does nothing for a module that is
// loaded. The kernel itself loads the others that we need, but not this one.
func loadModule(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "modprobe", name).Run()
}

const (
	siocEthtool     = 0x8946
	ethtoolSetTXCsm = 0x17
)

// ChecksumOffload switches transmit checksumming by the device on or off.
// Tunnel devices on some kernels and virtual cards send wrong checksums for
// packets that were translated; in software they are right.
func (h *Handle) ChecksumOffload(name string, on bool) error {
	return netns.Do(h.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening a control socket: %w", err)
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{cmd: ethtoolSetTXCsm}
		if on {
			value.data = 1
		}
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte // the kernel copies a whole ifreq
		}
		copy(req.name[:unix.IFNAMSIZ-1], name)
		req.data = unsafe.Pointer(&value)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocEthtool, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return fmt.Errorf("setting checksum offload of %s: %w", name, errno)
		}
		return nil
	})
}
