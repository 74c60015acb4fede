package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"orch/network/netns"
	"orch/network/rules"
)

// damage is what others did to the kernel's rules: chains that lost rules, or
// (all) somewhere, so that a look at everything is needed.
type damage struct {
	chains map[rules.ID]bool
	tables map[rules.Table]bool
	all    bool
}

func (d *damage) none() bool { return !d.all && len(d.chains) == 0 && len(d.tables) == 0 }

// Message types and attributes of nf_tables (linux/netfilter/nf_tables.h).
const (
	nftDelTable = 2
	nftDelChain = 5
	nftDelRule  = 8
	nftNewGen   = 15

	nftaTableName = 1
	nftaChainName = 3 // in a chain message
	nftaRuleChain = 2 // in a rule message
	nftaGenPID    = 2
	nftaGenName   = 3

	nfnlGroupNFTables  = 7
	nfnlSubsysNFTables = 10
)

// watchNFT reports what others delete from tables of IPv4, until ctx ends. The
// kernel tells us; an idle host costs nothing. report gets what one transaction
// of another process deleted.
func watchNFT(ctx context.Context, t *tool, report func(damage)) error {
	sock, err := monitorSocket(t.netns)
	if err != nil {
		return err
	}
	// Non-blocking and pollable, so that closing it ends a Read.
	file := os.NewFile(uintptr(sock), "nftables monitor")
	stop := context.AfterFunc(ctx, func() { file.Close() })
	defer stop()
	defer file.Close()
	m := monitor{tool: t, report: report}
	buf := make([]byte, 64<<10)
	for {
		n, err := file.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			m.seen = damage{}
			report(damage{all: true}) // the kernel dropped messages: look at everything
		case err != nil:
			return fmt.Errorf("reading nftables events: %w", err)
		default:
			m.messages(buf[:n])
		}
	}
}

func monitorSocket(path string) (sock int, err error) {
	err = netns.Do(path, func() error {
		sock, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		// Best effort: beyond the administrator's limit where we may.
		if unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 2<<20) != nil {
			_ = unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_RCVBUF, 2<<20)
		}
		if err := unix.Bind(sock, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (nfnlGroupNFTables - 1)}); err != nil {
			unix.Close(sock)
			return err
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("listening to nftables events: %w", err)
	}
	return sock, nil
}

// monitor collects deletions until the message that ends a transaction says
// which process it was.
type monitor struct {
	tool   *tool
	report func(damage)
	seen   damage
}

func (m *monitor) messages(b []byte) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return
		}
		typ := binary.NativeEndian.Uint16(b[4:])
		if body := b[unix.NLMSG_HDRLEN:size]; typ>>8 == nfnlSubsysNFTables && len(body) >= 4 {
			m.message(int(typ&0xff), body[0], body[4:])
		}
		b = b[min(len(b), (size+3)&^3):]
	}
}

func (m *monitor) message(kind int, family byte, body []byte) {
	if kind == nftNewGen {
		pid := 0
		if v := attribute(body, nftaGenPID); len(v) == 4 {
			pid = int(binary.BigEndian.Uint32(v))
		}
		seen := m.seen
		m.seen = damage{}
		if !seen.none() && !m.tool.ours(pid, text(attribute(body, nftaGenName))) {
			m.report(seen)
		}
		return
	}
	if family != unix.AF_INET {
		return
	}
	table := rules.Table(text(attribute(body, nftaTableName)))
	switch kind {
	case nftDelTable:
		if m.seen.tables == nil {
			m.seen.tables = map[rules.Table]bool{}
		}
		m.seen.tables[table] = true
	case nftDelChain:
		m.lost(rules.ID{Table: table, Name: text(attribute(body, nftaChainName))})
	case nftDelRule:
		m.lost(rules.ID{Table: table, Name: text(attribute(body, nftaRuleChain))})
	}
}

func (m *monitor) lost(id rules.ID) {
	if m.seen.chains == nil {
		m.seen.chains = map[rules.ID]bool{}
	}
	m.seen.chains[id] = true
}

// attribute finds a netlink attribute, or nil.
func attribute(b []byte, want uint16) []byte {
	for len(b) >= 4 {
		size, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&0x3fff
		if size < 4 || size > len(b) {
			return nil
		}
		if typ == want {
			return b[4:size]
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return nil
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// legacyInterval is how often the size of the legacy tables is asked for. The
// legacy kernel interface has no events; the question is two system calls.
const legacyInterval = 700 * time.Millisecond

// ipt_getinfo (linux/netfilter_ipv4/ip_tables.h).
type legacyInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	entries    uint32
	size       uint32
}

const iptSoGetInfo = 64

// legacySizes asks how big the tables are. It changes with every rule.
type legacySizes [2]struct{ entries, size uint32 }

func readLegacySizes(sock int) (legacySizes, error) {
	var out legacySizes
	for i, table := range []rules.Table{rules.Filter, rules.NAT} {
		var info legacyInfo
		copy(info.name[:], table)
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(sock), unix.IPPROTO_IP, iptSoGetInfo, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 && errno != unix.ENOENT { // no such table: nothing written yet
			return out, fmt.Errorf("asking for the size of the %s table: %w", table, errno)
		}
		out[i].entries, out[i].size = info.entries, info.size
	}
	return out, nil
}

// watchLegacy reports, by report, that the tables have another size than after
// our last write (which wrote signals).
func watchLegacy(ctx context.Context, path string, wrote <-chan struct{}, report func(damage)) error {
	var sock int
	err := netns.Do(path, func() (err error) {
		sock, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening a raw socket: %w", err)
	}
	defer unix.Close(sock)
	tick := time.NewTicker(legacyInterval)
	defer tick.Stop()
	known, err := readLegacySizes(sock)
	for {
		if err != nil {
			return err
		}
		var now legacySizes
		select {
		case <-ctx.Done():
			return nil
		case <-wrote:
			known, err = readLegacySizes(sock)
			continue
		case <-tick.C:
			now, err = readLegacySizes(sock)
		}
		if err == nil && now != known {
			known = now
			report(damage{all: true})
		}
	}
}
