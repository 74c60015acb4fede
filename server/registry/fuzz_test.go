package registry

import (
	"context"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/api"
)

// FuzzContinue: a token is either refused, or says what encodeContinue would make of it.
func FuzzContinue(f *testing.F) {
	for _, s := range []string{encodeContinue(7, "default/a"), encodeContinue(-1, "a"), "e30", "!", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9hXHUwMDAwIn0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rev, after, err := decodeContinue(s)
		if err != nil {
			return
		}
		again, key, err := decodeContinue(encodeContinue(rev, after))
		if err != nil || again != rev || key != after {
			t.Errorf("%q: %d %q became %d %q, %v", s, rev, after, again, key, err)
		}
	})
}

// FuzzList: no options of a list are answered with a server error.
func FuzzList(f *testing.F) {
	f.Add("a=b", "metadata.name=c1", encodeContinue(1, "default/c0"), "1", "Exact", int64(2))
	f.Add("!a,b notin (c,d), e", "metadata.namespace!=default", "", "0", "NotOlderThan", int64(0))
	f.Add("a in (x", `metadata.name=a\,b`, "", "18446744073709551616", "", int64(-1))
	b := start(f)
	for _, name := range []string{"c0", "c1", "c2"} {
		b.createMap(configMap(name, "k", name))
	}
	f.Fuzz(func(t *testing.T, label, fields, token, version, match string, limit int64) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // a revision of the future is waited for
		defer cancel()
		_, err := b.List(ctx, req(api.ConfigMaps, ""), metav1.ListOptions{LabelSelector: label, FieldSelector: fields, Continue: token,
			ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatch(match), Limit: limit})
		if code := apierrors.ReasonForError(err); code == metav1.StatusReasonInternalError || err != nil && code == metav1.StatusReasonUnknown {
			t.Errorf("%s: %v", code, err)
		}
	})
}
