package pki

import (
	"encoding/base64"
	"fmt"
)

const kubeconfigText = `apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: default
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
preferences: {}
`

func kubeconfig(url string, ca, cert, key []byte) []byte {
	b := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, kubeconfigText, url, b(ca), b(cert), b(key))
}
