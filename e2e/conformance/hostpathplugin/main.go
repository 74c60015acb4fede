// Command hostpathplugin stands in for the CSI host path driver in the one role that upstream's tests of
// resource drivers give it: between a socket on a node and a driver inside the test program. Whoever
// connects to the socket gets one of the connections that the test holds ready at the TCP port.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
)

func main() {
	endpoint := flag.String("endpoint", "", "path of the socket to serve")
	behind := flag.String("proxy-endpoint", "", "tcp://HOST:PORT where connections for it come in")
	flag.String("v", "", "ignored")
	flag.Parse()
	if err := run(strings.TrimPrefix(*endpoint, "unix://"), strings.TrimPrefix(*behind, "tcp://")); err != nil {
		fmt.Fprintln(os.Stderr, "hostpathplugin:", err)
		os.Exit(1)
	}
}

func run(socket, address string) error {
	if socket == "" || address == "" {
		return errors.New("wants --endpoint and --proxy-endpoint: it is a stand-in that only forwards connections")
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	behind, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	front, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	for {
		client, err := front.Accept()
		if err != nil {
			return err
		}
		driver, err := behind.Accept()
		if err != nil {
			return err
		}
		go join(client, driver)
	}
}

// join copies both ways until one side ends, and ends both.
func join(a, b net.Conn) {
	var once sync.Once
	end := func() { a.Close(); b.Close() }
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		once.Do(end)
	}
	go pass(a, b)
	pass(b, a)
}
