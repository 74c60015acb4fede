package operator

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

// Group of the operator's kind, and its versions: v1 is stored, v2 is what the operator
// works with.
const Group = "widgets.example.com"

var (
	v1 = schema.GroupVersion{Group: Group, Version: "v1"}
	v2 = schema.GroupVersion{Group: Group, Version: "v2"}
)

// Widget is v2.
type Widget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              Size   `json:"spec"`
	Status            Status `json:"status,omitempty"`
}

// Size of a Widget.
type Size struct {
	Width  int `json:"width"`
	Height int `json:"height,omitempty"`
}

// Status of a Widget.
type Status struct {
	Area       int                `json:"area,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// WidgetList is a list.
type WidgetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Widget `json:"items"`
}

// WidgetV1 has its size in one word: 3x4.
type WidgetV1 struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              SizeV1 `json:"spec"`
	Status            Status `json:"status,omitempty"`
}

// SizeV1 of a WidgetV1.
type SizeV1 struct {
	Size string `json:"size"`
}

var (
	_ conversion.Hub         = (*Widget)(nil)
	_ conversion.Convertible = (*WidgetV1)(nil)
)

// Hub says that all conversion goes through v2.
func (*Widget) Hub() {}

// ConvertTo makes the hub of w.
func (w *WidgetV1) ConvertTo(hub conversion.Hub) error {
	out := hub.(*Widget)
	out.ObjectMeta, out.Status = w.ObjectMeta, w.Status
	if n, err := fmt.Sscanf(w.Spec.Size, "%dx%d", &out.Spec.Width, &out.Spec.Height); n == 0 {
		return fmt.Errorf("size %q: %w", w.Spec.Size, err)
	}
	return nil
}

// ConvertFrom makes w of the hub.
func (w *WidgetV1) ConvertFrom(hub conversion.Hub) error {
	in := hub.(*Widget)
	w.ObjectMeta, w.Status = in.ObjectMeta, in.Status
	w.Spec.Size = fmt.Sprintf("%dx%d", in.Spec.Width, in.Spec.Height)
	return nil
}

func (s *Status) copied() Status {
	return Status{s.Area, slices.Clone(s.Conditions)}
}

// DeepCopyObject is part of runtime.Object.
func (w *Widget) DeepCopyObject() runtime.Object {
	c := *w
	w.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Status = w.Status.copied()
	return &c
}

// DeepCopyObject is part of runtime.Object.
func (w *WidgetV1) DeepCopyObject() runtime.Object {
	c := *w
	w.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Status = w.Status.copied()
	return &c
}

// DeepCopyObject is part of runtime.Object.
func (l *WidgetList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]Widget, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*Widget)
	}
	return &c
}

func addToScheme(s *runtime.Scheme) {
	s.AddKnownTypeWithName(v2.WithKind("Widget"), &Widget{})
	s.AddKnownTypeWithName(v2.WithKind("WidgetList"), &WidgetList{})
	s.AddKnownTypeWithName(v1.WithKind("Widget"), &WidgetV1{})
	metav1.AddToGroupVersion(s, v1)
	metav1.AddToGroupVersion(s, v2)
}
