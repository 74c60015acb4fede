package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/websocket"
)

// subcommand is what the program does instead of serving.
func subcommand(name string, args []string) error {
	switch {
	case name == "hog":
		hog()
	case name == "spin":
		spin()
	case name == "cgroup":
		cgroup()
	case name == "get" && len(args) == 2:
		return getMany(args[0], args[1])
	case name == "udp" && len(args) == 1:
		return askUDP(args[0])
	case name == "lookup" && len(args) == 1:
		return lookup(args[0])
	case name == "api" && len(args) == 1:
		return askAPI(args[0])
	default:
		return fmt.Errorf("myapp: no such subcommand: %s %q", name, args)
	}
	return nil
}

// hog takes memory until the kernel ends it.
func hog() {
	var all [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := range b {
			b[i] = 1
		}
		all = append(all, b)
		time.Sleep(5 * time.Millisecond)
		fmt.Println(len(all)*8, "MiB")
	}
}

// spin uses all the CPU that it gets.
func spin() {
	fmt.Println("spinning")
	for n := uint64(1); n != 0; n++ {
	}
}

// cgroup prints the container's own limits, of cgroup v1 or v2.
func cgroup() {
	for _, c := range []struct {
		name  string
		files []string
	}{
		{"memory", []string{"memory/memory.limit_in_bytes", "memory.max"}},
		{"cpu", []string{"cpu/cpu.cfs_quota_us", "cpu.max"}},
		{"weight", []string{"cpu/cpu.shares", "cpu.weight"}},
		{"stat", []string{"cpu/cpu.stat", "cpu.stat"}},
	} {
		for _, f := range c.files {
			if b, err := os.ReadFile("/sys/fs/cgroup/" + f); err == nil {
				fmt.Println(c.name, strings.Join(strings.Fields(string(b)), " "))
				break
			}
		}
	}
}

// getMany fetches the URL n times, each over a connection of its own, and prints how
// often which answer came.
func getMany(url, n string) error {
	times, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	seen := map[string]int{}
	for range times {
		r, err := c.Get(url)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return err
		}
		seen[strings.TrimSpace(string(b))]++
	}
	var lines []string
	for answer, n := range seen {
		lines = append(lines, fmt.Sprintf("%d %s", n, answer))
	}
	slices.Sort(lines)
	fmt.Println(strings.Join(lines, "\n"))
	return nil
}

// echoUDP answers each datagram with the host's name.
func echoUDP(host string) {
	c, err := net.ListenPacket("udp", ":9000")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	b := make([]byte, 64)
	for {
		_, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo([]byte(host), from)
	}
}

func askUDP(address string) error {
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("who")); err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	fmt.Println(string(b[:n]))
	return err
}

// lookup prints the addresses of a name, or its SRV records where it starts with _.
func lookup(name string) error {
	if strings.HasPrefix(name, "_") {
		_, records, err := net.LookupSRV("", "", name)
		for _, r := range records {
			fmt.Println(r.Port, r.Target)
		}
		return err
	}
	if net.ParseIP(name) != nil {
		names, err := net.LookupAddr(name)
		fmt.Println(strings.Join(names, "\n"))
		return err
	}
	addrs, err := net.LookupHost(name)
	slices.Sort(addrs)
	fmt.Println(strings.Join(addrs, "\n"))
	return err
}

// askAPI gets a path from the cluster's API as the pod's service account.
func askAPI(path string) error {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	token, err := os.ReadFile(dir + "token")
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(dir + "ca.crt")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	r, err := http.NewRequest(http.MethodGet, "https://kubernetes.default.svc"+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+string(token))
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	answer, err := c.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	fmt.Println(answer.Status)
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// say answers with what came: how, for which path, from whom, with which body.
func say(w http.ResponseWriter, r *http.Request, host string) {
	switch r.URL.Path {
	case "/say/moved":
		http.Redirect(w, r, "/say/there?x=1", http.StatusFound)
		return
	case "/say/teapot":
		http.Error(w, "short and stout", http.StatusTeapot)
		return
	}
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s %q auth=%q for=%q", host, r.Method, r.URL.RequestURI(), body, r.Header.Get("Authorization"), r.Header.Get("X-Forwarded-Uri"))
}

// echo greets and sends back whatever comes.
func echo(c *websocket.Conn, host string) {
	_ = websocket.Message.Send(c, "hello from "+host)
	for {
		var m string
		if websocket.Message.Receive(c, &m) != nil || websocket.Message.Send(c, m) != nil {
			return
		}
	}
}
