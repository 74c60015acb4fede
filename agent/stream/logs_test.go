package stream

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orch/runtime/fakeengine"
)

const threeLines = `2026-01-01T10:00:00.000000001Z stdout F one
2026-01-01T10:00:01.000000002Z stderr F two
2026-01-01T10:00:02.000000003Z stdout P thr
2026-01-01T10:00:02.000000003Z stdout F ee
`

// keepLog gives the container of pod web a log that was written before.
func (r *rig) keepLog(text, previous string) {
	dir := r.TempDir()
	for name, text := range map[string]string{"1.log": text, "0.log": previous} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	r.change("web", func(p *Pod) {
		p.Containers[0].LogPath = filepath.Join(dir, "1.log")
		if previous != "" {
			p.Containers[0].PreviousLogPath = filepath.Join(dir, "0.log")
		}
	})
}

func TestLogs(t *testing.T) {
	r := newRig(t, fakeengine.Script{}, nil)
	r.keepLog(threeLines, "2026-01-01T09:00:00Z stdout F before\n")
	r.mu.Lock()
	for name, reason := range map[string]string{"creating": "ContainerCreating", "pulling": "ErrImagePull", "backoff": "ImagePullBackOff", "new": ""} {
		r.pods["default/"+name] = Pod{Containers: []Container{{Name: "app", Waiting: reason}}}
	}
	r.mu.Unlock()
	for _, c := range []struct {
		name, path string
		code       int
		want       string
	}{
		{"all", "web/app", 200, "one\ntwo\nthree\n"},
		{"tail", "web/app?tailLines=3", 200, "two\nthree\n"}, // as upstream, a long line's pieces count each
		{"tail none", "web/app?tailLines=0", 200, ""},
		{"limit", "web/app?limitBytes=5", 200, "one\nt"},
		{"since", "web/app?sinceTime=2026-01-01T10:00:01Z", 200, "two\nthree\n"},
		{"since seconds", "web/app?sinceSeconds=1", 200, ""},
		{"since very long ago", "web/app?sinceSeconds=9223372036854775807", 200, "one\ntwo\nthree\n"},
		{"timestamps", "web/app?timestamps=true&tailLines=2", 200, "2026-01-01T10:00:02.000000003Z three\n"},
		{"one stream", "web/app?stream=Stderr", 200, "two\n"},
		{"previous", "web/app?previous=true", 200, "before\n"},
		{"follow what has ended", "web/app?previous=true&follow=true", 200, "before\n"},
		{"no previous", "creating/app?previous=true", 400, `previous terminated container "app" in pod "creating" not found`},
		{"creating", "creating/app", 400, `container "app" in pod "creating" is waiting to start: ContainerCreating`},
		{"pulling", "pulling/app", 400, `container "app" in pod "pulling" is waiting to start: image can't be pulled`},
		{"back-off", "backoff/app?follow=true", 400, `container "app" in pod "backoff" is waiting to start: trying and failing to pull image`},
		{"new", "new/app", 400, `container "app" in pod "new" is waiting to start - no logs yet`},
		{"no container", "web/none", 404, `container "none" not found in pod "web"`},
		{"no pod", "none/app", 404, "pod does not exist"},
		{"bad tail", "web/app?tailLines=-1", 400, `invalid tailLines "-1"`},
		{"bad limit", "web/app?limitBytes=0", 400, `invalid limitBytes "0"`},
		{"bad since", "web/app?sinceTime=yesterday", 400, `invalid sinceTime "yesterday"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, body := r.get("/containerLogs/default/" + c.path); code != c.code || body != c.want {
				t.Errorf("%d %q", code, body)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	r := newRig(t, fakeengine.Script{Output: "first\n"}, nil)
	resp, err := http.Get(r.server.URL + "/containerLogs/default/web/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		if !lines.Scan() {
			t.Fatalf("ended: %v", lines.Err())
		}
		return lines.Text()
	}
	if got := next(); got != "first" {
		t.Errorf("got %q", got)
	}
	for i := range 3 { // each comes at once, with nothing behind it
		if err := r.engine.Print("id-web-app", fmt.Sprintf("line %d\n", i)); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != fmt.Sprintf("line %d", i) {
			t.Errorf("got %q", got)
		}
	}
	if err := r.engine.Print("id-web-app", "last\n"); err != nil {
		t.Fatal(err)
	}
	if err := r.engine.End("id-web-app", 0, false); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "last" {
		t.Errorf("got %q", got)
	}
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("the container has ended, the log has not: %q %v", lines.Text(), lines.Err())
	}
}

// What follows ends with its client, and with the handler.
func TestFollowEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(r *rig, cancel func())
	}{
		{"client leaves", func(_ *rig, cancel func()) { cancel() }},
		{"handler ends", func(r *rig, _ func()) { r.stop() }},
		{"container is removed", func(r *rig, _ func()) {
			_ = r.engine.End("id-web-app", 1, false)
			_ = r.engine.Remove(r.Context(), "id-web-app")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, fakeengine.Script{Output: "first\n"}, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			q, err := http.NewRequestWithContext(ctx, "GET", r.server.URL+"/containerLogs/default/web/app?follow=true", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			c.end(r, cancel)
		})
	}
}

// A client that reads nothing holds nobody up at the end.
func TestDeafFollower(t *testing.T) {
	r := newRig(t, fakeengine.Script{Output: "first\n"}, nil)
	r.keepLog(strings.Repeat("2026-01-01T10:00:00Z stdout F "+strings.Repeat("x", 10_000)+"\n", 2000), "")
	resp, err := http.Get(r.server.URL + "/containerLogs/default/web/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.Sleep(50 * time.Millisecond) // all buffers are full
	begin := time.Now()
	r.stop()
	if took := time.Since(begin); took > quick {
		t.Errorf("took %v", took)
	}
}

func TestBigLog(t *testing.T) {
	r := newRig(t, fakeengine.Script{Output: "x"}, nil)
	line := "2026-01-01T10:00:00Z stdout F " + strings.Repeat("x", 99) + "\n"
	r.keepLog(strings.Repeat(line, 300_000), "")
	for _, follow := range []string{"", "follow=true"} {
		go func() {
			_ = r.engine.End("id-web-app", 0, false)
		}()
		begin := time.Now()
		if code, body := r.get("/containerLogs/default/web/app?" + url.PathEscape(follow)); code != 200 || len(body) != 300_000*100 {
			t.Errorf("%d, %d bytes", code, len(body))
		}
		t.Logf("%s: %.0f MB/s", follow, 30/time.Since(begin).Seconds())
	}
}
