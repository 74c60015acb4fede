package plan

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
)

// String prints an action as transcripts and logs show it.
func (a Action) String() string {
	var b strings.Builder
	b.WriteString(string(a.Verb))
	if a.Container != "" {
		b.WriteString(" " + a.Container)
	}
	switch a.Verb {
	case Start:
		fmt.Fprintf(&b, " attempt %d", a.Attempt)
	case Kill:
		fmt.Fprintf(&b, " grace %s", a.Grace)
	case Wait:
		fmt.Fprintf(&b, " until %s", a.Until.UTC().Format(time.TimeOnly))
	}
	if a.Reason != "" {
		b.WriteString(": " + a.Reason)
	}
	if a.Message != "" {
		fmt.Fprintf(&b, " (%s)", a.Message)
	}
	return b.String()
}

// Hash identifies what a running container cannot change: as upstream's
// HashContainer, name and image only.
func Hash(c *core.Container) string {
	h := fnv.New64a()
	b, _ := json.Marshal([2]string{c.Name, c.Image}) // strings always marshal
	h.Write(b)
	return fmt.Sprintf("%x", h.Sum64())
}
