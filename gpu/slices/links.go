package slices

import (
	"slices"
	"strconv"
	"strings"

	resource "k8s.io/api/resource/v1"

	"orch/gpu/device"
)

// The attribute orch.io/links has two characters for each card of the pool that is a
// device itself, in the order of orch.io/order: how far it is, and by how many NVLinks
// they are joined (in base 36). The card's own place has two dots.
var levels = []struct {
	letter byte
	level  device.Level
}{
	{'i', device.LevelInternal}, {'s', device.LevelSingle}, {'m', device.LevelMultiple},
	{'h', device.LevelHostBridge}, {'n', device.LevelNode}, {'y', device.LevelSystem}, {'-', ""},
}

const self = ".."

// links is the attribute's value, empty where nothing is known or it would be too long.
func (w *writer) links(g device.GPU) string {
	var b strings.Builder
	known := false
	for _, other := range w.cards {
		if _, served := w.served[other.UUID]; !served {
			continue // nobody chooses among those
		}
		if other.UUID == g.UUID {
			b.WriteString(self)
			continue
		}
		p := device.Peer{}
		if k := slices.IndexFunc(g.Peers, func(p device.Peer) bool { return p.UUID == other.UUID }); k >= 0 {
			p, known = g.Peers[k], true
		}
		for _, l := range levels {
			if l.level == p.Level {
				b.WriteByte(l.letter)
			}
		}
		b.WriteString(strconv.FormatInt(int64(min(max(p.NVLinks, 0), 35)), 36))
	}
	if !known || b.Len() > resource.DeviceAttributeMaxValueLength || !strings.Contains(b.String(), self) {
		return ""
	}
	return b.String()
}

// peers reads the value; the i-th two characters are about cards[i].
func peers(links string, cards []string) []device.Peer {
	var out []device.Peer
	for i, uuid := range cards {
		if 2*i+2 > len(links) {
			break
		}
		token := links[2*i : 2*i+2]
		at := slices.IndexFunc(levels, func(l struct {
			letter byte
			level  device.Level
		}) bool {
			return l.letter == token[0]
		})
		n, err := strconv.ParseInt(token[1:], 36, 64)
		if at < 0 || err != nil || levels[at].level == "" && n == 0 {
			continue
		}
		out = append(out, device.Peer{UUID: uuid, Level: levels[at].level, NVLinks: int(n)})
	}
	return out
}
