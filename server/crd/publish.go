package crd

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	openapiv3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
)

// publish puts the OpenAPI documents of what is installed in place: one of version 3 for
// each group and version, and an addition to that of version 2. They are written when
// somebody reads them, and not kept.
func (c *Controller) publish() {
	if c.Publish == nil {
		return
	}
	docs, hashes := map[string][]*version{}, map[string]string{}
	for _, i := range c.current() {
		for _, v := range i.definition.order {
			if !v.spec.Served {
				continue
			}
			for _, name := range []string{"v2", "v3/apis/" + v.definition.group + "/" + v.name} {
				docs[name] = append(docs[name], v)
				hashes[name] += i.definition.described
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.published {
		if docs[name] == nil {
			delete(c.published, name)
			c.Publish(name, Document{})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		hash := fmt.Sprintf("%X", sha256.Sum256([]byte(hashes[name])))
		if c.published[name] == hash {
			continue
		}
		c.published[name] = hash
		versions := docs[name]
		c.Publish(name, Document{Hash: hash, Open: func(protobuf bool) (io.ReadCloser, error) {
			if name == "v2" {
				return written(documentV2(versions), protobuf, encodeV2)
			}
			return written(documentV3(versions), protobuf, encodeV3)
		}})
	}
}

func written(doc map[string]any, protobuf bool, encode func([]byte) ([]byte, error)) (io.ReadCloser, error) {
	data, err := json.Marshal(doc)
	if err == nil && protobuf {
		data, err = encode(data)
	}
	if err != nil {
		return nil, fmt.Errorf("writing the OpenAPI document of custom resources: %w", err)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func encodeV3(doc []byte) ([]byte, error) {
	d, err := openapiv3.ParseDocument(doc)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(d)
}

// encodeV2 leaves out what the built-in document says already: two protobuf messages one
// after the other are one.
func encodeV2(doc []byte) ([]byte, error) {
	d, err := openapiv2.ParseDocument(doc)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&openapiv2.Document{Definitions: d.Definitions, Paths: d.Paths})
}

func documentV3(versions []*version) map[string]any {
	paths, schemas := map[string]any{}, map[string]any{}
	for name, s := range metaModels(refV3, "ObjectMeta", "ListMeta", "DeleteOptions", "Status", "Patch") {
		schemas[name] = s
	}
	for _, v := range versions {
		v.describeIn(schemas, paths, style{ref: refV3})
	}
	return map[string]any{
		"openapi":    "3.0.0",
		"info":       map[string]any{"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
		"paths":      paths,
		"components": map[string]any{"schemas": schemas},
	}
}

// documentV2 leans on the built-in document for the types of meta/v1.
func documentV2(versions []*version) map[string]any {
	paths, schemas := map[string]any{}, map[string]any{}
	for _, v := range versions {
		v.describeIn(schemas, paths, style{ref: refV2, old: true})
	}
	return map[string]any{
		"swagger": "2.0", "info": map[string]any{"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
		"paths": paths, "definitions": schemas,
	}
}

func (v *version) describeIn(schemas, paths map[string]any, s style) {
	d := v.definition
	schemas[v.modelName(d.names.Kind)] = v.model(s.ref)
	schemas[v.modelName(d.names.ListKind)] = v.listModel(s.ref)
	root := "/apis/" + d.group + "/" + v.name + "/"
	base := root
	if !d.cluster {
		base += "namespaces/{namespace}/"
		paths[root+d.names.Plural] = v.pathItem(s, target{all: true}, "list")
	}
	one := base + d.names.Plural + "/{name}"
	paths[base+d.names.Plural] = v.pathItem(s, target{}, "list", "post", "deletecollection")
	paths[one] = v.pathItem(s, target{named: true}, "get", "put", "patch", "delete")
	if sub := v.spec.Subresources; sub != nil && sub.Status != nil {
		paths[one+"/status"] = v.pathItem(s, target{named: true, sub: "Status"}, "get", "put", "patch")
	}
	if sub := v.spec.Subresources; sub != nil && sub.Scale != nil {
		paths[one+"/scale"] = v.pathItem(s, target{named: true, sub: "Scale"}, "get", "put", "patch")
		if !s.old {
			schemas[scaleModel] = scaleSchema()
		}
	}
}

// tag is the group and version as one word: MlExampleCom_v1.
func (v *version) tag() string { return v.groupWord() + "_" + v.name }

func (v *version) groupWord() string {
	var b strings.Builder
	for _, part := range strings.FieldsFunc(v.definition.group, func(r rune) bool { return r == '.' || r == '-' }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// id is an operation's name, as upstream makes it.
func (v *version) id(verb string, t target) string {
	var b strings.Builder
	b.WriteString(verb + v.groupWord() + strings.ToUpper(v.name[:1]) + v.name[1:])
	if !v.definition.cluster && !t.all {
		b.WriteString("Namespaced")
	}
	b.WriteString(v.definition.names.Kind + t.sub)
	if t.all {
		b.WriteString("ForAllNamespaces")
	}
	return b.String()
}
