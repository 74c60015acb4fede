package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// packed makes the images of the tests once for all labs of a process.
var packed struct {
	once sync.Once
	dir  string
	err  string
}

// Images packs the test images (hello:1.0, myapp:1.4.2, busybox:1.36) from what
// is in the tree and on the machine, and lays them where the host's orch imports from.
func (h *Host) Images() {
	h.Helper()
	packed.once.Do(func() {
		var err error
		if packed.dir, err = os.MkdirTemp("", "orch-e2e-images-"); err != nil {
			packed.err = err.Error()
			return
		}
		packed.err = pack(packed.dir)
	})
	if packed.err != "" {
		h.Fatal(packed.err)
	}
	to := filepath.Join(h.Dir, "agent", "images")
	h.must(os.MkdirAll(to, 0o755))
	archives, _ := filepath.Glob(filepath.Join(packed.dir, "*.tar"))
	for _, a := range archives {
		h.must(os.Link(a, filepath.Join(to, filepath.Base(a))))
	}
}

// RemoveImages takes the packed images away; call it when the process ends.
func RemoveImages() {
	if packed.dir != "" {
		os.RemoveAll(packed.dir)
	}
}

// Program is a program of those packed, as a file: hello or myapp. Call Host.Images before.
func Program(name string) string { return filepath.Join(packed.dir, name) }

// busyboxCommands become links in the busybox image.
var busyboxCommands = []string{"awk", "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "find", "grep", "head", "hostname", "httpd", "id",
	"ip", "kill", "ln", "ls", "md5sum", "mkdir", "mount", "mv", "nc", "nslookup", "printf", "ps", "readlink", "rm", "sed", "seq", "sh", "sleep", "sort", "stat",
	"stty", "tail", "tar", "tee", "test", "timeout", "touch", "tr", "true", "tty", "uname", "wc", "wget", "yes"}

func pack(dir string) string {
	hello, myapp := filepath.Join(dir, "hello"), filepath.Join(dir, "myapp")
	busybox := []string{"images", "pack", "--name", "busybox:1.36", "--name", "busybox:latest", "--output", filepath.Join(dir, "busybox.tar"), "--cmd", "/bin/sh"}
	for _, c := range busyboxCommands {
		busybox = append(busybox, "--link", "/bin/"+c+"=/bin/busybox")
	}
	root := filepath.Join(dir, "busybox-root")
	for _, step := range []struct {
		dir  string
		args []string
	}{
		{Root(), []string{"go", "build", "-o", hello, "./examples/hello"}},
		{Root(), []string{"go", "build", "-C", "e2e", "-o", myapp, "./testdata/myapp"}},
		{dir, []string{Binary(), "images", "pack", "--name", "hello:1.0", "--output", filepath.Join(dir, "hello.tar"), hello}},
		{dir, []string{Binary(), "images", "pack", "--name", "myapp:1.4.2", "--output", filepath.Join(dir, "myapp.tar"), myapp}},
		{dir, []string{"mkdir", "-p", root + "/bin", root + "/tmp", root + "/etc", root + "/root"}},
		{dir, []string{"cp", "/bin/busybox", root + "/bin/busybox"}},
		{dir, []string{"sh", "-c", "echo root:x:0:0:root:/root:/bin/sh > " + root + "/etc/passwd; echo root:x:0: > " + root + "/etc/group"}},
		{dir, append([]string{Binary()}, append(busybox, root)...)},
	} {
		c := exec.Command(step.args[0], step.args[1:]...)
		c.Dir = step.dir
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return "packing the test images: " + err.Error() + "\n" + string(out)
		}
	}
	return ""
}
