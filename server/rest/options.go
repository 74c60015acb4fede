package rest

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"orch/server/rest/wire"
)

// params reads typed query parameters; the first that cannot be read is its err.
type params struct {
	url.Values
	err error
}

func (p *params) bool(name string) bool {
	return truth(p.Values, name)
}

// truth reads a boolean parameter as upstream does: present, and neither false nor 0.
func truth(query url.Values, name string) bool {
	list := query[name]
	return len(list) > 0 && list[0] != "0" && !strings.EqualFold(list[0], "false")
}

func (p *params) boolPtr(name string) *bool {
	if _, ok := p.Values[name]; !ok {
		return nil
	}
	return new(p.bool(name))
}

func (p *params) intPtr(name string) *int64 {
	list, ok := p.Values[name]
	if !ok || len(list) == 0 || list[0] == "" {
		return nil
	}
	n, err := strconv.ParseInt(list[0], 10, 64)
	if err != nil && p.err == nil {
		p.err = apierrors.NewBadRequest(err.Error())
	}
	return &n
}

func (p *params) int(name string) int64 {
	if n := p.intPtr(name); n != nil {
		return *n
	}
	return 0
}

func (p *params) time(name string) *metav1.Time {
	text := p.Get(name)
	if text == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil && p.err == nil {
		p.err = apierrors.NewBadRequest(err.Error())
	}
	return new(metav1.NewTime(t))
}

func listOptions(query url.Values) (metav1.ListOptions, error) {
	if query == nil {
		return metav1.ListOptions{}, nil
	}
	p := params{Values: query}
	o := metav1.ListOptions{
		LabelSelector: p.Get("labelSelector"), FieldSelector: p.Get("fieldSelector"),
		Watch: p.bool("watch"), AllowWatchBookmarks: p.bool("allowWatchBookmarks"),
		ResourceVersion: p.Get("resourceVersion"), ResourceVersionMatch: metav1.ResourceVersionMatch(p.Get("resourceVersionMatch")),
		TimeoutSeconds: p.intPtr("timeoutSeconds"), Limit: p.int("limit"), Continue: p.Get("continue"),
		SendInitialEvents: p.boolPtr("sendInitialEvents"),
	}
	return o, p.err
}

func createOptions(query url.Values) (metav1.CreateOptions, error) {
	if query == nil {
		return metav1.CreateOptions{}, nil
	}
	o := metav1.CreateOptions{DryRun: query["dryRun"], FieldManager: query.Get("fieldManager"), FieldValidation: query.Get("fieldValidation")}
	return o, invalid("CreateOptions", validation.ValidateCreateOptions(&o))
}

func updateOptions(query url.Values) (metav1.UpdateOptions, error) {
	if query == nil {
		return metav1.UpdateOptions{}, nil
	}
	o := metav1.UpdateOptions{DryRun: query["dryRun"], FieldManager: query.Get("fieldManager"), FieldValidation: query.Get("fieldValidation")}
	return o, invalid("UpdateOptions", validation.ValidateUpdateOptions(&o))
}

func patchOptions(query url.Values, pt types.PatchType) (metav1.PatchOptions, error) {
	p := params{Values: query}
	o := metav1.PatchOptions{DryRun: query["dryRun"], Force: p.boolPtr("force"), FieldManager: query.Get("fieldManager"), FieldValidation: query.Get("fieldValidation")}
	return o, invalid("PatchOptions", validation.ValidatePatchOptions(&o, pt))
}

// deleteOptions takes the options of a delete from its body or, without one, from
// the query.
func (s *Server) deleteOptions(q *request) (metav1.DeleteOptions, error) {
	var o metav1.DeleteOptions
	data, err := readBody(q.w, q.Request)
	if err != nil {
		return o, err
	}
	if len(data) > 0 {
		format, err := wire.BodyFormat(q.Header.Get("Content-Type"))
		if err != nil {
			return o, err
		}
		if o, err = wire.DecodeDeleteOptions(wire.Body{Data: data, Format: format}); err != nil {
			return o, err
		}
		if q.record != nil {
			q.noteBody(data, format, &o)
		}
	} else if q.query != nil {
		p := params{Values: q.query}
		o = metav1.DeleteOptions{DryRun: q.query["dryRun"], GracePeriodSeconds: p.intPtr("gracePeriodSeconds"), OrphanDependents: p.boolPtr("orphanDependents"),
			IgnoreStoreReadErrorWithClusterBreakingPotential: p.boolPtr("ignoreStoreReadErrorWithClusterBreakingPotential")}
		if policy := p.Get("propagationPolicy"); policy != "" {
			o.PropagationPolicy = new(metav1.DeletionPropagation(policy))
		}
		if p.err != nil {
			return o, p.err
		}
	}
	o.TypeMeta = metav1.TypeMeta{}
	return o, invalid("DeleteOptions", validation.ValidateDeleteOptions(&o))
}

func invalid(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// maxBody bounds every request body.
const maxBody = 3 << 20

// readBody reads a whole body within the limit; one read where its length is known.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 || r.Body == nil {
		return nil, nil
	}
	return readAll(http.MaxBytesReader(w, r.Body, maxBody), r.ContentLength)
}
