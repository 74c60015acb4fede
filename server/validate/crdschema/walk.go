package crdschema

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// place is where in the whole schema a part of it stands.
type place struct {
	root bool
	// inMeta is inside the metadata of an object.
	inMeta bool
	// noDefault says why defaults are forbidden here; empty: they are allowed.
	noDefault string
}

var metaFields = []string{"metadata", "kind", "apiVersion"}

var propertyTypes = []string{"array", "boolean", "integer", "null", "number", "object", "string"}

// walk checks s and everything below it.
func (c *checker) walk(s *props, p *field.Path, at place) {
	if s == nil {
		return
	}
	c.plainKeywords(s, p, at)
	c.lists(s, p)
	c.keyed(s, p)
	c.ruleTexts(s, p)
	below := at
	below.root = false
	if a := s.AdditionalProperties; a != nil {
		if len(s.Properties) != 0 && (!a.Allows || a.Schema != nil) {
			c.forbid(p.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive")
		}
		c.walk(a.Schema, p.Child("additionalProperties"), below)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		child, inside := s.Properties[name], below
		if (at.root || s.XEmbeddedResource) && slices.Contains(metaFields, name) {
			inside.inMeta = true
			if at.root {
				inside.noDefault = fmt.Sprintf("in top-level %s", name)
			}
		}
		c.walk(&child, p.Child("properties").Key(name), inside)
	}
	c.walk(s.Not, p.Child("not"), below)
	for word, list := range map[string][]props{"allOf": s.AllOf, "oneOf": s.OneOf, "anyOf": s.AnyOf} {
		for i := range list {
			c.walk(&list[i], p.Child(word).Index(i), below)
		}
	}
	if s.Items != nil {
		c.walk(s.Items.Schema, p.Child("items"), below)
	}
}

// plainKeywords are those that concern one value.
func (c *checker) plainKeywords(s *props, p *field.Path, at place) {
	if s.Type != "" && !slices.Contains(propertyTypes, s.Type) {
		c.errs = append(c.errs, field.NotSupported(p.Child("type"), s.Type, propertyTypes))
	}
	if s.Default != nil && at.noDefault != "" {
		c.forbid(p.Child("default"), "must not be set "+at.noDefault)
	}
	for _, k := range []struct {
		set  bool
		name string
	}{
		{s.ID != "", "id"}, {len(s.PatternProperties) != 0, "patternProperties"}, {len(s.Definitions) != 0, "definitions"}, {len(s.Dependencies) != 0, "dependencies"},
	} {
		if k.set {
			c.forbid(p.Child(k.name), k.name+" is not supported")
		}
	}
	if s.AdditionalItems != nil {
		c.forbid(p.Child("additionalItems"), "additionalItems is not supported")
	}
	if s.Ref != nil {
		c.forbid(p.Child("$ref"), "$ref is not supported")
	}
	if s.UniqueItems {
		c.forbid(p.Child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic")
	}
	if s.Items != nil && len(s.Items.JSONSchemas) != 0 {
		c.forbid(p.Child("items"), "items must be a schema object and not an array")
	}
	if s.Type == "null" {
		c.forbid(p.Child("type"), "type cannot be set to null, use nullable as an alternative")
	}
	if x := s.XPreserveUnknownFields; x != nil && !*x {
		c.wrong(p.Child("x-kubernetes-preserve-unknown-fields"), *x, "must be true or undefined")
	}
	if s.XEmbeddedResource && at.inMeta {
		c.forbid(p.Child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta")
	}
}

// typed checks that an extension stands at the type that it is for.
func (c *checker) typed(s *props, p *field.Path, want, extension string) bool {
	text := fmt.Sprintf("must be %s if %s is specified", want, extension)
	switch s.Type {
	case want:
		return true
	case "":
		c.need(p.Child("type"), text)
	default:
		c.wrong(p.Child("type"), s.Type, text)
	}
	return false
}

// lists checks how maps and lists are merged.
func (c *checker) lists(s *props, p *field.Path) {
	if t := s.XMapType; t != nil {
		c.typed(s, p, "object", "x-kubernetes-map-type")
		if kinds := []string{"atomic", "granular"}; !slices.Contains(kinds, *t) {
			c.errs = append(c.errs, field.NotSupported(p.Child("x-kubernetes-map-type"), *t, kinds))
		}
	}
	t := s.XListType
	if t == nil {
		return
	}
	if c.typed(s, p, "array", "x-kubernetes-list-type") && *t == "set" && s.Items != nil && s.Items.Schema != nil {
		const why = "must be atomic as item of a list with x-kubernetes-list-type=set"
		switch is := s.Items.Schema; {
		case is.Type == "array" && is.XListType != nil && *is.XListType != "atomic":
			c.wrong(p.Child("items", "x-kubernetes-list-type"), is.XListType, why)
		case is.Type == "object" && (is.XMapType == nil || *is.XMapType != "atomic"):
			c.wrong(p.Child("items", "x-kubernetes-map-type"), is.XListType, why)
		}
	}
	if kinds := []string{"atomic", "set", "map"}; !slices.Contains(kinds, *t) {
		c.errs = append(c.errs, field.NotSupported(p.Child("x-kubernetes-list-type"), *t, kinds))
	}
}

// keyed checks lists whose elements have keys.
func (c *checker) keyed(s *props, p *field.Path) {
	isMap := s.XListType != nil && *s.XListType == "map"
	keysPath := p.Child("x-kubernetes-list-map-keys")
	if len(s.XListMapKeys) > 0 && !isMap {
		const why = "must be map if x-kubernetes-list-map-keys is non-empty"
		if s.XListType == nil {
			c.need(p.Child("x-kubernetes-list-type"), why)
		} else {
			c.wrong(p.Child("x-kubernetes-list-type"), *s.XListType, why)
		}
	}
	if s.XListType != nil && (isMap || *s.XListType == "set") && s.Items != nil && s.Items.Schema != nil && s.Items.Schema.Nullable {
		c.forbid(p.Child("items").Child("nullable"), "cannot be nullable when x-kubernetes-list-type is "+*s.XListType)
	}
	if !isMap {
		return
	}
	if len(s.XListMapKeys) == 0 {
		c.need(keysPath, "must not be empty if x-kubernetes-list-type is map")
	}
	switch {
	case s.Items == nil:
		c.need(p.Child("items"), "must have a schema if x-kubernetes-list-type is map")
		return
	case s.Items.Schema == nil:
		c.wrong(p.Child("items"), "", "must only have a single schema if x-kubernetes-list-type is map")
		return
	case s.Items.Schema.Type != "object":
		c.wrong(p.Child("items", "type"), s.Items.Schema.Type, "must be object if parent array's x-kubernetes-list-type is map")
		return
	}
	is, seen := s.Items.Schema, map[string]bool{}
	for _, k := range s.XListMapKeys {
		at := p.Child("items").Child("properties").Key(k)
		child, ok := is.Properties[k]
		switch {
		case !ok:
			c.wrong(keysPath, s.XListMapKeys, "entries must all be names of item properties")
		case child.Type == "array" || child.Type == "object":
			c.wrong(at.Child("type"), is.Type, "must be a scalar type if parent array's x-kubernetes-list-type is map")
		case child.Default == nil && !slices.Contains(is.Required, k):
			c.need(at.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property")
		}
		if ok && child.Nullable {
			c.forbid(at.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable")
		}
		if seen[k] {
			c.wrong(keysPath, s.XListMapKeys, "must not contain duplicate entries")
		}
		seen[k] = true
	}
}

var ruleReasons = sets.New(string(apiextensions.FieldValueRequired), string(apiextensions.FieldValueForbidden), string(apiextensions.FieldValueInvalid), string(apiextensions.FieldValueDuplicate))

// ruleTexts checks what stands around the rules; they are compiled apart.
func (c *checker) ruleTexts(s *props, p *field.Path) {
	lines := func(text string) bool { return strings.ContainsAny(text, "\r\n") }
	for i := range s.XValidations {
		r, at := &s.XValidations[i], p.Child("x-kubernetes-validations").Index(i)
		rule, message := strings.TrimSpace(r.Rule), strings.TrimSpace(r.Message)
		switch {
		case rule == "":
			c.need(at.Child("rule"), "rule is not specified")
		case r.Message != "" && message == "":
			c.wrong(at.Child("message"), r.Message, "must be non-empty if specified")
		case lines(message):
			c.wrong(at.Child("message"), r.Message, "must not contain line breaks")
		case lines(rule) && message == "":
			c.need(at.Child("message"), "message must be specified if rule contains line breaks")
		}
		if r.MessageExpression != "" && strings.TrimSpace(r.MessageExpression) == "" {
			c.need(at.Child("messageExpression"), "messageExpression must be non-empty if specified")
		}
		if r.Reason != nil && !ruleReasons.Has(string(*r.Reason)) {
			c.errs = append(c.errs, field.NotSupported(at.Child("reason"), string(*r.Reason), sets.List(ruleReasons)))
		}
		if r.FieldPath == "" {
			continue
		}
		if strings.TrimSpace(r.FieldPath) == "" {
			c.wrong(at.Child("fieldPath"), r.FieldPath, "must be non-empty if specified")
		}
		if lines(r.FieldPath) {
			c.wrong(at.Child("fieldPath"), r.FieldPath, "must not contain line breaks")
		}
		if ss, err := schema.NewStructural(s); err == nil {
			if _, _, err := cel.ValidFieldPath(r.FieldPath, ss); err != nil {
				c.wrong(at.Child("fieldPath"), r.FieldPath, "must be a valid path")
			}
		}
	}
}
