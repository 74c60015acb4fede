package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// place is which state a list reads, and from where on.
type place struct {
	// exactly is the revision of the state that is wanted, atLeast the oldest that will do; 0: the newest.
	exactly, atLeast int64
	// after is the key behind which the page starts.
	after string
	// paging: the place comes from a continue token.
	paging bool
}

// placeOf reads the options, as storage.ValidateListOptions does upstream. single is a
// list of one named object.
func placeOf(o *metav1.ListOptions, single bool) (place, error) {
	if o.Continue != "" && !single {
		rev, after, err := decodeContinue(o.Continue)
		if err != nil {
			return place{}, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
		}
		if o.ResourceVersion != "" && o.ResourceVersion != "0" {
			return place{}, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		// A negative revision is the rest, as it is now, of a list whose state is gone.
		return place{exactly: max(rev, 0), after: after, paging: true}, nil
	}
	rev, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return place{}, err
	}
	legacy := o.ResourceVersionMatch == "" && o.Limit > 0 && !single
	if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact || legacy {
		return place{exactly: rev}, nil
	}
	return place{atLeast: rev}, nil
}

// tokenVersion is the one layout of continue tokens that there is.
const tokenVersion = "meta.k8s.io/v1"

// continueToken is opaque to clients; its layout is upstream's.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

// What is wrong with a token, in upstream's words.
var (
	errToken        = errors.New("continue key is not valid")
	errTokenStart   = errors.New("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	errTokenEmpty   = errors.New("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	errTokenVersion = errors.New("continue key is not valid: server does not recognize this encoded version")
)

func encodeContinue(revision int64, after string) string {
	b, _ := json.Marshal(continueToken{tokenVersion, revision, after + "\x00"}) // strings and a number: cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodeContinue(s string) (revision int64, after string, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return 0, "", fmt.Errorf("%w: %w", errToken, err)
	}
	var t continueToken
	if err := json.Unmarshal(b, &t); err != nil {
		return 0, "", fmt.Errorf("%w: %w", errToken, err)
	}
	key := "/" + strings.TrimPrefix(t.Start, "/")
	switch {
	case t.Version != tokenVersion:
		return 0, "", fmt.Errorf("%w %v", errTokenVersion, t.Version)
	case t.Revision == 0:
		return 0, "", errTokenStart
	case t.Start == "":
		return 0, "", errTokenEmpty
	case path.Clean(key) != key: // it must not lead out of the kind's own keys
		return 0, "", fmt.Errorf("%w: %v", errToken, t.Start)
	}
	after, ok := strings.CutSuffix(t.Start, "\x00")
	if !ok { // all that we hand out end so
		return 0, "", fmt.Errorf("%w: %v", errToken, t.Start)
	}
	return t.Revision, after, nil
}
