// Package containerd is the real engine.Engine: a containerd server inside this
// process, used by its in-memory services, and the containers of the node on top of it.
//
// server.go boots the plugins that are needed (no CRI, no metrics, no HTTP) and
// serves the usual socket for ctr and nerdctl. Tasks run through package shim. A container is
//
//	a containerd container record (labels, image, OCI spec), key = ID     durable
//	a snapshot with the same key, on top of the image's layers            durable
//	<Root>/status/<ID>.json: started, finished, exit code                 survives a restart
//	<State>/io/<ID>/{stdin,stdout,stderr}: named pipes to the shim        until the machine restarts
//	a task of package shim while its process lives                        until the machine restarts
//
// The life of one:
//
//	Create -> [created] -Start-> [running] -process ends-> [exited] -Remove-> gone
//	             \______________ Remove ______________________________________/
//
// container.go owns a container's state and its lock; output.go its log; exit.go
// what happens when it ends. It knows no pods beyond the name that groups containers. Start reading at Engine.Create.
package containerd
