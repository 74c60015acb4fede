// Package shim runs tasks through containerd's runc shim: it is the
// "task" runtime plugin of the containerd server inside orch, in place of containerd's own.
//
// What it does differently, and why: the shim of a pod is started directly (not
// by a second program that starts it), ahead of the pod's first container if asked, is
// shared by all containers of the pod, and is not asked to clean up what it
// has just deleted itself. That takes three program starts out of a pod's life.
// Other shims (gVisor, Kata) are left to containerd's runtime.
//
// On disk, so that a new process finds everything again:
//
//	<State>/pods/<key>/          the shim's working directory
//	    address                  its socket, unix://<SocketDir>/<key>; the shim removes the socket at its end
//	    log                      what the shim has to say
//	    pid                      its process; it holds the keeper of the output pipes (keeper.go)
//	<State>/<namespace>/<id>/    one task: the OCI bundle
//	    config.json, rootfs/     rootfs is mounted by the shim
//	    pod                      key of the pod directory; written last: without it the task was never made
//
// Runtime owns all of it. It knows no images and reads no output; it only keeps the pipes from closing. Start reading at Runtime.Create.
package shim
