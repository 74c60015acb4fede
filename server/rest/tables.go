package rest

import (
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/server/registry"
	"orch/server/rest/wire"
)

// tableOf renders items as rows for people.
func (s *Server) tableOf(q *request, m wire.Media, items []*registry.Item, head metav1.ListMeta) (*metav1.Table, error) {
	include := metav1.IncludeObjectPolicy(q.query.Get("includeObject"))
	switch include {
	case "":
		include = metav1.IncludeMetadata
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Invalid value for includeObject: must be 'None', 'Metadata', or 'Object': %q", include))
	}
	t := &metav1.Table{ListMeta: head, ColumnDefinitions: columnsOf(q.row), Rows: make([]metav1.TableRow, len(items))}
	now := s.now()
	for i, item := range items {
		row, err := rowOf(q.row, item, include, m.Version, now)
		if err != nil {
			return nil, err
		}
		t.Rows[i] = row
	}
	return t, nil
}

func columnsOf(row *registry.Resource) []metav1.TableColumnDefinition {
	list := make([]metav1.TableColumnDefinition, len(row.Columns))
	for i, c := range row.Columns {
		list[i] = metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description}
		if c.Wide {
			list[i].Priority = 1
		}
	}
	return list
}

func rowOf(row *registry.Resource, item *registry.Item, include metav1.IncludeObjectPolicy, version string, now time.Time) (metav1.TableRow, error) {
	o := item.Object()
	r := metav1.TableRow{Cells: make([]any, len(row.Columns))}
	for i, c := range row.Columns {
		r.Cells[i] = c.Cell(o, now)
	}
	switch include {
	case metav1.IncludeObject:
		data, err := item.AppendJSON(nil)
		r.Object = runtime.RawExtension{Raw: data}
		return r, err
	case metav1.IncludeMetadata:
		p := meta.AsPartialObjectMetadata(o)
		p.TypeMeta = metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: metav1.GroupName + "/" + version}
		data, err := json.Marshal(p)
		r.Object = runtime.RawExtension{Raw: data}
		return r, err
	}
	return r, nil
}
