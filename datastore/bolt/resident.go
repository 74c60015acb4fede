package bolt

import (
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
	err := w.db.View(func(tx *bbolt.Tx) error { // keeps the map where it is
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, w.db.Info().Data, mapped(tx), unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		w.cfg.Log.Debug("giving mapped pages of the datastore back failed", "err", err)
	}
}

// mapped is how many bytes are certainly within the map: the pages that a transaction may
// look at. The file itself may be longer than the map, by what bbolt has grown it ahead; behind the
// map lies other memory of this process, which DONTNEED would wipe.
func mapped(tx *bbolt.Tx) uintptr { return uintptr(tx.Size()) }

// wrote counts towards the next forgetPages.
func (w *writer) wrote(bytes int) {
	if w.unforgotten += bytes; w.unforgotten >= forgetEvery {
		w.forgetPages()
	}
}
