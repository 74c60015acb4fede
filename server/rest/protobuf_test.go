package rest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"orch/api"
)

const protobufType = "application/vnd.kubernetes.protobuf"

func codec() *protobuf.Serializer { return protobuf.NewSerializer(api.Scheme(), api.Scheme()) }

func encode(t testing.TB, o runtime.Object) string {
	t.Helper()
	gvks, _, err := api.Scheme().ObjectKinds(o)
	if err != nil {
		t.Fatal(err)
	}
	o.GetObjectKind().SetGroupVersionKind(gvks[0])
	data, err := runtime.Encode(codec(), o)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func decodeAs[T any](t testing.TB, data []byte) *T {
	t.Helper()
	o, _, err := codec().Decode(data, nil, nil)
	if err != nil {
		t.Fatalf("decoding %q: %v", data[:min(len(data), 40)], err)
	}
	v, ok := any(o).(*T)
	if !ok {
		t.Fatalf("got a %T", o)
	}
	return v
}

// What we frame by hand reads back, with the library that clients use, as what the JSON says.
func TestProtobufAgreesWithJSON(t *testing.T) {
	w := newWorld(t, nil)
	const path = "/api/v1/namespaces/default/configmaps"
	for i := range 5 {
		cm := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)}, Data: map[string]string{"k": strings.Repeat("x", i*100)}}
		resp, data := w.do(t, "POST", path, encode(t, cm), "Content-Type", protobufType, "Accept", protobufType)
		if resp.StatusCode != http.StatusCreated || resp.Header.Get("Content-Type") != protobufType {
			t.Fatalf("%s %s", resp.Status, data)
		}
		if got := decodeAs[core.ConfigMap](t, data); got.Name != cm.Name || got.Kind != "ConfigMap" || got.UID == "" {
			t.Fatalf("created %+v", got)
		}
	}
	for _, query := range []string{"", "?limit=2", "?labelSelector=none%3D1"} {
		_, data := w.do(t, "GET", path+query, "", "Accept", protobufType)
		pb := decodeAs[core.ConfigMapList](t, data)
		_, data = w.do(t, "GET", path+query, "")
		js, _, err := decodeJSON(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(js, runtime.Object(pb), ignoreEmpty); diff != "" {
			t.Errorf("%q: -json +protobuf\n%s", query, diff)
		}
	}
	_, data := w.do(t, "GET", path+"/missing", "", "Accept", protobufType)
	if s := decodeAs[metav1.Status](t, data); s.Code != 404 || s.Reason != metav1.StatusReasonNotFound {
		t.Errorf("status %+v", s)
	}
	_, data = w.do(t, "GET", path, "", "Accept", protobufType+";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, metav1.SchemeGroupVersion)
	if err := metav1.AddMetaToScheme(s); err != nil {
		t.Fatal(err)
	}
	o, _, err := protobuf.NewSerializer(s, s).Decode(data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l := o.(*metav1.PartialObjectMetadataList); len(l.Items) != 5 || l.Items[0].Name != "c0" {
		t.Errorf("metadata list %+v", l)
	}
	resp, data := w.do(t, "DELETE", path+"/c0", encode(t, &metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationOrphan)}), "Content-Type", protobufType)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("delete with protobuf options: %s %s", resp.Status, data)
	}
}
