package volume

import (
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"orch/api"
	"orch/api/client"
)

// trustBundle puts the certificates of one bundle, or of all that a signer and labels
// select, into one file; each once.
func (k *collector) trustBundle(s *core.ClusterTrustBundleProjection) error {
	bundles, err := k.bundles(s)
	if err != nil {
		return err
	}
	anchors := map[string]bool{}
	for _, b := range bundles {
		for block, rest := pem.Decode([]byte(b.Spec.TrustBundle)); block != nil; block, rest = pem.Decode(rest) {
			anchors[string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))] = true
		}
	}
	var out []byte
	for _, a := range slices.Sorted(maps.Keys(anchors)) {
		out = append(out, a...)
	}
	return k.put(s.Path, out, nil)
}

func (k *collector) bundles(s *core.ClusterTrustBundleProjection) ([]*certificates.ClusterTrustBundle, error) {
	optional := s.Optional != nil && *s.Optional
	if s.Name != nil {
		o, err := client.Get(k.ctx, k.client, api.ClusterTrustBundles, "", *s.Name)
		u := use{reference: reference{kind: api.ClusterTrustBundles.Facts, name: *s.Name}}
		if err == nil {
			u.version = o.ResourceVersion
		}
		k.uses = append(k.uses, u)
		switch {
		case apierrors.IsNotFound(err) && optional:
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("while getting ClusterTrustBundle: %w", err)
		}
		return []*certificates.ClusterTrustBundle{o}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(s.LabelSelector) // without one: nothing
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all := reference{kind: api.ClusterTrustBundles.Facts, selector: fields.OneTermEqualSelector("spec.signerName", *s.SignerName).String()}
	list, err := k.client.List(k.ctx, client.Target{Kind: all.kind}, metav1.ListOptions{FieldSelector: all.selector, LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("while listing ClusterTrustBundles matching label selector %v: %w", selector, err)
	}
	u := use{reference: all}
	var out []*certificates.ClusterTrustBundle
	for _, o := range list.Items {
		if b, ok := o.(*certificates.ClusterTrustBundle); ok && s.LabelSelector != nil {
			out = append(out, b)
			u.version = newer(u.version, b.ResourceVersion)
		}
	}
	k.uses = append(k.uses, u)
	if len(out) == 0 && !optional {
		return nil, errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return out, nil
}

// newer is the later of two versions, which are decimal numbers.
func newer(a, b string) string {
	if len(a) != len(b) {
		if len(a) > len(b) {
			return a
		}
		return b
	}
	return max(a, b)
}
