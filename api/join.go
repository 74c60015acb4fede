package api

import "time"

// Paths of orch's own endpoints, beside the Kubernetes API.
const (
	PathCACerts = "/cacerts"
	PathJoin    = "/orch/v1/join"
	PathTunnel  = "/orch/v1/tunnel"
	// TunnelProtocol is the value of the Upgrade header of PathTunnel: after the
	// answer 101 the connection carries yamux, the server being its client.
	TunnelProtocol = "orch-tunnel"

	// PathDial, with address and port behind it, is where a node lets the server reach
	// its pods; after the answer 101 the connection is the pod's.
	PathDial     = "/dial/"
	DialProtocol = "orch-dial"
)

// JoinRequest is what a new node posts to PathJoin as JSON, with the join token's
// user and password as basic authentication.
type JoinRequest struct {
	NodeName string `json:"nodeName"`
	// NodePassword is made by the node at its first join and proves later that it
	// is the same one.
	NodePassword string `json:"nodePassword"`
	// CSR is a PEM certificate request for CN system:node:<name>, O system:nodes.
	CSR string `json:"csr"`
}

// JoinAnswer is all that a node needs to take part.
type JoinAnswer struct {
	// Certificate (with what it was signed by) and CA are PEM.
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`

	ClusterCIDR          string `json:"clusterCIDR"`
	ServiceCIDR          string `json:"serviceCIDR"`
	ClusterDNS           string `json:"clusterDNS"`
	ClusterDomain        string `json:"clusterDomain"`
	ServiceNodePortRange string `json:"serviceNodePortRange"`

	// RenewAfter is when the node should ask for a new certificate.
	RenewAfter time.Time `json:"renewAfter"`
}

// PathToken takes a TokenRotation by POST and answers with one. It is behind
// authorization, as a path that is no resource.
const PathToken = "/orch/v1/token"

// TokenRotation replaces the join token of the server.
type TokenRotation struct {
	// Secret is the new one; empty lets the server draw it. The answer does not repeat it.
	Secret string `json:"secret,omitempty"`
	// File is where the server keeps it, in the answer.
	File string `json:"file,omitempty"`
}
