package expression

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// Names of the variables.
const (
	objectName     = "object"
	oldObjectName  = "oldObject"
	paramsName     = "params"
	requestName    = "request"
	namespaceName  = "namespaceObject"
	authorizerName = "authorizer"
	resourceName   = "authorizer.requestResource"
	variablesName  = "variables"
)

// Types are the types of object and params; nil is dyn. They are for type checking
// only: what runs has no types.
type Types struct{ Object, Params *apiservercel.DeclType }

// untyped gives the environment of a scope, built once at first use.
var untyped = func() func(Scope) (*environment.EnvSet, error) {
	built := map[Scope]func() (*environment.EnvSet, error){}
	for i := range 16 {
		s := Scope{Params: i&1 != 0, Authorizer: i&2 != 0, Variables: i&4 != 0, Patches: i&8 != 0}
		built[s] = sync.OnceValues(func() (*environment.EnvSet, error) { return Types{}.env(s) })
	}
	return func(s Scope) (*environment.EnvSet, error) { return built[s]() }
}()

// env builds the environment of a scope.
func (t Types) env(s Scope) (*environment.EnvSet, error) {
	request, namespace := requestType(), namespaceType()
	declared := []*apiservercel.DeclType{namespace, request}
	of := func(d *apiservercel.DeclType) *cel.Type {
		if d == nil {
			return cel.DynType
		}
		declared = append(declared, d)
		return d.CelType()
	}
	object := of(t.Object)
	options := []cel.EnvOption{
		cel.Variable(objectName, object), cel.Variable(oldObjectName, object),
		cel.Variable(namespaceName, namespace.CelType()), cel.Variable(requestName, request.CelType()),
	}
	if s.Params {
		options = append(options, cel.Variable(paramsName, of(t.Params)))
	}
	if s.Authorizer {
		options = append(options, cel.Variable(authorizerName, library.AuthorizerType), cel.Variable(resourceName, library.ResourceCheckType))
	}
	if s.Variables {
		none := variablesType()
		options = append(options, cel.Variable(variablesName, none.CelType()))
		declared = append(declared, none)
	}
	e, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(
		environment.VersionedOptions{IntroducedVersion: always(), EnvOptions: options, DeclTypes: declared}, environment.StrictCostOpt)
	if err == nil && s.Patches { // their resolver wraps the declared types
		e, err = e.Extend(environment.VersionedOptions{IntroducedVersion: always(), EnvOptions: []cel.EnvOption{
			common.ResolverEnvOption(&mutation.DynamicTypeResolver{}), environment.UnversionedLib(library.JSONPatch),
		}})
	}
	if err != nil {
		return nil, fmt.Errorf("environment misconfigured: %w", err)
	}
	return e, nil
}

// always is the version of what every server understands.
func always() *version.Version { return version.MajorMinor(1, 0) }

func variablesType() *apiservercel.DeclType {
	return apiservercel.NewObjectType("kubernetes.variables", map[string]*apiservercel.DeclField{})
}

func variablesOption(t *apiservercel.DeclType) environment.VersionedOptions {
	return environment.VersionedOptions{
		IntroducedVersion: always(),
		EnvOptions:        []cel.EnvOption{cel.Variable(variablesName, t.CelType())},
		DeclTypes:         []*apiservercel.DeclType{t},
	}
}

type fields = map[string]*apiservercel.DeclType

// shape declares an object type.
func shape(name string, required bool, of fields) *apiservercel.DeclType {
	out := make(map[string]*apiservercel.DeclField, len(of))
	for n, t := range of {
		out[n] = apiservercel.NewDeclField(n, t, required, nil, nil)
	}
	return apiservercel.NewObjectType(name, out)
}

// requestType is AdmissionRequest without uid and the objects, as upstream's BuildRequestType.
func requestType() *apiservercel.DeclType {
	text := apiservercel.StringType
	texts := apiservercel.NewListType(text, -1)
	kind := shape("kubernetes.GroupVersionKind", true, fields{"group": text, "version": text, "kind": text})
	resource := shape("kubernetes.GroupVersionResource", true, fields{"group": text, "version": text, "resource": text})
	user := shape("kubernetes.UserInfo", false, fields{
		"username": text, "uid": text, "groups": texts, "extra": apiservercel.NewMapType(text, texts, -1),
	})
	t := shape("kubernetes.AdmissionRequest", true, fields{
		"kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource, "name": text, "operation": text, "userInfo": user,
	})
	optional := fields{"subResource": text, "requestSubResource": text, "namespace": text, "dryRun": apiservercel.BoolType, "options": apiservercel.DynType}
	for n, f := range optional {
		t.Fields[n] = apiservercel.NewDeclField(n, f, false, nil, nil)
	}
	return t
}

// namespaceType is Namespace without owners and managed fields, as upstream's BuildNamespaceType.
func namespaceType() *apiservercel.DeclType {
	text, moment := apiservercel.StringType, apiservercel.TimestampType
	texts, labels := apiservercel.NewListType(text, -1), apiservercel.NewMapType(text, text, -1)
	condition := shape("kubernetes.NamespaceCondition", true, fields{"status": text, "type": text, "lastTransitionTime": moment, "message": text, "reason": text})
	return shape("kubernetes.Namespace", true, fields{
		"metadata": shape("kubernetes.NamespaceMetadata", true, fields{
			"name": text, "generateName": text, "namespace": text, "labels": labels, "annotations": labels, "UID": text,
			"creationTimestamp": moment, "deletionGracePeriodSeconds": apiservercel.IntType, "deletionTimestamp": moment,
			"generation": apiservercel.IntType, "resourceVersion": text, "finalizers": texts,
		}),
		"spec":   shape("kubernetes.NamespaceSpec", true, fields{"finalizers": texts}),
		"status": shape("kubernetes.NamespaceStatus", true, fields{"conditions": apiservercel.NewListType(condition, -1), "phase": text}),
	})
}

// declTypeOf turns the type of a variable's expression into one that others can be checked
// against; what has no such form is dyn.
func declTypeOf(t *cel.Type) *apiservercel.DeclType {
	if t == nil {
		return apiservercel.DynType
	}
	simple := []*apiservercel.DeclType{
		apiservercel.AnyType, apiservercel.BoolType, apiservercel.BytesType, apiservercel.DoubleType, apiservercel.DurationType,
		apiservercel.IntType, apiservercel.NullType, apiservercel.StringType, apiservercel.TimestampType, apiservercel.UintType,
	}
	for _, d := range simple {
		if d.CelType() == t {
			return d
		}
	}
	if t.HasTrait(traits.ContainerType) && t.HasTrait(traits.IndexerType) {
		switch p := t.Parameters(); len(p) {
		case 1:
			return apiservercel.NewListType(declTypeOf(p[0]), -1)
		case 2:
			return apiservercel.NewMapType(declTypeOf(p[0]), declTypeOf(p[1]), -1)
		}
	}
	return apiservercel.DynType
}

// ObjectType is what an apply configuration evaluates to, JSONPatchType what a JSON patch does.
func ObjectType() *cel.Type    { return cel.ObjectType(mutation.ObjectTypeName) }
func JSONPatchType() *cel.Type { return cel.ListType(cel.ObjectType(mutation.JSONPatchTypeName)) }
