package probe

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// lingerShort lets closed probe connections leave TIME_WAIT after a second, so
// that many probes do not use up the ports of the host.
func lingerShort(_, _ string, c syscall.RawConn) error {
	var bad error
	err := c.Control(func(fd uintptr) {
		bad = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
	})
	if err != nil {
		return err
	}
	return bad
}
