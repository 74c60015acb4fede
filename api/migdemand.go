package api

import "k8s.io/apimachinery/pkg/types"

// Annotations of a node by which server and agent agree how idle cards are partitioned for
// pods that wait.
const (
	// AnnotationMIGDemand is the server's: a JSON list of MIGDemand, the oldest first. A node that
	// has it, be it empty, may change the partition of idle cards.
	AnnotationMIGDemand = "orch.io/mig-demand"
	// AnnotationMIGPotential is the agent's answer: a JSON object with how many of each
	// resource the node could offer at once, each alone.
	AnnotationMIGPotential = "orch.io/mig-potential"
)

// MaxMIGDemand bounds the list of one node.
const MaxMIGDemand = 32

// MIGDemand is what a pod that waits asks of a node.
type MIGDemand struct {
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	UID       types.UID `json:"uid"`
	Resource  string    `json:"resource"`
	Count     int       `json:"count"`
}
