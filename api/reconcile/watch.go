package reconcile

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/api"
	"orch/api/client"
)

// For watches the primary kind: a changed object is its own key.
func For[T any](k api.Kind[T]) Watch {
	return Watch{Kind: k.Facts, Keys: func(c client.Change) []Key {
		o := c.New
		if o == nil {
			o = c.Old
		}
		return []Key{{o.GetNamespace(), o.GetName()}}
	}}
}

// Owns watches a kind whose objects are controlled by objects of the owner's
// kind: a change concerns the controller that the object has, and had.
func Owns[O, T any](owner api.Kind[O], owned api.Kind[T]) Watch {
	return Watch{Kind: owned.Facts, Keys: func(c client.Change) []Key {
		was, isOld := controllerKey(owner.Facts, c.Old)
		is, isNew := controllerKey(owner.Facts, c.New)
		switch {
		case isOld && isNew && was != is:
			return []Key{was, is}
		case isNew:
			return []Key{is}
		case isOld:
			return []Key{was}
		}
		return nil
	}}
}

// controllerKey is the key of o's controller if that is of the owner's kind.
func controllerKey(owner *api.Facts, o api.Object) (Key, bool) {
	if o == nil {
		return Key{}, false
	}
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil || ref.Kind != owner.Kind {
		return Key{}, false
	}
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != owner.Group {
		return Key{}, false
	}
	if owner.Cluster {
		return Key{Name: ref.Name}, true
	}
	return Key{o.GetNamespace(), ref.Name}, true
}

// Map watches a kind whose changes concern other keys: f gets the object before
// and after; one of them may be nil.
func Map[T any](k api.Kind[T], f func(was, is *T) []Key) Watch {
	return Watch{Kind: k.Facts, Keys: func(c client.Change) []Key {
		was, _ := any(c.Old).(*T)
		is, _ := any(c.New).(*T)
		return f(was, is)
	}}
}

// Keys are those of the cached objects of a namespace ("" for all) that pick picks.
func Keys[T any, P client.PtrTo[T]](c client.Cache, k api.Kind[T], namespace string, pick func(P) bool) (keys []Key) {
	c.Each(k.Facts, namespace, func(o api.Object) bool {
		if pick(o.(P)) {
			keys = append(keys, Key{o.GetNamespace(), o.GetName()})
		}
		return true
	})
	return keys
}
