package volume

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	authn "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orch/agent/pods/plan"
	"orch/api"
	"orch/api/client"
)

// file is one file of a volume made of API objects.
type file struct {
	data []byte
	mode int32
	// user owns it; nil means root.
	user *int64
}

// reference names an object whose change changes a volume.
type reference struct {
	kind            *api.Facts
	namespace, name string
	// selector, of fields, stands for the name where several objects count.
	selector string
}

// use is an object as it was read; version is empty when it was missing.
type use struct {
	reference
	version string
}

// content is what a volume made of API objects holds at one time.
type content struct {
	files map[string]file
	// uses lists the objects it was made from, missing optional ones too.
	uses []use
	// refresh is when it has to be made anew (tokens); zero: only when an object changes.
	refresh time.Time
	// pod is true when it depends on the pod's own labels or annotations.
	pod bool
}

// collector gathers the content of one volume.
type collector struct {
	*Volumes
	ctx context.Context
	pod *core.Pod
	content
	defaultMode int32
	// volume is its name.
	volume string
	// dir and until are of the volume as it was made last: its tokens serve until then.
	dir   string
	until time.Time
}

// collect reads the objects behind a volume; ok is false for volumes that are
// not made of objects.
func (v *Volumes) collect(ctx context.Context, m *mountedPod, vol *core.Volume) (c content, ok bool, err error) {
	k := &collector{Volumes: v, ctx: ctx, pod: m.pod, content: content{files: map[string]file{}}, defaultMode: 0o644, volume: vol.Name,
		dir: v.objectPath(m.pod.UID, vol), until: m.volumes[vol.Name].refresh}
	mode := func(m *int32) {
		if m != nil {
			k.defaultMode = *m
		}
	}
	switch s := vol.VolumeSource; {
	case s.ConfigMap != nil:
		mode(s.ConfigMap.DefaultMode)
		err = k.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
	case s.Secret != nil:
		mode(s.Secret.DefaultMode)
		err = k.secret(s.Secret.SecretName, s.Secret.Items, s.Secret.Optional)
	case s.DownwardAPI != nil:
		mode(s.DownwardAPI.DefaultMode)
		err = k.downward(s.DownwardAPI.Items)
	case s.Projected != nil:
		mode(s.Projected.DefaultMode)
		err = k.projected(s.Projected)
	default:
		return content{}, false, nil
	}
	return k.content, true, err
}

