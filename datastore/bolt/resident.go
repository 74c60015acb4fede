package bolt

import (
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// forgetEvery is how many bytes are written between two calls of forgetPages.
const forgetEvery = 16 << 20

// forgetPages takes the file's mapped pages out of this process. They stay in the
// page cache, from where a read maps them again; without it, every page ever looked
// at counts as ours until the end.
func (w *writer) forgetPages() {
	w.unforgotten = 0
	err := w.db.View(func(*bbolt.Tx) error { // keeps the map where it is
		st, err := os.Stat(w.cfg.Path)
		if err != nil {
			return err
		}
		length := uintptr(st.Size()) &^ uintptr(w.db.Info().PageSize-1)
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, w.db.Info().Data, length, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		w.cfg.Log.Debug("giving mapped pages of the datastore back failed", "err", err)
	}
}

// wrote counts towards the next forgetPages.
func (w *writer) wrote(bytes int) {
	if w.unforgotten += bytes; w.unforgotten >= forgetEvery {
		w.forgetPages()
	}
}
