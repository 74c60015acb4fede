package sysfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orch/gpu/device"
)

// settle is how long the bus must be quiet before a change is told: a driver that loads
// makes dozens of uevents, and its nodes come last.
const settle = 200 * time.Millisecond

// Watch hears the kernel until ctx ends: its uevents and, from the first sign of something
// of NVIDIA's on, its log. Every line of the log wakes up those who hear it, hence a host
// without a card leaves it alone. If only one of the two voices can be heard the other is
// enough to go on; without both it returns an error, once it has logged why.
func (s *Source) Watch(ctx context.Context, each func(device.Event)) error {
	socket, busErr := uevents()
	var one sync.Mutex // each is called by one at a time
	send := func(e device.Event) {
		one.Lock()
		defer one.Unlock()
		each(e)
	}
	var voices sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hear := func(f *os.File, err error, what string, read func(f *os.File) error) {
		if err != nil {
			s.config.Log.Warn("not heard: "+what, "err", err)
			return
		}
		defer context.AfterFunc(ctx, func() { f.Close() })()
		if err := read(f); err != nil && ctx.Err() == nil {
			s.config.Log.Error("no longer heard: "+what, "err", err)
		}
	}
	sign := newSign()
	voices.Go(func() {
		defer sign.give() // from now on no uevent tells of a card that comes
		hear(socket, busErr, "the bus and the modules (uevents)", func(f *os.File) error { return s.readUevents(ctx, f, sign, send) })
	})
	voices.Go(func() {
		if !s.present(ctx) && !sign.wait(ctx) {
			return
		}
		log, err := s.kernelLog()
		hear(log, err, "the kernel log (XIDs)", func(f *os.File) error { return s.readLog(f, send) })
	})
	voices.Wait()
	if ctx.Err() == nil {
		return errors.New("watching the kernel: nothing is heard any more")
	}
	return nil
}

// present tells whether there is something of NVIDIA's that may write XIDs, or if that
// cannot be known.
func (s *Source) present(ctx context.Context) bool {
	m, err := s.Machine(ctx)
	return err != nil || m.Tier != device.TierNone || m.NVSwitches > 0
}

// sign is given once.
type sign struct {
	given chan struct{}
	once  sync.Once
}

func newSign() *sign { return &sign{given: make(chan struct{})} }

func (s *sign) give() { s.once.Do(func() { close(s.given) }) }

// wait is false if ctx ended first.
func (s *sign) wait(ctx context.Context) bool {
	select {
	case <-s.given:
		return true
	case <-ctx.Done():
		return false
	}
}

// uevents opens the kernel's socket of device events.
func uevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening the uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("joining the kernel's uevents: %w", err)
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// readUevents tells of a change when what concerns NVIDIA has been quiet for a moment,
// and gives the sign at once.
func (s *Source) readUevents(ctx context.Context, f *os.File, sign *sign, send func(device.Event)) error {
	quiet := time.AfterFunc(time.Hour, func() {
		if s.present(ctx) {
			sign.give()
		}
		send(device.Event{Kind: device.EventChanged})
	})
	quiet.Stop()
	defer quiet.Stop()
	buffer := make([]byte, 16<<10)
	for {
		n, err := f.Read(buffer)
		if errors.Is(err, syscall.ENOBUFS) {
			quiet.Reset(settle) // events were lost: one of them may have been ours
			continue
		}
		if err != nil {
			return fmt.Errorf("reading uevents: %w", err)
		}
		if Concerns(buffer[:n]) {
			sign.give()
			quiet.Reset(settle)
		}
	}
}

// Concerns tells whether a uevent is about an NVIDIA card or module.
func Concerns(message []byte) bool {
	fields := map[string]string{}
	for part := range bytes.SplitSeq(message, []byte{0}) {
		if k, v, ok := strings.Cut(string(part), "="); ok {
			fields[k] = v
		}
	}
	switch fields["SUBSYSTEM"] {
	case "pci":
		if id := fields["PCI_ID"]; id != "" {
			return strings.HasPrefix(strings.ToUpper(id), "10DE:")
		}
		return fields["DRIVER"] == "nvidia" || fields["ACTION"] == "remove"
	case "module", "drivers":
		name := fields["DEVPATH"][strings.LastIndexByte(fields["DEVPATH"], '/')+1:]
		return strings.HasPrefix(name, "nvidia") || name == "nouveau"
	}
	return false
}

// kernelLog opens the log at its end: what was before is not news.
func (s *Source) kernelLog() (*os.File, error) {
	f, err := os.OpenFile(s.path("/dev/kmsg"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the kernel log: %w", err)
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil && !errors.Is(err, syscall.ESPIPE) {
		f.Close()
		return nil, fmt.Errorf("going to the end of the kernel log: %w", err)
	}
	return f, nil
}

// readLog tells of XIDs. A record is a read; one that was overwritten is EPIPE.
func (s *Source) readLog(f *os.File, send func(device.Event)) error {
	buffer := make([]byte, 16<<10)
	for {
		n, err := f.Read(buffer)
		if errors.Is(err, syscall.EPIPE) {
			send(device.Event{Kind: device.EventOverflow})
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the kernel log: %w", err)
		}
		for line := range strings.Lines(string(buffer[:n])) {
			if e, ok := ParseXID(line); ok {
				send(e)
			}
		}
	}
}

// xidLine is what the driver writes:
// "NVRM: Xid (PCI:0000:1b:00): 31, pid=4242, name=python3, Ch 00000008, ..."
var (
	xidLine = regexp.MustCompile(`NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)(?: GPU-I:(\d+))?[^)]*\): (\d+)(?:, (.*))?`)
	xidPID  = regexp.MustCompile(`pid='?(\d+)`)
	xidName = regexp.MustCompile(`name=([^,]+)`)
)

// ParseXID reads an XID out of a line of the kernel log.
func ParseXID(line string) (device.Event, bool) {
	m := xidLine.FindStringSubmatch(line)
	if m == nil {
		return device.Event{}, false
	}
	number, err := strconv.ParseUint(m[3], 10, 32)
	if err != nil {
		return device.Event{}, false
	}
	e := device.Event{Kind: device.EventXID, PCI: device.Address(m[1]), Data: number, Text: strings.TrimSpace(m[4]), FromLog: true}
	if gi, err := strconv.Atoi(m[2]); err == nil {
		e.GI = new(gi)
	}
	if p := xidPID.FindStringSubmatch(m[4]); p != nil {
		e.PID, _ = strconv.Atoi(p[1]) // digits only; one that is too long is no PID
	}
	if n := xidName.FindStringSubmatch(m[4]); n != nil && n[1] != "<unknown>" {
		e.Process = strings.TrimSpace(n[1])
	}
	return e, true
}
