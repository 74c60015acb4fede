package iptables

import (
	"bufio"
	"bytes"
	"slices"
	"strings"

	"orch/network/rules"
)

// state is what the kernel holds, as far as it concerns us: how many rules each
// chain has, and which chains the kernel's own chains jump to. Comparing counts
// rather than texts keeps us independent of how a version of iptables prints.
type state struct {
	chains map[rules.ID]int
	jumps  map[jumpKey]bool
}

type jumpKey struct {
	table    rules.Table
	from, to string
}

// parseState reads the output of iptables-save.
func parseState(save []byte) state {
	s := state{chains: map[rules.ID]int{}, jumps: map[jumpKey]bool{}}
	var table rules.Table
	lines := bufio.NewScanner(bytes.NewReader(save))
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "*"):
			table = rules.Table(line[1:])
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			s.chains[rules.ID{Table: table, Name: name}] += 0 // known, also without rules
		case strings.HasPrefix(line, "-A "):
			name, rest, _ := strings.Cut(line[3:], " ")
			s.chains[rules.ID{Table: table, Name: name}]++
			if target := targetOf(rest); target != "" {
				s.jumps[jumpKey{table, name, target}] = true
			}
		}
	}
	return s
}

// targetOf is where a rule jumps to, "" if it only counts. What stands in quotes is a comment.
func targetOf(rule string) string {
	quoted := false
	for i := 0; i < len(rule); i++ {
		switch {
		case quoted && rule[i] == '\\':
			i++ // what it escapes
		case rule[i] == '"':
			quoted = !quoted
		case !quoted && strings.HasPrefix(rule[i:], "-j ") && (i == 0 || rule[i-1] == ' '):
			target, _, _ := strings.Cut(rule[i+3:], " ")
			return target
		}
	}
	return ""
}

// repair is the batch that mends what is missing of rs.
func (s state) repair(rs *rules.Ruleset) batch {
	var b batch
	for id, c := range rs.Chains {
		if n, is := s.chains[id]; !is || n != len(c.Rules) {
			b.write = append(b.write, c)
		}
	}
	slices.SortFunc(b.write, func(x, y *rules.Chain) int { return compare(x.ID, y.ID) })
	b.jumps = s.missingJumps(rs)
	return b
}

func (s state) missingJumps(rs *rules.Ruleset) []rules.Jump {
	var missing []rules.Jump
	for _, j := range rs.Jumps {
		if !s.jumps[jumpKey{j.Table, j.From, j.Rule.Do.Chain}] {
			missing = append(missing, j)
		}
	}
	return missing
}

// stale lists chains that an earlier run left: their names begin like those
// that come and go, and rs doesn't have them.
func (s state) stale(rs *rules.Ruleset, prefixes []string) []rules.ID {
	var all []rules.ID
	for id := range s.chains {
		if rs.Chains[id] != nil || id.Table != rules.NAT && id.Table != rules.Filter {
			continue
		}
		for _, p := range prefixes {
			if strings.HasPrefix(id.Name, p) {
				all = append(all, id)
				break
			}
		}
	}
	return all
}
