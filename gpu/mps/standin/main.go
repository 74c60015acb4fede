// A stand-in for nvidia-cuda-mps-control, for tests on machines without a driver: the
// same two roles and the same words. With -f it is a daemon that listens in
// CUDA_MPS_PIPE_DIRECTORY; without, it hands the commands of its standard input to that
// one and prints the answers. It refuses what the real one refuses: devices that it does not
// have, percentages beyond 100, commands that there are not. It computes nothing.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

func main() {
	pipe := os.Getenv("CUDA_MPS_PIPE_DIRECTORY")
	if pipe == "" {
		pipe = "/tmp/nvidia-mps"
	}
	socket := filepath.Join(pipe, "control")
	var err error
	if len(os.Args) > 1 {
		err = serve(socket)
	} else {
		err = tell(socket)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// tell is the front end.
func tell(socket string) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return fmt.Errorf("Cannot find MPS control daemon process")
		}
		fmt.Fprintln(c, in.Text())
		answer := bufio.NewScanner(c)
		failed := false
		for answer.Scan() {
			failed = failed || strings.HasPrefix(answer.Text(), "Failed")
			fmt.Println(answer.Text())
		}
		c.Close()
		if failed {
			return nil // the real one does not say it by its status
		}
	}
	return in.Err()
}

type daemon struct {
	mu      sync.Mutex
	percent float64
	devices []string
	limits  map[int]string
}

// serve is the daemon. A file "broken" beside the program makes it end at once.
func serve(socket string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(self), "broken")); err == nil {
		return fmt.Errorf("%s", strings.TrimSpace(string(b)))
	}
	d := &daemon{percent: 100, devices: strings.Split(os.Getenv("CUDA_VISIBLE_DEVICES"), ","), limits: map[int]string{}}
	// What is in /dev/shm is what clients see too.
	if err := os.WriteFile("/dev/shm/mps-standin", []byte(os.Getenv("CUDA_VISIBLE_DEVICES")), 0o666); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		answer, quit := d.do(strings.Fields(line))
		fmt.Fprint(c, answer)
		c.Close()
		if quit {
			return l.Close()
		}
	}
}

func (d *daemon) do(words []string) (answer string, quit bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(words) == 0 {
		return "", false
	}
	device := func() (int, bool) {
		i, err := strconv.Atoi(words[1])
		return i, err == nil && i >= 0 && i < len(d.devices)
	}
	switch {
	case words[0] == "quit":
		return "", true
	case words[0] == "get_default_active_thread_percentage":
		return fmt.Sprintf("%.1f\n", d.percent), false
	case words[0] == "set_default_active_thread_percentage" && len(words) == 2:
		p, err := strconv.ParseFloat(words[1], 64)
		if err != nil || p <= 0 || p > 100 {
			return "Failed to set the percentage\n", false
		}
		d.percent = p
		return fmt.Sprintf("%.1f\n", d.percent), false
	case words[0] == "set_default_device_pinned_mem_limit" && len(words) == 3:
		i, ok := device()
		if !ok {
			return "Failed: no such device\n", false
		}
		d.limits[i] = words[2]
		return "", false
	case words[0] == "get_default_device_pinned_mem_limit" && len(words) == 2:
		i, ok := device()
		if !ok {
			return "Failed: no such device\n", false
		}
		return d.limits[i] + "\n", false
	case words[0] == "get_server_list":
		return "", false
	}
	return fmt.Sprintf("Unrecognized command: %s\n", strings.Join(words, " ")), false
}
