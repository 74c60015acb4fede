package main

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	kept      = 10_000 // objects in the store of the restart
	settling  = 30 * time.Second
	idleTime  = time.Minute
	loadRuns  = 6
	megabyte  = 1e6
	afterLoad = 60 * time.Second
)

// boot measures the first start on an empty directory.
func (b *bench) boot(ctx context.Context) error {
	s, err := b.newServer()
	if err != nil {
		return err
	}
	defer s.remove()
	began := time.Now()
	took, err := s.start(ctx)
	if err != nil {
		return err
	}
	b.table.addDuration("first boot to /readyz", "s", took)
	c, err := s.connect(protobufType)
	if err != nil {
		return err
	}
	at, err := nodeReady(ctx, c)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.tail())
	}
	b.table.addDuration("first boot to node Ready", "s", at.Sub(began))
	u, err := s.usage()
	b.table.beside("first boot to node Ready", "server", "CPU s", u.cpu.Seconds())
	return err
}

// restart measures the start with a store that is in use.
func (b *bench) restart(ctx context.Context) error {
	return b.withServer(ctx, func(s *server) error {
		c, err := s.connect(protobufType)
		if err != nil {
			return err
		}
		_, _, err = spread(kept, workers, func(i int) error {
			_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: fmt.Sprintf("kept-%05d", i)},
				Data: map[string]string{"value": string(make([]byte, objectBytes))}}, meta.CreateOptions{})
			return err
		})
		if err != nil {
			return err
		}
		if err := s.stop(); err != nil {
			return err
		}
		took, err := s.start(ctx)
		b.table.addDuration("restart with 10,000 objects to /readyz", "s", took)
		return err
	}, "--disable-agent")
}

// idle measures what a server with its node takes when nothing happens.
func (b *bench) idle(ctx context.Context) error {
	return b.resting(ctx, "idle server with node", func(*server) error { return nil })
}

// resting prepares a server, waits until it has settled, and measures a minute.
func (b *bench) resting(ctx context.Context, figure string, prepare func(*server) error) error {
	return b.withServer(ctx, func(s *server) error {
		c, err := s.connect(protobufType)
		if err != nil {
			return err
		}
		if _, err := nodeReady(ctx, c); err != nil {
			return err
		}
		if err := prepare(s); err != nil {
			return err
		}
		if err := pause(ctx, settling); err != nil {
			return err
		}
		before, err := s.usage()
		if err != nil {
			return err
		}
		if err := pause(ctx, idleTime); err != nil {
			return err
		}
		after, err := s.usage()
		b.table.add(figure+", resident", "MB", float64(after.resident)/megabyte)
		b.table.add(figure+", CPU over 60 s", "% of a core", 100*(after.cpu-before.cpu).Seconds()/idleTime.Seconds())
		b.table.beside(figure+", CPU over 60 s", "written to disk", "bytes a minute", float64(after.written-before.written))
		return err
	})
}

// memory measures what six runs of the load leave behind, a minute later.
func (b *bench) memory(ctx context.Context) error {
	return b.withServer(ctx, func(s *server) error {
		c, err := s.connect(protobufType)
		if err != nil {
			return err
		}
		if _, err := nodeReady(ctx, c); err != nil {
			return err
		}
		for i := range loadRuns {
			v := &verbs{bench: b, server: s, ConfigMaps: c.CoreV1().RESTClient(), client: c, format: "protobuf", accept: protobufType, namespace: fmt.Sprintf("load-%d", i)}
			if err := v.run(ctx); err != nil {
				return err
			}
		}
		u, err := s.usage()
		if err != nil {
			return err
		}
		atOnce := u.resident
		if err := pause(ctx, afterLoad); err != nil {
			return err
		}
		u, err = s.usage()
		b.table.add("resident after six runs of load", "MB", float64(u.resident)/megabyte)
		b.table.beside("resident after six runs of load", "a minute before", "MB", float64(atOnce)/megabyte)
		return err
	})
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
