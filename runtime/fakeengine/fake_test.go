package fakeengine_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"orch/runtime/engine"
	"orch/runtime/enginetest"
	"orch/runtime/fakeengine"
)

func TestSuite(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Rig {
		run := func(ctx context.Context, s engine.ExecSpec, streams engine.IO) (int, error) {
			switch s.Command[0] {
			case "exec7":
				return 7, nil
			case "cat":
				_, err := io.Copy(streams.Stdout, streams.Stdin)
				return 0, err
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}
		e := fakeengine.New(fakeengine.Options{
			Images: []string{"busybox:test"},
			Script: fakeengine.ByCommand(map[string]fakeengine.Script{
				"forever":  {Exec: run},
				"exit3":    {Exits: true, Code: 3},
				"hello":    {Output: "hello\n", Exec: run},
				"stubborn": {IgnoreTerm: true},
				"missing":  {CreateErr: engine.ErrProcess},
			}),
		})
		one := func(s string) []string { return []string{s} }
		return enginetest.Rig{
			Engine: e, Image: "busybox:test", Absent: "nowhere/none:1", LogDir: t.TempDir(),
			Forever: one("forever"), Exit3: one("exit3"), Hello: one("hello"), Stubborn: one("stubborn"),
			Missing: one("missing"), Exec7: one("exec7"), Cat: one("cat"),
		}
	})
}

func TestFiveHundred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock stands while anybody works
		e := fakeengine.New(fakeengine.Options{})
		events := e.Events(t.Context())
		start := time.Now()
		for i := range 500 {
			id := fmt.Sprint("c", i)
			if err := e.Create(t.Context(), engine.Spec{ID: id, Pod: id, Image: "nginx"}); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			<-events
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("500 containers waited %v", took)
		}
	})
}