func (k *collector) projected(p *core.ProjectedVolumeSource) error {
	for i, s := range p.Sources {
		var err error
		switch {
		case s.ConfigMap != nil:
			err = k.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
		case s.Secret != nil:
			err = k.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional)
		case s.DownwardAPI != nil:
			err = k.downward(s.DownwardAPI.Items)
		case s.ServiceAccountToken != nil:
			err = k.token(s.ServiceAccountToken)
		case s.ClusterTrustBundle != nil:
			err = k.trustBundle(s.ClusterTrustBundle)
		case s.PodCertificate != nil:
			err = k.certificate(s.PodCertificate, i)
		default:
			err = fmt.Errorf("a projected source of a kind that this node does not know")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// absent forgives the absence of an optional object; the words for others are the kubelet's.
func absent(err error, what, name string, optional *bool) error {
	switch {
	case !errors.IsNotFound(err):
		return err
	case optional != nil && *optional:
		return nil
	}
	return errors.NewNotFound(schema.GroupResource{Resource: what}, name)
}

func (k *collector) configMap(name string, items []core.KeyToPath, optional *bool) error {
	o, err := client.Get(k.ctx, k.client, api.ConfigMaps, k.pod.Namespace, name)
	k.used(api.ConfigMaps.Facts, name, o, err)
	if err != nil {
		return absent(err, "configmap", name, optional)
	}
	data := make(map[string][]byte, len(o.Data)+len(o.BinaryData))
	for key, v := range o.Data {
		data[key] = []byte(v)
	}
	for key, v := range o.BinaryData {
		data[key] = v
	}
	return k.keys("configmap", data, items, optional)
}

func (k *collector) secret(name string, items []core.KeyToPath, optional *bool) error {
	o, err := client.Get(k.ctx, k.client, api.Secrets, k.pod.Namespace, name)
	k.used(api.Secrets.Facts, name, o, err)
	if err != nil {
		return absent(err, "secret", name, optional)
	}
	return k.keys("secret", o.Data, items, optional)
}

func (k *collector) used(kind *api.Facts, name string, o api.Object, err error) {
	u := use{reference: reference{kind: kind, namespace: k.pod.Namespace, name: name}}
	if err == nil {
		u.version = o.GetResourceVersion()
	}
	k.uses = append(k.uses, u)
}

// keys puts the chosen keys (all without items) of an object into the volume.
func (k *collector) keys(what string, data map[string][]byte, items []core.KeyToPath, optional *bool) error {
	if len(items) == 0 {
		for key, v := range data {
			k.files[key] = file{data: v, mode: k.defaultMode}
		}
		return nil
	}
	for _, i := range items {
		v, ok := data[i.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("%s references non-existent %s key: %s", what, map[string]string{"configmap": "config", "secret": "secret"}[what], i.Key)
		}
		if err := k.put(i.Path, v, i.Mode); err != nil {
			return err
		}
	}
	return nil
}

func (k *collector) put(p string, data []byte, mode *int32) error {
	f := file{data: data, mode: k.defaultMode}
	if mode != nil {
		f.mode = *mode
	}
	return k.putFile(p, f)
}

// putFile refuses paths that would leave the volume; validation refuses them too.
func (k *collector) putFile(p string, f file) error {
	clean := path.Clean(p)
	if path.IsAbs(clean) || clean == "." || clean == ".." || strings.HasPrefix(clean, "../") || strings.HasPrefix(clean, "..data") {
		return fmt.Errorf("invalid path %q in the volume", p)
	}
	k.files[clean] = f
	return nil
}

func (k *collector) downward(items []core.DownwardAPIVolumeFile) error {
	k.content.pod = true
	for _, i := range items {
		var value string
		var err error
		switch {
		case i.FieldRef != nil:
			value, err = k.fields.Field(k.pod, i.FieldRef.FieldPath)
		case i.ResourceFieldRef != nil:
			value, err = k.fields.Resource(k.pod, i.ResourceFieldRef)
		}
		if err == nil {
			err = k.put(i.Path, []byte(value), i.Mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// token asks for a service account token bound to the pod; it is renewed after
// 80 % of its life, or a day, as the kubelet does.
func (k *collector) token(s *core.ServiceAccountTokenProjection) error {
	now := k.now()
	if old, err := os.ReadFile(filepath.Join(k.dir, s.Path)); err == nil && now.Before(k.until) {
		k.refresh = k.until
		return k.putToken(s.Path, old)
	}
	seconds := int64(3600)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	request := &authn.TokenRequest{Spec: authn.TokenRequestSpec{ExpirationSeconds: &seconds,
		BoundObjectRef: &authn.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: k.pod.Name, UID: k.pod.UID}}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	account := k.pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	t := client.Target{Kind: api.ServiceAccounts.Facts, Namespace: k.pod.Namespace, Name: account, Subresource: "token"}
	o, err := k.client.Create(k.ctx, t, request, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("failed to fetch token: %w", err)
	}
	answer, ok := o.(*authn.TokenRequest)
	if !ok {
		return fmt.Errorf("failed to fetch token: the server answered a %T", o)
	}
	life := answer.Status.ExpirationTimestamp.Sub(now)
	refresh := now.Add(min(life*8/10, 24*time.Hour))
	if k.refresh.IsZero() || refresh.Before(k.refresh) {
		k.refresh = refresh
	}
	return k.putToken(s.Path, []byte(answer.Status.Token))
}

// putToken puts a credential into the volume: where one user is all that the pod runs as it is theirs
// alone, and the fsGroup may read it; else the volume's mode holds.
func (k *collector) putToken(path string, token []byte) error {
	mode, user := k.defaultMode, soleUser(k.pod)
	if user != nil || fsGroup(k.pod) != nil {
		mode = 0o600
	}
	return k.putFile(path, file{token, mode, user})
}

// soleUser is whom all containers of a pod run as, nil if they differ or one does not say.
func soleUser(pod *core.Pod) (sole *int64) {
	for _, c := range plan.Specs(pod) {
		user := (*int64)(nil)
		if of := pod.Spec.SecurityContext; of != nil {
			user = of.RunAsUser
		}
		if own := c.SecurityContext; own != nil && own.RunAsUser != nil {
			user = own.RunAsUser
		}
		if user == nil || sole != nil && *sole != *user {
			return nil
		}
		sole = user
	}
	return sole
}
