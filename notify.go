package main

import (
	"net"
	"os"
)

// notify tells systemd (Type=notify) how orch is; without systemd it does nothing.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // systemd will say that it waited in vain
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
