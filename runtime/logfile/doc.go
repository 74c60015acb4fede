// Package logfile writes and reads container logs in the CRI format that
// kubectl, fluent-bit and others know:
//
//	2006-01-02T15:04:05.999999999Z stdout F a whole line
//	2006-01-02T15:04:05.999999999Z stderr P the first part of a very long li
//
// A Writer owns one log (…/0.log) and rotates it by size, as the kubelet does:
// the full file becomes 0.log.<time>, all but the newest of those are gzipped, and
// the oldest go. Read prints a log: tail, since, limit, follow; it survives
// rotation under it and the torn last line of a power cut.
//
// It refuses to know containers: paths and streams come in. Start at Writer.
package logfile

import (
	"bytes"
	"time"
)

// Streams of a container.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// maxRecordBytes is the most content of one record; a longer line is written
// as several with the tag P, as container runtimes do.
const maxRecordBytes = 16 << 10

const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// record is one line of a log file, taken apart.
type record struct {
	time    time.Time
	stream  string
	partial bool
	content []byte // without the newline
}

// parse takes a line without its newline apart. ok is false for what is no
// record (a torn line).
func parse(line []byte) (r record, ok bool) {
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return record{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return record{}, false
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return record{}, false
	}
	switch string(stream) {
	case Stdout:
		r.stream = Stdout
	case Stderr:
		r.stream = Stderr
	default:
		return record{}, false
	}
	tag, content, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return record{}, false
	}
	// Tags may be a list (F:x); only the first says partial or full.
	first, _, _ := bytes.Cut(tag, []byte{':'})
	r.time, r.partial, r.content = t, string(first) == "P", content
	return r, true
}

// appendRecord adds one record to b.
func appendRecord(b []byte, at time.Time, stream string, partial bool, content []byte) []byte {
	b = at.UTC().AppendFormat(b, timeFormat)
	b = append(b, ' ')
	b = append(b, stream...)
	if partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, content...)
	return append(b, '\n')
}
