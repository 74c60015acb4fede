// Package table renders objects as rows for people: the Table form of answers. It
// knows columns and cells, and refuses to know requests. Start reading at Build.
package table

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	autoscaling "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// complete fills in what includeObject is by default.
func (o *Options) complete() error {
	switch o.Include {
	case "":
		o.Include = metav1.IncludeMetadata
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("Invalid value for includeObject: must be 'None', 'Metadata', or 'Object': %q", o.Include))
	}
	return nil
}

// Build renders items of one row of the kind table.
func Build(row *registry.Resource, items []*registry.Item, head metav1.ListMeta, o Options) (*metav1.Table, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if order := row.TableOrder; order != nil {
		items = slices.SortedStableFunc(slices.Values(items), func(a, b *registry.Item) int { return order(a.Object(), b.Object()) })
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
	var err error
	r.Object.Raw, err = o.include(item.Object(), func() ([]byte, error) { return item.AppendJSON(nil) })
	return r, err
}

// include gives what goes along with the cells. The bookmark behind a watch's first events is told by
// its metadata, which therefore always come.
func (o Options) include(of metav1.Object, whole func() ([]byte, error)) ([]byte, error) {
	switch {
	case o.Include == metav1.IncludeObject:
		return whole()
	case o.Include == metav1.IncludeMetadata, of.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "":
		p := meta.AsPartialObjectMetadata(of)
		p.TypeMeta = metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: metav1.GroupName + "/" + o.Version}
		return json.Marshal(p)
	}
	return nil, nil
}

// Scale renders the scale of an object, which is in no list.
func Scale(s *autoscaling.Scale, o Options) (*metav1.Table, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	t := &metav1.Table{ListMeta: metav1.ListMeta{ResourceVersion: s.ResourceVersion}}
	var r metav1.TableRow
	for _, c := range registry.ScaleColumns() {
		t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description})
		r.Cells = append(r.Cells, c.Cell(s, o.Now))
	}
	var err error
	r.Object.Raw, err = o.include(s, func() ([]byte, error) { return json.Marshal(s) })
	t.Rows = []metav1.TableRow{r}
	return t, err
}
