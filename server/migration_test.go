package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	migration "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"orch/api"
	"orch/api/client"
	"orch/api/reconcile"
	"orch/datastore"
	"orch/datastore/memory"
	"orch/server/controllers/storagemigration"
)

const migrationsPath = "/apis/storagemigration.k8s.io/v1/storageversionmigrations"

// migrating runs the migrator with a clock that is ahead by as much.
func migrating(t *testing.T, s *Server, ahead *atomic.Int64) {
	t.Helper()
	c := s.Client(api.ControllerUser)
	specs := storagemigration.Specs(storagemigration.Deps{Client: c, Kinds: s.Collected, Changed: s.KindsChanged,
		Others: s.Others("storage-version-migrator-controller"), Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- reconcile.Run(running, c, specs...) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// said is how a migration ended, once it is closed.
func said(t *testing.T, c *client.Client, name string, end migration.MigrationConditionType) string {
	t.Helper()
	var m *migration.StorageVersionMigration
	waitFor(t, "migration "+name, func() bool {
		m = client.Cached(c, api.StorageVersionMigrations, "", name)
		return m != nil && meta.IsStatusConditionTrue(m.Status.Conditions, string(end)) && meta.IsStatusConditionFalse(m.Status.Conditions, string(migration.MigrationRunning))
	})
	return meta.FindStatusCondition(m.Status.Conditions, string(end)).Message
}

func migrationOf(name, group, resource string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"resource":{"group":%q,"resource":%q}}}`, name, group, resource)
}

// storedAs counts the stored objects below a prefix that contain the text.
func storedAs(t *testing.T, store datastore.Store, prefix, text string) (n int) {
	t.Helper()
	page, err := store.List(t.Context(), datastore.ListRequest{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range page.KVs {
		if bytes.Contains(kv.Value, []byte(text)) {
			n++
		}
	}
	return n
}

// After the storage version of a definition has changed, a migration stores every object anew
// and takes the old version out of status.storedVersions.
func TestStorageVersionMigration(t *testing.T) {
	store := memory.New()
	s := start(t, store, nil)
	admin, c := user(t, s, "admin", api.GroupMasters), s.Client("test", api.GroupMasters)
	migrating(t, s, new(atomic.Int64))
	versions := func(stored string) string {
		var out []string
		for _, v := range []string{"v1", "v2"} {
			out = append(out, fmt.Sprintf(`{"name":%q,"served":true,"storage":%t,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}`, v, v == stored))
		}
		return `"versions":[` + strings.Join(out, ",") + `]`
	}
	setUp(t, admin, [2]string{crdPath, `{"metadata":{"name":"things.x.io"},"spec":{"group":"x.io","scope":"Namespaced","names":{"plural":"things","kind":"Thing"},` + versions("v1") + `}}`})
	definition := func() []string {
		return client.Cached(c, api.CustomResourceDefinitions, "", "things.x.io").Status.StoredVersions
	}
	for i := range 5 {
		waitFor(t, "a thing to be taken", func() bool {
			code, _ := admin.do("POST", "/apis/x.io/v1/namespaces/default/things", fmt.Sprintf(`{"apiVersion":"x.io/v1","kind":"Thing","metadata":{"name":"t%d"}}`, i))
			return code == 201
		})
	}
	if code, m := admin.message("PATCH", crdPath+"/things.x.io", `{"spec":{`+versions("v2")+`}}`); code != 200 {
		t.Fatal(code, m)
	}
	waitFor(t, "both versions to be noted", func() bool { return slices.Equal(definition(), []string{"v1", "v2"}) })
	if n := storedAs(t, store, "/registry/x.io/things/", "x.io/v1"); n != 5 {
		t.Fatalf("%d things are stored in v1, want 5", n)
	}
	setUp(t, admin, [2]string{migrationsPath, migrationOf("first", "x.io", "things")}, [2]string{migrationsPath, migrationOf("second", "x.io", "things")})
	for _, name := range []string{"first", "second"} {
		if m := said(t, c, name, migration.MigrationSucceeded); m != "Migration completed" {
			t.Errorf("%s: %s", name, m)
		}
	}
	if n := storedAs(t, store, "/registry/x.io/things/", "x.io/v2"); n != 5 {
		t.Errorf("%d things are stored in v2, want 5", n)
	}
	waitFor(t, "v1 to be forgotten", func() bool { return slices.Equal(definition(), []string{"v2"}) })
	for _, cond := range client.Cached(c, api.CustomResourceDefinitions, "", "things.x.io").Status.Conditions {
		if cond.Type == "StorageMigrating" && (cond.Status != "False" || cond.Reason != "MigrationSucceeded") {
			t.Errorf("%+v", cond)
		}
	}
}

func TestStorageVersionMigrationOfWhatCannotBe(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin, c := user(t, s, "admin", api.GroupMasters), s.Client("test", api.GroupMasters)
	ahead := new(atomic.Int64)
	ahead.Store(int64(2 * time.Minute))
	migrating(t, s, ahead)
	setUp(t, admin, [2]string{migrationsPath, migrationOf("unknown", "x.io", "things")},
		[2]string{migrationsPath, migrationOf("computed", "authorization.k8s.io", "subjectaccessreviews")},
		[2]string{migrationsPath, migrationOf("maps", "", "configmaps")})
	for name, want := range map[string]string{
		"unknown":  "resource does not exist in discovery",
		"computed": `resource "authorization.k8s.io/v1, Resource=subjectaccessreviews" does not support discovery operations: [update patch list]`,
	} {
		if m := said(t, c, name, migration.MigrationFailed); m != want {
			t.Errorf("%s: %s", name, m)
		}
	}
	said(t, c, "maps", migration.MigrationSucceeded)
}

// The API server's authority can be mounted by its signer's name; a bundle of another
// authority goes, and what somebody changed comes back.
func TestServingTrustBundle(t *testing.T) {
	s := start(t, memory.New(), nil)
	admin, c := user(t, s, "admin", api.GroupMasters), s.Client("test", api.GroupMasters)
	const path, signer = "/apis/certificates.k8s.io/v1/clustertrustbundles", "kubernetes.io/kube-apiserver-serving"
	is := func() bool {
		all := client.CachedList(c, api.ClusterTrustBundles, "", nil)
		return len(all) == 1 && all[0].Spec.SignerName == signer && all[0].Spec.TrustBundle == string(s.PKI().ServerCA()) &&
			strings.HasPrefix(all[0].Name, "kubernetes.io:kube-apiserver-serving:") && len(all[0].Name) == len("kubernetes.io:kube-apiserver-serving:")+24
	}
	waitFor(t, "the bundle", is)
	setUp(t, admin, [2]string{path, fmt.Sprintf(`{"metadata":{"name":"kubernetes.io:kube-apiserver-serving:old"},"spec":{"signerName":%q,"trustBundle":%q}}`, signer, s.PKI().ClientCA())})
	waitFor(t, "the old one to go", is)
	name := client.CachedList(c, api.ClusterTrustBundles, "", nil)[0].Name
	if code, m := admin.message("DELETE", path+"/"+name, ""); code != 200 {
		t.Fatal(code, m)
	}
	waitFor(t, "it to come back", is)
	makeAccount(t, s, "default", "reader")
	if code, m := user(t, s, "system:serviceaccount:default:reader", "system:serviceaccounts", api.GroupAuthenticated).message("GET", path, ""); code != 200 {
		t.Errorf("a service account may read bundles: %d %s", code, m)
	}
}
