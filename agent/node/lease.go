package node

import (
	"context"
	"strings"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"

	"orch/api"
	"orch/api/client"
)

// leaseState remembers the lease between renewals, so that one needs one write and
// no read.
type leaseState struct{ have *coordination.Lease }

func (l *leaseState) renew(ctx context.Context, n *Node) error {
	now := metav1.NowMicro()
	if l.have != nil {
		next := l.have.DeepCopy()
		next.Spec.RenewTime = &now
		answer, err := client.Update(ctx, n.deps.Client, api.Leases, next)
		if err == nil {
			l.have = answer
			return nil
		}
		l.have = nil // read it again
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	have, err := client.Get(ctx, n.deps.Client, api.Leases, api.NamespaceNodeLease, n.config.Name)
	if apierrors.IsNotFound(err) {
		l.have, err = client.Create(ctx, n.deps.Client, api.Leases, n.lease(now))
		return err
	}
	if err != nil {
		return err
	}
	next := n.lease(now)
	next.ObjectMeta = *have.ObjectMeta.DeepCopy()
	l.have, err = client.Update(ctx, n.deps.Client, api.Leases, next)
	return err
}

func (n *Node) lease(now metav1.MicroTime) *coordination.Lease {
	n.mu.Lock()
	node := n.written
	n.mu.Unlock()
	return &coordination.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: api.NamespaceNodeLease, Name: n.config.Name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		Spec: coordination.LeaseSpec{HolderIdentity: &n.config.Name, LeaseDurationSeconds: new(int32(leaseDuration)), RenewTime: &now},
	}
}

// Thresholds of pressure: upstream's default hard eviction signals.
const (
	pressureMemory      = 100 << 20
	pressureDiskPercent = 10
)

// check looks at the machine: two files and one system call.
func (n *Node) check() {
	h := Health{}
	if err := n.deps.NetworkReady(); err != nil {
		h.Problem = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:" + err.Error()
	}
	if free, err := meminfo("MemAvailable"); err == nil {
		h.Memory = free < pressureMemory
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(n.config.Dir, &fs); err == nil && fs.Blocks > 0 {
		h.Disk = fs.Bavail*100 < fs.Blocks*pressureDiskPercent
	}
	n.health = h
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
