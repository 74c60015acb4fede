package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	definitions   = 20
	schemaFields  = 50
	established   = 30 * time.Second
	perDefinition = 5 // objects
)

var definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// crds measures an idle server whose users have installed operators.
func (b *bench) crds(ctx context.Context) error {
	return b.resting(ctx, fmt.Sprintf("idle with %d CRDs", definitions), func(s *server) error {
		config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
		if err != nil {
			return err
		}
		config.QPS = -1
		c, err := dynamic.NewForConfig(config)
		if err != nil {
			return err
		}
		for i := range definitions {
			if err := define(ctx, c, i); err != nil {
				return fmt.Errorf("definition %d: %w", i, err)
			}
		}
		return nil
	})
}

// define makes a definition with a wide schema and a rule, and objects of it.
func define(ctx context.Context, c dynamic.Interface, i int) error {
	plural := fmt.Sprintf("widget%02ds", i)
	fields := map[string]any{"replicas": map[string]any{"type": "integer", "default": 1, "x-kubernetes-validations": []any{
		map[string]any{"rule": "self >= 0", "message": "replicas must not be negative"}}}}
	for n := range schemaFields {
		fields[fmt.Sprintf("field%02d", n)] = map[string]any{"type": "string", "maxLength": 64, "description": "one of many fields of a wide schema"}
	}
	text, err := json.Marshal(map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + ".bench.example.com"},
		"spec": map[string]any{
			"group": "bench.example.com", "scope": "Namespaced",
			"names": map[string]any{"plural": plural, "singular": plural[:len(plural)-1], "kind": fmt.Sprintf("Widget%02d", i), "listKind": fmt.Sprintf("Widget%02dList", i)},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
				"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{"spec": map[string]any{"type": "object", "properties": fields}}}}}},
		},
	})
	if err != nil {
		return err
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(text); err != nil {
		return err
	}
	if _, err := c.Resource(definitionResource).Create(ctx, o, meta.CreateOptions{}); err != nil {
		return err
	}
	objects := c.Resource(schema.GroupVersionResource{Group: "bench.example.com", Version: "v1", Resource: plural}).Namespace("default")
	for end := time.Now().Add(established); ; {
		_, err := objects.List(ctx, meta.ListOptions{})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	for n := range perDefinition {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "bench.example.com/v1", "kind": fmt.Sprintf("Widget%02d", i),
			"metadata": map[string]any{"name": fmt.Sprintf("w%d", n)}, "spec": map[string]any{"replicas": int64(n), "field00": "x"},
		}}
		if _, err := objects.Create(ctx, o, meta.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}
