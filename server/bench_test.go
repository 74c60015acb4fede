package server

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
	"orch/api/client"
	"orch/datastore/bolt"
	"orch/server/access"
	"orch/server/registry"
)

func openStore(b *testing.B, dir string) *bolt.Store {
	b.Helper()
	s, err := bolt.Open(bolt.Config{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkFirstBoot is from an empty folder to a ready control plane, on disk.
func BenchmarkFirstBoot(b *testing.B) {
	for b.Loop() {
		store := openStore(b, b.TempDir())
		_, stop := boot(b, store, nil)
		b.StopTimer()
		stop()
		store.Close()
		b.StartTimer()
	}
}

// BenchmarkRestart is from a folder with 10,000 objects to a ready control plane.
func BenchmarkRestart(b *testing.B) {
	dir := b.TempDir()
	on := func(c *Config) { c.DataDir = dir }
	store := openStore(b, dir)
	s, stop := boot(b, store, on)
	fill(b, s, 10000)
	stop()
	store.Close()
	for b.Loop() {
		store := openStore(b, dir)
		_, stop := boot(b, store, on)
		b.StopTimer()
		stop()
		store.Close()
		b.StartTimer()
	}
}

// fill makes n ConfigMaps of 1 KiB.
func fill(b *testing.B, s *Server, n int) {
	b.Helper()
	c := s.Client("test", api.GroupMasters)
	g, ctx := errgroup.WithContext(b.Context())
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			_, err := client.Create(ctx, c, api.ConfigMaps, &core.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("c", i)}, Data: map[string]string{"k": strings.Repeat("x", 1024)},
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAuthorize asks about a user with a role among all default ones.
func BenchmarkAuthorize(b *testing.B) {
	store := openStore(b, b.TempDir())
	b.Cleanup(func() { store.Close() })
	s := start(b, store, nil)
	for name, at := range map[string]access.Attributes{
		"node": {User: registry.User{Name: "system:node:n1", Groups: []string{api.GroupNodes, api.GroupAuthenticated}}, Verb: "list", Resource: "services"},
		"rbac": {User: registry.User{Name: api.SchedulerUser, Groups: []string{api.GroupAuthenticated}}, Verb: "create", Resource: "pods", Subresource: "binding", Namespace: "default", Name: "x"},
		"no":   {User: registry.User{Name: "nobody", Groups: []string{api.GroupAuthenticated}}, Verb: "list", Resource: "secrets"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ok, _, err := s.Access().Authorize(b.Context(), at); err != nil || ok == (name == "no") {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
