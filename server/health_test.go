package server

import (
	"encoding/json"
	"testing"

	core "k8s.io/api/core/v1"

	"orch/api"
	"orch/datastore/memory"
)

func TestComponentStatuses(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin := user(t, s, "admin", api.GroupMasters)
	waitFor(t, "healthy parts", func() bool {
		code, text := admin.do("GET", "/api/v1/componentstatuses", "")
		var l core.ComponentStatusList
		if err := json.Unmarshal([]byte(text), &l); err != nil || code != 200 || len(l.Items) != 3 {
			t.Fatalf("%d %s", code, text)
		}
		for _, c := range l.Items {
			if len(c.Conditions) != 1 || c.Conditions[0].Status != core.ConditionTrue || c.Conditions[0].Message != "ok" {
				return false
			}
		}
		return true
	})
	for name, want := range map[string]int{"scheduler": 200, "nix": 404} {
		if code, m := admin.message("GET", "/api/v1/componentstatuses/"+name, ""); code != want {
			t.Errorf("%s: %d %s", name, code, m)
		}
	}
}
