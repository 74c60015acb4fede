package cdi

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Capability is a part of the driver that a container may ask for, by the words of
// NVIDIA_DRIVER_CAPABILITIES.
type Capability string

// Capabilities.
const (
	Compute  Capability = "compute"
	Utility  Capability = "utility"
	Graphics Capability = "graphics"
	Video    Capability = "video"
	Display  Capability = "display"
	NGX      Capability = "ngx"
	Compat32 Capability = "compat32"
)

var everything = []Capability{Compute, Utility, Graphics, Video, Display, NGX, Compat32}

// Capabilities reads the list of NVIDIA_DRIVER_CAPABILITIES; empty is NVIDIA's default.
func Capabilities(list string) ([]Capability, error) {
	if strings.TrimSpace(list) == "" {
		return []Capability{Utility, Compute}, nil
	}
	var out []Capability
	for word := range strings.SplitSeq(list, ",") {
		c := Capability(strings.TrimSpace(word))
		switch {
		case c == "all":
			return everything, nil
		case c == "":
		case !slices.Contains(everything, c):
			return nil, fmt.Errorf("NVIDIA_DRIVER_CAPABILITIES: %q is none of compute, utility, graphics, video, display, ngx, compat32, all", c)
		case !slices.Contains(out, c):
			out = append(out, c)
		}
	}
	return out, nil
}

// libraries of the driver by what needs them; each is <name>.so.<version of the driver>.
var libraries = []struct {
	name string
	of   Capability
}{
	{"libnvidia-ml", Utility}, {"libnvidia-cfg", Utility},
	{"libcuda", Compute}, {"libcudadebugger", Compute}, {"libnvidia-allocator", Compute}, {"libnvidia-gpucomp", Compute},
	{"libnvidia-nvvm", Compute}, {"libnvidia-nvvm70", Compute}, {"libnvidia-opencl", Compute}, {"libnvidia-pkcs11", Compute},
	{"libnvidia-pkcs11-openssl3", Compute}, {"libnvidia-ptxjitcompiler", Compute}, {"libnvidia-sandboxutils", Compute}, {"libnvidia-tileiras", Compute},
	{"libnvcuvid", Video}, {"libnvidia-encode", Video}, {"libnvidia-opticalflow", Video}, {"libvdpau_nvidia", Video},
	{"libEGL_nvidia", Graphics}, {"libGLESv1_CM_nvidia", Graphics}, {"libGLESv2_nvidia", Graphics}, {"libGLX_nvidia", Graphics},
	{"libnvidia-eglcore", Graphics}, {"libnvidia-fbc", Graphics}, {"libnvidia-glcore", Graphics}, {"libnvidia-glsi", Graphics},
	{"libnvidia-glvkspirv", Graphics}, {"libnvidia-present", Graphics}, {"libnvidia-rtcore", Graphics}, {"libnvidia-tls", Graphics},
	{"libnvidia-vksc-core", Graphics}, {"libnvoptix", Graphics},
	{"libnvidia-ngx", NGX},
}

// programs of the driver, in a folder of /usr/bin's kind.
var programs = []struct {
	name string
	of   Capability
}{
	{"nvidia-smi", Utility}, {"nvidia-debugdump", Utility}, {"nvidia-persistenced", Utility}, {"nv-fabricmanager", Utility},
	{"nvidia-cuda-mps-control", Compute}, {"nvidia-cuda-mps-server", Compute}, {"nvidia-imex", Compute}, {"nvidia-imex-ctl", Compute},
}

// data are other files, at the same place in every distribution.
var data = []struct {
	path string
	of   Capability
}{
	{"/etc/vulkan/icd.d/nvidia_icd.json", Graphics}, {"/etc/vulkan/implicit_layer.d/nvidia_layers.json", Graphics},
	{"/usr/share/vulkan/icd.d/nvidia_icd.json", Graphics}, {"/usr/share/vulkan/implicit_layer.d/nvidia_layers.json", Graphics},
	{"/usr/share/glvnd/egl_vendor.d/10_nvidia.json", Graphics}, {"/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json", Graphics},
	{"/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json", Graphics}, {"/usr/share/nvidia/nvoptix.bin", Graphics},
	{"/run/nvidia-persistenced/socket", Utility}, {"/run/nvidia-fabricmanager/socket", Compute},
}

