package rule

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Diff lists the fields in which two values of one type differ, for people: a line
// with the path, then the old value behind a minus and the new one behind a plus.
// It looks at fields by reflection and never at methods, which would make the linker
// keep every method of every kind.
func Diff(was, is any) string {
	var b strings.Builder
	differ(&b, "", reflect.ValueOf(was), reflect.ValueOf(is))
	return b.String()
}

func differ(b *strings.Builder, path string, was, is reflect.Value) {
	switch {
	case !was.IsValid() || !is.IsValid() || was.Type() != is.Type():
		report(b, path, was, is)
	case reflect.DeepEqual(was.Interface(), is.Interface()):
	case was.Kind() == reflect.Pointer || was.Kind() == reflect.Interface:
		if was.IsNil() || is.IsNil() {
			report(b, path, was, is)
			return
		}
		differ(b, path, was.Elem(), is.Elem())
	case was.Kind() == reflect.Struct && exported(was.Type()):
		for i := range was.NumField() {
			differ(b, join(path, fieldName(was.Type().Field(i))), was.Field(i), is.Field(i))
		}
	case was.Kind() == reflect.Slice && was.Type().Elem().Kind() != reflect.Uint8:
		for i := range max(was.Len(), is.Len()) {
			differ(b, fmt.Sprintf("%s[%d]", path, i), index(was, i), index(is, i))
		}
	case was.Kind() == reflect.Map && was.Type().Key().Kind() == reflect.String:
		differMaps(b, path, was, is)
	default:
		report(b, path, was, is)
	}
}

func differMaps(b *strings.Builder, path string, was, is reflect.Value) {
	keys := map[string]reflect.Value{}
	for _, m := range []reflect.Value{was, is} {
		for _, k := range m.MapKeys() {
			keys[k.String()] = k
		}
	}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		differ(b, fmt.Sprintf("%s[%s]", path, name), was.MapIndex(keys[name]), is.MapIndex(keys[name]))
	}
}

// exported tells whether a struct shows all it holds; others, such as quantities and
// times, are values of their own.
func exported(t reflect.Type) bool {
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			return false
		}
	}
	return true
}

// fieldName is the one in JSON; empty for embedded structs.
func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" && !f.Anonymous {
		return f.Name
	}
	return name
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}

func index(list reflect.Value, i int) reflect.Value {
	if i < list.Len() {
		return list.Index(i)
	}
	return reflect.Value{}
}

func report(b *strings.Builder, path string, was, is reflect.Value) {
	fmt.Fprintf(b, "  %s:\n", path)
	for _, side := range []struct {
		sign  string
		value reflect.Value
	}{{"-", was}, {"+", is}} {
		if !side.value.IsValid() {
			continue
		}
		text, err := json.Marshal(side.value.Interface())
		if err != nil { // no kind of ours has such a field
			text = []byte("?")
		}
		fmt.Fprintf(b, "%s 	%s\n", side.sign, text)
	}
}
