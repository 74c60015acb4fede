package image

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"

	"orch/runtime/engine"
)

func TestAuths(t *testing.T) {
	secret := &core.Secret{Type: core.SecretTypeDockerConfigJson, Data: map[string][]byte{core.DockerConfigJsonKey: []byte(
		`{"auths":{"https://index.docker.io/v1/":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("hub:p:w")) + `"},
		"reg.example.com":{"username":"all","password":"x"},"reg.example.com/team":{"username":"team","password":"y"},"*.mirror.io:5000":{"username":"m","password":"z"}}}`)}}
	for _, tt := range []struct{ name, image, user string }{
		{"docker hub short", "busybox:1.36", "hub"},
		{"docker hub long", "docker.io/library/busybox", "hub"},
		{"host", "reg.example.com/app", "all"},
		{"longest path", "reg.example.com/team/app:1", "team"},
		{"no part of a path", "reg.example.com/teams/app", "all"},
		{"wildcard", "a.mirror.io:5000/x", "m"},
		{"none", "other.io/x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Auths(tt.image, []*core.Secret{secret})
			if err != nil {
				t.Fatal(err)
			}
			user := ""
			if len(got) > 0 {
				user = got[0].Username
			}
			if user != tt.user {
				t.Errorf("got user %q, want %q", user, tt.user)
			}
		})
	}
}

func TestDefaultPolicy(t *testing.T) {
	for ref, want := range map[string]core.PullPolicy{
		"a": core.PullAlways, "a:latest": core.PullAlways, "h:5000/a": core.PullAlways, "a:1": core.PullIfNotPresent,
		"h:5000/a:1": core.PullIfNotPresent, "a@sha256:00": core.PullIfNotPresent,
	} {
		if got := DefaultPolicy(ref); got != want {
			t.Errorf("%s: got %s, want %s", ref, got, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for ref, ok := range map[string]bool{"busybox": true, "a/b:c": true, "H.io/a": true, "Busybox": false, "": false, "a b": false, "localhost:5000/x@sha256:1": true, "/x": false} {
		if err := checkName(ref); (err == nil) != ok {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestVictims(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	all := []engine.Image{
		{ID: "new", Bytes: 10, LastUsed: at(90)}, {ID: "old", Bytes: 10, LastUsed: at(1)}, {ID: "mid", Bytes: 10, LastUsed: at(5)},
		{ID: "used", Bytes: 10, LastUsed: at(0)}, {ID: "pinned", Bytes: 10, Pinned: true},
	}
	var got []string
	for _, i := range Victims(all, map[string]bool{"used": true}, 15, at(50)) {
		got = append(got, i.ID)
	}
	if d := cmp.Diff([]string{"old", "mid"}, got); d != "" {
		t.Error(d)
	}
}
