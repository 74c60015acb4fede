package podspec

import (
	"fmt"
	"net"
	"path"
	"regexp"
	"strings"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/validate/rule"
)

// vendor is a volume source of a storage vendor: deprecated, still in the API.
type vendor struct {
	name  string
	check func(p *field.Path) field.ErrorList
}

func need(p *field.Path, name, value string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(p.Child(name), "")}
	}
	return nil
}

// needs makes a check that the named fields are not empty.
func needs(pairs ...string) func(p *field.Path) field.ErrorList {
	return func(p *field.Path) field.ErrorList {
		var e rule.Errors
		for i := 0; i < len(pairs); i += 2 {
			e.Join(need(p, pairs[i], pairs[i+1]))
		}
		return e.List()
	}
}

// vendors lists the vendor sources that are set.
func vendors(s *core.VolumeSource) []vendor {
	var out []vendor
	add := func(set bool, name string, check func() func(p *field.Path) field.ErrorList) {
		if set {
			out = append(out, vendor{name, check()})
		}
	}
	type check = func(p *field.Path) field.ErrorList
	add(s.GCEPersistentDisk != nil, "gcePersistentDisk", func() check { return partition("pdName", s.GCEPersistentDisk.PDName, s.GCEPersistentDisk.Partition) })
	add(s.AWSElasticBlockStore != nil, "awsElasticBlockStore", func() check {
		return partition("volumeID", s.AWSElasticBlockStore.VolumeID, s.AWSElasticBlockStore.Partition)
	})
	add(s.NFS != nil, "nfs", func() check { return func(p *field.Path) field.ErrorList { return NFS(s.NFS, p) } })
	add(s.ISCSI != nil, "iscsi", func() check { return iscsi(s.ISCSI.TargetPortal, s.ISCSI.IQN, s.ISCSI.Lun) })
	add(s.Glusterfs != nil, "glusterfs", func() check { return needs("endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path) })
	add(s.Flocker != nil, "flocker", func() check { return func(p *field.Path) field.ErrorList { return Flocker(s.Flocker, p) } })
	add(s.RBD != nil, "rbd", func() check { return needs("monitors", strings.Join(s.RBD.CephMonitors, ","), "image", s.RBD.RBDImage) })
	add(s.Cinder != nil, "cinder", func() check { return needs("volumeID", s.Cinder.VolumeID) })
	add(s.CephFS != nil, "cephfs", func() check { return needs("monitors", strings.Join(s.CephFS.Monitors, ",")) })
	add(s.Quobyte != nil, "quobyte", func() check { return func(p *field.Path) field.ErrorList { return Quobyte(s.Quobyte, p) } })
	add(s.FC != nil, "fc", func() check { return func(p *field.Path) field.ErrorList { return FC(s.FC, p) } })
	add(s.FlexVolume != nil, "flexVolume", func() check {
		return func(p *field.Path) field.ErrorList { return Flex(s.FlexVolume.Driver, s.FlexVolume.Options, p) }
	})
	add(s.AzureFile != nil, "azureFile", func() check { return needs("secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName) })
	add(s.VsphereVolume != nil, "vsphereVolume", func() check { return needs("volumePath", s.VsphereVolume.VolumePath) })
	add(s.PhotonPersistentDisk != nil, "photonPersistentDisk", func() check { return needs("pdID", s.PhotonPersistentDisk.PdID) })
	add(s.PortworxVolume != nil, "portworxVolume", func() check { return needs("volumeID", s.PortworxVolume.VolumeID) })
	add(s.AzureDisk != nil, "azureDisk", func() check { return func(p *field.Path) field.ErrorList { return AzureDisk(s.AzureDisk, p) } })
	add(s.StorageOS != nil, "storageos", func() check { return needs("volumeName", s.StorageOS.VolumeName) })
	add(s.ScaleIO != nil, "scaleIO", func() check {
		return needs("gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
	})
	return out
}

func partition(name, value string, number int32) func(p *field.Path) field.ErrorList {
	return func(p *field.Path) field.ErrorList {
		var e rule.Errors
		e.Need(p.Child(name), value)
		if number < 0 || number > 255 {
			e.Invalid(p.Child("partition"), number, "must be between 1 and 255, inclusive")
		}
		return e.List()
	}
}

// HostPath checks a path of the host.
func HostPath(v *core.HostPathVolumeSource, p *field.Path) field.ErrorList {
	c := &spec{}
	if v.Path == "" {
		return need(p, "path", v.Path)
	}
	c.noBacksteps(v.Path, p.Child("path"))
	if v.Type != nil {
		rule.Among(&c.Errors, p.Child("type"), *v.Type, core.HostPathUnset, core.HostPathDirectoryOrCreate, core.HostPathDirectory, core.HostPathFileOrCreate,
			core.HostPathFile, core.HostPathSocket, core.HostPathCharDev, core.HostPathBlockDev)
	}
	return c.List()
}

// NFS checks a share.
func NFS(v *core.NFSVolumeSource, p *field.Path) field.ErrorList {
	var e rule.Errors
	e.Need(p.Child("server"), v.Server)
	e.Need(p.Child("path"), v.Path)
	if !path.IsAbs(v.Path) {
		e.Invalid(p.Child("path"), v.Path, "must be an absolute path")
	}
	return e.List()
}

var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

// ISCSI checks a target of a persistent volume.
func ISCSI(v *core.ISCSIPersistentVolumeSource, p *field.Path) field.ErrorList {
	return iscsi(v.TargetPortal, v.IQN, v.Lun)(p)
}

func iscsi(portal, iqn string, lun int32) func(p *field.Path) field.ErrorList {
	return func(p *field.Path) field.ErrorList {
		var e rule.Errors
		e.Need(p.Child("targetPortal"), portal)
		form := iscsiNames[iqn[:min(3, len(iqn))]]
		switch {
		case iqn == "":
			e.Required(p.Child("iqn"), "")
		case form == nil:
			e.Invalid(p.Child("iqn"), iqn, "must be valid format starting with iqn, eui, or naa")
		case !form.MatchString(iqn):
			e.Invalid(p.Child("iqn"), iqn, "must be valid format")
		}
		e.Range(p.Child("lun"), int64(lun), 0, 255)
		return e.List()
	}
}

// FC checks a fibre channel target.
func FC(v *core.FCVolumeSource, p *field.Path) field.ErrorList {
	var e rule.Errors
	if len(v.TargetWWNs) == 0 && len(v.WWIDs) == 0 {
		e.Required(p.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
	}
	if len(v.TargetWWNs) > 0 && len(v.WWIDs) > 0 {
		e.Invalid(p.Child("targetWWNs"), v.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if len(v.TargetWWNs) > 0 {
		if v.Lun == nil {
			e.Required(p.Child("lun"), "lun is required if targetWWNs is specified")
		} else {
			e.Range(p.Child("lun"), int64(*v.Lun), 0, 255)
		}
	}
	return e.List()
}

// Flocker checks a data set.
func Flocker(v *core.FlockerVolumeSource, p *field.Path) field.ErrorList {
	var e rule.Errors
	if v.DatasetName == "" && v.DatasetUUID == "" {
		e.Required(p, "one of datasetName and datasetUUID is required")
	}
	if v.DatasetName != "" && v.DatasetUUID != "" {
		e.Invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(v.DatasetName, "/") {
		e.Invalid(p.Child("datasetName"), v.DatasetName, "must not contain '/'")
	}
	return e.List()
}

// Quobyte checks a volume and its registry.
func Quobyte(v *core.QuobyteVolumeSource, p *field.Path) field.ErrorList {
	const form = "must be a host:port pair or multiple pairs separated by commas"
	var e rule.Errors
	if v.Registry == "" {
		e.Required(p.Child("registry"), form)
	} else {
		for _, pair := range strings.Split(v.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				e.Invalid(p.Child("registry"), v.Registry, form)
			}
		}
	}
	e.Need(p.Child("volume"), v.Volume)
	return e.List()
}

// Flex checks a flex volume's driver and options.
func Flex(driver string, options map[string]string, p *field.Path) field.ErrorList {
	var e rule.Errors
	e.Need(p.Child("driver"), driver)
	for k := range options {
		domain, _, _ := strings.Cut(k, "/")
		if d := "." + strings.ToLower(domain); strings.HasSuffix(d, ".kubernetes.io") || strings.HasSuffix(d, ".k8s.io") {
			e.Invalid(p.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
	return e.List()
}

// AzureDisk checks a disk.
func AzureDisk(v *core.AzureDiskVolumeSource, p *field.Path) field.ErrorList {
	var e rule.Errors
	e.Need(p.Child("diskName"), v.DiskName)
	e.Need(p.Child("diskURI"), v.DataDiskURI)
	if v.CachingMode != nil {
		rule.Among(&e, p.Child("cachingMode"), *v.CachingMode, core.AzureDataDiskCachingNone, core.AzureDataDiskCachingReadOnly, core.AzureDataDiskCachingReadWrite)
	}
	if v.Kind != nil {
		rule.Among(&e, p.Child("kind"), *v.Kind, core.AzureSharedBlobDisk, core.AzureDedicatedBlobDisk, core.AzureManagedDisk)
		managed := *v.Kind == core.AzureManagedDisk
		prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
		if managed {
			prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
		}
		if !strings.HasPrefix(v.DataDiskURI, prefix) {
			e.Add(field.NotSupported(p.Child("diskURI"), v.DataDiskURI, []string{form}))
		}
	}
	return e.List()
}

var csiName = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?$`)

// CSIDriverName checks the name of a storage driver.
func CSIDriverName(name string, p *field.Path) field.ErrorList {
	const longest = 63
	var e rule.Errors
	if name == "" {
		e.Required(p, "")
		return e.List()
	}
	if len(name) > longest {
		e.Add(field.TooLong(p, "", longest))
	}
	e.DNSSubdomain(p, strings.ToLower(name))
	if e.Len() == 0 && !csiName.MatchString(name) {
		e.Invalid(p, name, fmt.Sprintf("must match %s", csiName))
	}
	return e.List()
}
