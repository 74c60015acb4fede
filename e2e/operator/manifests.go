package operator

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Manifests install the operator: its kind, and its webhooks behind a Service.
func Manifests(ca []byte) string {
	return strings.ReplaceAll(manifests, "CABUNDLE", base64.StdEncoding.EncodeToString(ca))
}

// Endpoints make an instance part of the Service.
func Endpoints(name, address, port string) string {
	return fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: operators, name: %s, labels: {kubernetes.io/service-name: widgets}}
addressType: IPv4
ports: [{name: webhooks, port: %s}]
endpoints: [{addresses: ["%s"], conditions: {ready: true}}]
`, name, port, address)
}

const manifests = `apiVersion: v1
kind: Namespace
metadata: {name: operators}
---
apiVersion: v1
kind: Service
metadata: {namespace: operators, name: widgets}
spec: {ports: [{name: webhooks, port: 443}]}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.widgets.example.com}
spec:
  group: widgets.example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wi]}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {caBundle: CABUNDLE, service: {namespace: operators, name: widgets, path: /convert}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Size, type: string, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, required: [size], properties: {size: {type: string, pattern: '^-?[0-9]+(x[0-9]+)?$'}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
  - name: v2
    served: true
    storage: false
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Width, type: integer, jsonPath: .spec.width}, {name: Area, type: integer, jsonPath: .status.area}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {width: {type: integer}, height: {type: integer}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: widgets}
webhooks:
- name: default.widgets.example.com
  clientConfig: {caBundle: CABUNDLE, service: {namespace: operators, name: widgets, path: /mutate-widgets-example-com-v2-widget}}
  rules: [{apiGroups: [widgets.example.com], apiVersions: [v2], resources: [widgets], operations: [CREATE, UPDATE]}]
  sideEffects: None
  admissionReviewVersions: [v1]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: widgets}
webhooks:
- name: validate.widgets.example.com
  clientConfig: {caBundle: CABUNDLE, service: {namespace: operators, name: widgets, path: /validate-widgets-example-com-v2-widget}}
  rules: [{apiGroups: [widgets.example.com], apiVersions: [v2], resources: [widgets], operations: [CREATE, UPDATE, DELETE]}]
  sideEffects: None
  admissionReviewVersions: [v1]
`
