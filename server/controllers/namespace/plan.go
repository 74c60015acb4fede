package namespace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// left is what a pass over a namespace found that would not go at once.
type left struct {
	// objects counts what remains, by resource ("pods." or "widgets.example.com");
	// finalizers counts what holds it, by finalizer.
	objects, finalizers map[string]int
	// failures are errors of deleting, sorted; unknown are versions of other servers that
	// cannot be asked, sorted, with why.
	failures, unknown []string
}

func (l left) empty() bool { return len(l.objects) == 0 && len(l.failures) == 0 && len(l.unknown) == 0 }

// conditions says it in upstream's words.
func conditions(was []core.NamespaceCondition, l left, now time.Time) []core.NamespaceCondition {
	out := slices.Clone(was)
	set := func(t core.NamespaceConditionType, bad bool, reason, message string) {
		c := core.NamespaceCondition{Type: t, Status: core.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
		if bad {
			c.Status = core.ConditionTrue
		}
		i := slices.IndexFunc(out, func(o core.NamespaceCondition) bool { return o.Type == t })
		if i < 0 {
			out = append(out, c)
			return
		}
		if out[i].Status == c.Status {
			c.LastTransitionTime = out[i].LastTransitionTime
		}
		out[i] = c
	}
	if len(l.unknown) > 0 {
		set(core.NamespaceDeletionDiscoveryFailure, true, "DiscoveryFailed", fmt.Sprintf(
			"Discovery failed for some groups, %d failing: unable to retrieve the complete list of server APIs: %s", len(l.unknown), strings.Join(l.unknown, ", ")))
	} else {
		set(core.NamespaceDeletionDiscoveryFailure, false, "ResourcesDiscovered", "All resources successfully discovered")
	}
	set(core.NamespaceDeletionGVParsingFailure, false, "ParsedGroupVersions", "All legacy kube types successfully parsed")
	if len(l.failures) > 0 {
		set(core.NamespaceDeletionContentFailure, true, "ContentDeletionFailed", "Failed to delete all resource types, "+
			fmt.Sprintf("%d remaining: %s", len(l.failures), strings.Join(l.failures, ", ")))
	} else {
		set(core.NamespaceDeletionContentFailure, false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	}
	if len(l.objects) > 0 {
		set(core.NamespaceContentRemaining, true, "SomeResourcesRemain", "Some resources are remaining: "+counts(l.objects, "%s has %d resource instances"))
	} else {
		set(core.NamespaceContentRemaining, false, "ContentRemoved", "All content successfully removed")
	}
	if len(l.finalizers) > 0 {
		set(core.NamespaceFinalizersRemaining, true, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+counts(l.finalizers, "%s in %d resource instances"))
	} else {
		set(core.NamespaceFinalizersRemaining, false, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	}
	return out
}

func counts(m map[string]int, format string) string {
	var out []string
	for k, n := range m {
		out = append(out, fmt.Sprintf(format, k, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// lookAgain is how long to wait for content to go by itself: the longer it
// takes, the less often. The end of a pod is noticed at once, without this.
func lookAgain(deleted, now time.Time) time.Duration {
	return min(max(now.Sub(deleted)/2, time.Second), time.Minute)
}
