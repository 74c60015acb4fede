package podspec

import (
	"fmt"

	core "k8s.io/api/core/v1"
	apimachinery "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

func (c *spec) checkVolumes(p *field.Path) {
	e := &c.Errors
	names, made := rule.Unique{}, rule.Unique{}
	for i := range c.Volumes {
		if v := &c.Volumes[i]; v.Ephemeral != nil && c.pod != nil && c.pod.Name != "" {
			made[c.pod.Name+"-"+v.Name] = true
		}
	}
	for i := range c.Volumes {
		v, at, before := &c.Volumes[i], p.Index(i), e.Len()
		c.volume(v, at)
		if v.Name == "" {
			e.Required(at.Child("name"), "")
		} else {
			e.DNSLabel(at.Child("name"), v.Name)
		}
		if names[v.Name] {
			e.Duplicate(at.Child("name"), v.Name)
		}
		if e.Len() == before {
			names[v.Name] = true
			c.volumes[v.Name] = &v.VolumeSource
		}
		if claim := v.PersistentVolumeClaim; claim != nil && made[claim.ClaimName] {
			e.Invalid(at.Child("persistentVolumeClaim", "claimName"), claim.ClaimName, "must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// volume checks that there is exactly one source, and that one.
func (c *spec) volume(v *core.Volume, p *field.Path) {
	e, n := &c.Errors, 0
	one := func(set bool, name string, check func(p *field.Path)) {
		if !set {
			return
		}
		if n++; n > 1 {
			e.Forbidden(p.Child(name), "may not specify more than 1 volume type")
			return
		}
		check(p.Child(name))
	}
	s := &v.VolumeSource
	one(s.EmptyDir != nil, "emptyDir", func(p *field.Path) {
		if q := s.EmptyDir.SizeLimit; q != nil && q.Sign() < 0 {
			e.Forbidden(p.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
		}
	})
	one(s.HostPath != nil, "hostPath", func(p *field.Path) { e.Join(HostPath(s.HostPath, p)) })
	one(s.GitRepo != nil, "gitRepo", func(p *field.Path) {
		e.Need(p.Child("repository"), s.GitRepo.Repository)
		c.descendingPath(s.GitRepo.Directory, p.Child("directory"))
	})
	one(s.Secret != nil, "secret", func(p *field.Path) {
		e.Need(p.Child("secretName"), s.Secret.SecretName)
		c.mode(s.Secret.DefaultMode, p.Child("defaultMode"))
		c.keys(s.Secret.Items, p.Child("items"))
	})
	one(s.PersistentVolumeClaim != nil, "persistentVolumeClaim", func(p *field.Path) {
		e.Need(p.Child("claimName"), s.PersistentVolumeClaim.ClaimName)
	})
	one(s.DownwardAPI != nil, "downwardAPI", func(p *field.Path) {
		c.mode(s.DownwardAPI.DefaultMode, p.Child("defaultMode"))
		for i := range s.DownwardAPI.Items {
			c.downwardFile(&s.DownwardAPI.Items[i], p)
		}
	})
	one(s.ConfigMap != nil, "configMap", func(p *field.Path) {
		e.Need(p.Child("name"), s.ConfigMap.Name)
		c.mode(s.ConfigMap.DefaultMode, p.Child("defaultMode"))
		c.keys(s.ConfigMap.Items, p.Child("items"))
	})
	one(s.Projected != nil, "projected", func(p *field.Path) { c.projected(s.Projected, p) })
	one(s.CSI != nil, "csi", func(p *field.Path) {
		e.Join(CSIDriverName(s.CSI.Driver, p.Child("driver")))
		if r := s.CSI.NodePublishSecretRef; r != nil {
			if r.Name == "" {
				e.Required(p.Child("nodePublishSecretRef", "name"), "")
			} else {
				e.ObjectName(p.Child("name"), r.Name)
			}
		}
	})
	one(s.Image != nil, "image", func(p *field.Path) {
		rule.OneOf(e, p.Child("pullPolicy"), s.Image.PullPolicy, core.PullAlways, core.PullIfNotPresent, core.PullNever)
		if c.pod != nil && s.Image.Reference == "" {
			e.Required(p.Child("reference"), "")
		}
	})
	one(s.Ephemeral != nil, "ephemeral", func(p *field.Path) { c.ephemeral(v, p) })
	for _, vendor := range vendors(s) {
		one(true, vendor.name, func(p *field.Path) { e.Join(vendor.check(p)) })
	}
	if n == 0 {
		e.Required(p, "must specify a volume type")
	}
}

func (c *spec) ephemeral(v *core.Volume, p *field.Path) {
	t := v.Ephemeral.VolumeClaimTemplate
	if t == nil {
		c.Required(p.Child("volumeClaimTemplate"), "")
		return
	}
	at := p.Child("volumeClaimTemplate")
	c.TemplateMeta(at.Child("metadata"), &t.ObjectMeta)
	c.Join(ClaimSpec(&t.Spec, at.Child("spec")))
	if c.pod != nil && c.pod.Name != "" && v.Name != "" {
		claim := c.pod.Name + "-" + v.Name
		for _, complaint := range apimachinery.NameIsDNSSubdomain(claim, false) {
			c.Invalid(p.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, complaint))
		}
	}
}

func (c *spec) mode(m *int32, p *field.Path) {
	if m != nil && (*m > 0o777 || *m < 0) {
		c.Invalid(p, *m, rule.FileMode)
	}
}

func (c *spec) keys(items []core.KeyToPath, p *field.Path) {
	for i := range items {
		item, at := &items[i], p.Index(i)
		c.Need(at.Child("key"), item.Key)
		c.Need(at.Child("path"), item.Path)
		c.localPath(item.Path, at.Child("path"))
		c.mode(item.Mode, at.Child("mode"))
	}
}

func (c *spec) downwardFile(f *core.DownwardAPIVolumeFile, p *field.Path) {
	e := &c.Errors
	e.Need(p.Child("path"), f.Path)
	c.localPath(f.Path, p.Child("path"))
	switch {
	case f.FieldRef != nil:
		c.fieldRef(f.FieldRef, fileFields, p.Child("fieldRef"))
		if f.ResourceFieldRef != nil {
			e.Invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		c.resourceRef(f.ResourceFieldRef, true, p.Child("resourceFieldRef"))
	default:
		e.Required(p, "one of fieldRef and resourceFieldRef is required")
	}
	c.mode(f.Mode, p.Child("mode"))
}

func (c *spec) projected(v *core.ProjectedVolumeSource, p *field.Path) {
	e := &c.Errors
	c.mode(v.DefaultMode, p.Child("defaultMode"))
	paths := rule.Unique{}
	taken := func(path string, value any) {
		if path != "" && paths.Again(path) {
			e.Invalid(p, value, "conflicting duplicate paths")
		}
	}
	for i := range v.Sources {
		s, at, n := &v.Sources[i], p.Child("sources").Index(i), 0
		if s.Secret != nil {
			n++
			e.Need(at.Child("secret", "name"), s.Secret.Name)
			c.keys(s.Secret.Items, at.Child("secret", "items"))
			for _, item := range s.Secret.Items {
				taken(item.Path, s.Secret.Name)
			}
		}
		if s.ConfigMap != nil {
			n++
			e.Need(at.Child("configMap", "name"), s.ConfigMap.Name)
			c.keys(s.ConfigMap.Items, at.Child("configMap", "items"))
			for _, item := range s.ConfigMap.Items {
				taken(item.Path, s.ConfigMap.Name)
			}
		}
		if s.DownwardAPI != nil {
			n++
			for j := range s.DownwardAPI.Items {
				c.downwardFile(&s.DownwardAPI.Items[j], at.Child("downwardAPI"))
				taken(s.DownwardAPI.Items[j].Path, s.DownwardAPI.Items[j].Path)
			}
		}
		if s.ServiceAccountToken != nil {
			n++
			c.token(s.ServiceAccountToken, at.Child("serviceAccountToken"), p.Child("path"))
		}
		if s.ClusterTrustBundle != nil {
			n++
			c.trustBundle(s.ClusterTrustBundle, at.Child("clusterTrustBundlePEM"))
			taken(s.ClusterTrustBundle.Path, s.ClusterTrustBundle.Path)
		}
		if s.PodCertificate != nil {
			n++
			c.certificate(s.PodCertificate, at.Child("podCertificate"), taken)
		}
		if n > 1 {
			e.Forbidden(at, "may not specify more than 1 volume type")
		}
	}
}

func (c *spec) token(t *core.ServiceAccountTokenProjection, p, path *field.Path) {
	if s := t.ExpirationSeconds; s != nil {
		if *s < 10*60 {
			c.Invalid(p.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes")
		}
		if *s > 1<<32 {
			c.Invalid(p.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds")
		}
	}
	if t.Path == "" {
		c.Required(path, "")
		return
	}
	c.localPath(t.Path, path)
}

func (c *spec) trustBundle(b *core.ClusterTrustBundleProjection, p *field.Path) {
	e := &c.Errors
	switch {
	case b.Name != nil && b.SignerName != nil:
		e.Invalid(p, b, "only one of name and signerName may be used")
	case b.Name != nil:
		if *b.Name == "" {
			e.Required(p.Child("name"), "must be a valid object name")
		}
		if b.LabelSelector != nil {
			e.Invalid(p.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			e.Required(p.Child("signerName"), "must be a valid signer name")
		}
		e.Selector(p.Child("labelSelector"), b.LabelSelector)
	default:
		e.Required(p, "either name or signerName must be specified")
	}
	e.Need(p.Child("path"), b.Path)
	c.localPath(b.Path, p.Child("path"))
}
