package stream

import (
	"net/http"
	"os"
)

// hostLogs shows the files and folders of HostLogs, and nothing that links in it lead out to: pods may
// have been given a part of it to write.
func (h *Handler) hostLogs(w http.ResponseWriter, r *http.Request) error {
	root, err := os.OpenRoot(h.HostLogs)
	if err != nil {
		return refusef(http.StatusNotFound, "%v", err)
	}
	defer root.Close()
	http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
	return nil
}
