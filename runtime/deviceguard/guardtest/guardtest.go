// Package guardtest does to a container's device rules on cgroup v2 what systemd does when it is
// told to reload: it attaches another program. For tests.
package guardtest

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

func bpf[A any](command uintptr, attr *A) (int, error) {
	r, _, e := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	runtime.KeepAlive(attr)
	if e != 0 {
		return 0, e
	}
	return int(r), nil
}

// Load makes a device program that allows everything, or nothing.
func Load(allow bool) (fd int, err error) {
	value := uint64(0)
	if allow {
		value = 1
	}
	code := []uint64{0xb7 | value<<32, 0x95} // r0 = value; exit
	license, err := unix.BytePtrFromString("MIT")
	if err != nil {
		return 0, err
	}
	attr := struct {
		kind, count   uint32
		code, license uint64
		_             [12]uint64
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)), code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(license)))}
	fd, err = bpf(unix.BPF_PROG_LOAD, &attr)
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	return fd, err
}

// Deny has a control group refuse every device.
func Deny(group string) error {
	fd, err := Load(false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dir, err := unix.Open(group, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	_, err = bpf(unix.BPF_PROG_ATTACH, &struct{ target, program, kind, flags uint32 }{uint32(dir), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI})
	return err
}
