// Package table renders objects as rows for people: the Table form of answers. It
// knows columns and cells, and refuses to know requests. Start reading at Build.
package table

import (
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"orch/server/registry"
)

// Options say what comes with the cells.
type Options struct {
	// Include as in the includeObject parameter; empty means Metadata.
	Include metav1.IncludeObjectPolicy
	// Version of meta.k8s.io that the client asked for.
	Version string
	Now     time.Time
}

// Build renders items of one row of the kind table.
func Build(row *registry.Resource, items []*registry.Item, head metav1.ListMeta, o Options) (*metav1.Table, error) {
	switch o.Include {
	case "":
		o.Include = metav1.IncludeMetadata
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Invalid value for includeObject: must be 'None', 'Metadata', or 'Object': %q", o.Include))
	}
	t := &metav1.Table{ListMeta: head, ColumnDefinitions: columnsOf(row), Rows: make([]metav1.TableRow, len(items))}
	for i, item := range items {
		r, err := rowOf(row, item, o)
		if err != nil {
			return nil, err
		}
		t.Rows[i] = r
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

func rowOf(row *registry.Resource, item *registry.Item, o Options) (metav1.TableRow, error) {
	r := metav1.TableRow{Cells: make([]any, len(row.Columns))}
	for i, c := range row.Columns {
		r.Cells[i] = c.Cell(item.Object(), o.Now)
	}
	switch o.Include {
	case metav1.IncludeObject:
		data, err := item.AppendJSON(nil)
		r.Object = runtime.RawExtension{Raw: data}
		return r, err
	case metav1.IncludeMetadata:
		p := meta.AsPartialObjectMetadata(item.Object())
		p.TypeMeta = metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: metav1.GroupName + "/" + o.Version}
		data, err := json.Marshal(p)
		r.Object = runtime.RawExtension{Raw: data}
		return r, err
	}
	return r, nil
}
