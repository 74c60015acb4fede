package nvml

import (
	"os"
	"path/filepath"
	"strings"
)

// Library is the name that the driver's library has everywhere.
const Library = "libnvidia-ml.so.1"

// libraryFolders are where drivers put their libraries, below a root. The loader's own
// search comes before them.
var libraryFolders = []string{
	"usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", // Debian, Ubuntu
	"usr/lib64", "usr/lib", // Fedora, SUSE, Arch
	"usr/lib/x86_64-linux-gnu/nvidia/current", "usr/lib64/nvidia",
	"usr/local/nvidia/lib64", "usr/local/nvidia/lib", "home/kubernetes/bin/nvidia/lib64", // container-optimised hosts
	"opt/nvidia/lib64",
	"run/opengl-driver/lib",                    // NixOS
	"usr/local/glibc/usr/lib", "usr/local/lib", // Talos
	"usr/lib/wsl/lib",
}

// driverRoots are where driver containers put a whole root.
var driverRoots = []string{"run/nvidia/driver"}

// Find returns the paths of the driver's library below root ("" is "/") in the order in
// which they are tried; none if there is no driver.
func Find(root string) []string {
	var out []string
	roots := []string{root}
	for _, r := range driverRoots {
		roots = append(roots, filepath.Join("/", root, r))
	}
	for _, r := range roots {
		for _, dir := range libraryFolders {
			path := filepath.Join("/", r, dir, Library)
			if _, err := os.Stat(path); err == nil {
				out = append(out, path)
			}
		}
	}
	return out
}

// LibraryVersion is the version that a library's file name says: libnvidia-ml.so.1 is
// a link to libnvidia-ml.so.580.159.03. Empty where it says none.
func LibraryVersion(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	_, version, ok := strings.Cut(filepath.Base(real), ".so.")
	if !ok || version == "1" {
		return ""
	}
	return version
}

// libraries are what the helper tries: what the loader finds by name, then the paths.
// Below a root of its own the loader's way comes last: it would find another driver.
func libraries(config Config) []string {
	found := Find(config.Root)
	if config.Chroot {
		for i, p := range found {
			found[i] = filepath.Join("/", strings.TrimPrefix(p, filepath.Clean(config.Root)))
		}
	}
	if config.Root != "" && config.Root != "/" {
		return append(found, Library)
	}
	return append([]string{Library}, found...)
}

// folders are what an explicit loader searches.
func folders(root string) []string {
	var out []string
	for _, dir := range append([]string{"lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "lib"}, libraryFolders...) {
		path := filepath.Join("/", root, dir)
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			out = append(out, path)
		}
	}
	return out
}