// folders where distributions, driver containers and clouds keep the driver.
var (
	libraryFolders = map[string][]string{
		"amd64": {"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/wsl/lib", "/run/opengl-driver/lib", "/usr/lib", "/lib64", "/lib/x86_64-linux-gnu"},
		"arm64": {"/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/aarch64-linux-gnu/nvidia", "/run/opengl-driver/lib", "/usr/lib"},
	}
	programFolders = []string{"/usr/bin", "/usr/local/nvidia/bin", "/usr/sbin", "/bin", "/run/current-system/sw/bin"}
)

// File is one file of the driver on the host.
type File struct {
	Path string
	Of   Capability
	// Links are further names, in the same folder, by which programs know a library:
	// its SONAME, and the bare name where that is used.
	Links []string
}

// Files is what a driver consists of on this host, for containers.
type Files struct {
	Version string
	Arch    string // a GOARCH
	// Root is where on the host the paths begin; empty is "/".
	Root      string
	Libraries []File
	Others    []File // programs, data, sockets, firmware
	// Nodes are those of an integrated GPU, which the board's lists name.
	Nodes []Node
}

// Where says where to look.
type Where struct {
	// FS is the host's root, or the driver's own one; Root its place on the host, empty for "/".
	FS   fs.FS
	Root string
	// Arch is a GOARCH.
	Arch string
	// Version of the driver: libraries of another one are left over from an update.
	Version string
	// First is a folder to look in before all others: where NVML was found.
	First string
	// Integrated: what belongs to the driver is what the board's lists say (board.go).
	Integrated bool
}

// Find looks the driver's files up. Not finding libcuda is an error: nothing would run.
func Find(w Where) (Files, error) {
	if w.Integrated {
		return board(w)
	}
	folders := libraryFolders[w.Arch]
	if w.First != "" {
		folders = append([]string{w.First}, folders...)
	}
	out := Files{Version: w.Version, Arch: w.Arch, Root: w.Root}
	for _, l := range libraries {
		for _, dir := range folders {
			p := path.Join(dir, l.name+".so."+w.Version)
			if regular(w.FS, p) {
				out.Libraries = append(out.Libraries, File{Path: p, Of: l.of, Links: links(w.FS, p, l.name)})
				break
			}
		}
	}
	if !slices.ContainsFunc(out.Libraries, func(f File) bool { return strings.HasPrefix(path.Base(f.Path), "libcuda.so.") }) {
		return out, fmt.Errorf("libcuda.so.%s is in none of %s: install the driver's libraries of that version, or name their folder", w.Version, strings.Join(folders, ", "))
	}
	for _, b := range programs {
		for _, dir := range programFolders {
			if p := path.Join(dir, b.name); regular(w.FS, p) {
				out.Others = append(out.Others, File{Path: p, Of: b.of})
				break
			}
		}
	}
	for _, d := range data {
		if _, err := fs.Stat(w.FS, d.path[1:]); err == nil {
			out.Others = append(out.Others, File{Path: d.path, Of: d.of})
		}
	}
	firmware, err := fs.Glob(w.FS, "lib/firmware/nvidia/"+w.Version+"/gsp*.bin")
	if err != nil && !errors.Is(err, path.ErrBadPattern) {
		return out, fmt.Errorf("looking for the driver's firmware: %w", err)
	}
	for _, p := range firmware {
		out.Others = append(out.Others, File{Path: "/" + p, Of: Utility})
	}
	return out, nil
}

func regular(f fs.FS, p string) bool {
	st, err := fs.Stat(f, p[1:])
	return err == nil && st.Mode().IsRegular()
}

// links are the names beside a library's own: what its SONAME says (the loader looks for
// it), and for the libraries that programs open by hand the bare name too.
func links(f fs.FS, p, name string) []string {
	var out []string
	if so := soname(f, p); so != "" && so != path.Base(p) && so == path.Base(so) {
		out = append(out, so)
	}
	if name == "libcuda" || name == "libnvidia-opticalflow" || name == "libnvidia-encode" || name == "libnvcuvid" {
		out = append(out, name+".so")
	}
	return out
}

// soname reads DT_SONAME; a library that cannot be read is known by NVIDIA's usual .so.1.
func soname(f fs.FS, p string) string {
	usual := strings.SplitN(path.Base(p), ".so.", 2)[0] + ".so.1"
	h, err := f.Open(p[1:])
	if err != nil {
		return usual
	}
	defer h.Close()
	r, ok := h.(interface {
		ReadAt([]byte, int64) (int, error)
	})
	if !ok {
		return usual
	}
	e, err := elf.NewFile(r)
	if err != nil {
		return usual
	}
	names, err := e.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 {
		return usual
	}
	return names[0]
}
