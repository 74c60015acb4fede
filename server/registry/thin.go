package registry

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// thinMeta shows the metadata of a custom resource to validation, which does not look at
// the sets of managed fields: to decode them costs more than all the rest.
type thinMeta struct{ *unstructured.Unstructured }

func thin(m metav1.Object) metav1.Object {
	if u, ok := m.(*unstructured.Unstructured); ok {
		return thinMeta{u}
	}
	return m
}

// GetManagedFields gives the entries without sets and times.
func (t thinMeta) GetManagedFields() []metav1.ManagedFieldsEntry {
	list, _, _ := unstructured.NestedFieldNoCopy(t.Object, "metadata", "managedFields")
	entries, _ := list.([]any)
	out := make([]metav1.ManagedFieldsEntry, 0, len(entries))
	for _, e := range entries {
		m, _ := e.(map[string]any)
		text := func(name string) string {
			s, _ := m[name].(string)
			return s
		}
		out = append(out, metav1.ManagedFieldsEntry{
			Manager: text("manager"), Operation: metav1.ManagedFieldsOperationType(text("operation")), APIVersion: text("apiVersion"),
			FieldsType: text("fieldsType"), Subresource: text("subresource"),
		})
	}
	return out
}
