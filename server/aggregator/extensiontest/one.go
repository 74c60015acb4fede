package extensiontest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// one answers for a single Flunder.
func (s *Server) one(w http.ResponseWriter, r *http.Request, key string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, 400, "BadRequest", err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.flunders[key]
	switch {
	case o == nil:
		_, name, _ := strings.Cut(key, "/")
		refuse(w, 404, "NotFound", fmt.Sprintf("flunders.%s %q not found", Group, name))
	case r.Method == http.MethodGet:
		answer(w, 200, o)
	case r.Method == http.MethodDelete:
		s.deleteLocked(w, key, o, body)
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/merge-patch+json":
		s.patchLocked(w, key, o, body)
	default:
		refuse(w, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
}

// deleteLocked deletes an object, at once or, in the foreground, when its finalizer is gone.
func (s *Server) deleteLocked(w http.ResponseWriter, key string, o object, body []byte) {
	var how metav1.DeleteOptions
	_ = json.Unmarshal(body, &how)
	meta := o["metadata"].(object)
	if how.Preconditions != nil && how.Preconditions.UID != nil && string(*how.Preconditions.UID) != meta["uid"] {
		refuse(w, 409, "Conflict", "the UID in the precondition does not match the UID in record")
		return
	}
	if how.PropagationPolicy != nil && *how.PropagationPolicy == metav1.DeletePropagationForeground {
		answer(w, 200, s.changeLocked(key, o, object{"finalizers": []any{metav1.FinalizerDeleteDependents}, "deletionTimestamp": time.Now().UTC().Format(time.RFC3339)}))
		return
	}
	delete(s.flunders, key)
	s.tellLocked("DELETED", o)
	answer(w, 200, o)
}

// patchLocked merges fields of the metadata; an object being deleted goes with its last finalizer.
func (s *Server) patchLocked(w http.ResponseWriter, key string, o object, body []byte) {
	var patch struct{ Metadata object }
	if err := json.Unmarshal(body, &patch); err != nil {
		refuse(w, 400, "BadRequest", err.Error())
		return
	}
	meta := o["metadata"].(object)
	for _, name := range []string{"uid", "resourceVersion"} {
		if want, said := patch.Metadata[name]; said && want != meta[name] {
			refuse(w, 409, "Conflict", "the object has been modified")
			return
		}
	}
	next := s.changeLocked(key, o, patch.Metadata)
	its := next["metadata"].(object)
	if left, _ := its["finalizers"].([]any); its["deletionTimestamp"] != nil && len(left) == 0 {
		delete(s.flunders, key)
		s.tellLocked("DELETED", next)
	}
	answer(w, 200, next)
}

// changeLocked puts a changed copy in the object's place: watchers may still read the old one.
func (s *Server) changeLocked(key string, o, fields object) object {
	next, meta := maps.Clone(o), maps.Clone(o["metadata"].(object))
	maps.Copy(meta, fields)
	s.revision++
	meta["resourceVersion"] = strconv.Itoa(s.revision)
	next["metadata"] = meta
	s.flunders[key] = next
	s.tellLocked("MODIFIED", next)
	return next
}
