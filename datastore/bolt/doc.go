// Package bolt keeps the cluster's state in one bbolt file.
//
// Layout, version 1. Every version of every key is one record, appended in
// revision order, so that a commit dirties the end of one B+tree only:
//
//	meta
//	├── version    uint64   layout version; a newer one is refused
//	├── ceiling    uint64   no revision above it has been given out
//	└── compacted  uint64   history at or below it is gone
//	records
//	└── <revision uint64><index uint32>   -> record (see record.go)
//
// Which record is a key's newest is known by an index in memory, built at Open by
// one pass over the records; that pass checks every record's checksum.
//
// One goroutine (writer.go) owns all writing. It takes whatever commits wait,
// checks each against the newest state, and makes all of them durable with one
// bbolt transaction: group commit. Lazy commits stay in memory, visible, until the next
// durable commit or FlushAfter; the ceiling on disk is always ahead of the
// revisions they were given, so a crash never gives one out twice.
//
// To change the layout: add a version, a migration in open.go, and a fixture.
package bolt
