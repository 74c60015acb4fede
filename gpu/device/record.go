package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// RecordingVersion is the version of the form below. It goes up when a reader of the
// old form would misread the new one; added fields do not count.
const RecordingVersion = 1

// maxRecordingBytes bounds what ReadRecording takes: 16 cards with all profiles are 200 kB.
const maxRecordingBytes = 16 << 20

// Recording is a machine as it answered at one time: what `orch gpu record` writes, a
// bug report carries, and gpu/fakenvml plays.
type Recording struct {
	Version int `json:"version"`
	// Taken is RFC 3339; By the version of orch; Note what a person said about it.
	Taken     string    `json:"taken,omitempty"`
	By        string    `json:"by,omitempty"`
	Note      string    `json:"note,omitempty"`
	Machine   Machine   `json:"machine"`
	Figures   []Figures `json:"figures,omitempty"`
	Processes []Process `json:"processes,omitempty"`
	// Events are the last ones seen, oldest first.
	Events []Event `json:"events,omitempty"`
}

// ReadRecording reads one recording and refuses what this version does not know.
func ReadRecording(r io.Reader) (Recording, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxRecordingBytes+1))
	if err != nil {
		return Recording{}, fmt.Errorf("reading a recording: %w", err)
	}
	if len(b) > maxRecordingBytes {
		return Recording{}, fmt.Errorf("reading a recording: it is larger than %d bytes", maxRecordingBytes)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Recording{}, fmt.Errorf("reading a recording: %w", err)
	}
	if head.Version < 1 || head.Version > RecordingVersion {
		return Recording{}, fmt.Errorf("reading a recording: its version is %d, this orch reads up to %d", head.Version, RecordingVersion)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var rec Recording
	if err := dec.Decode(&rec); err != nil {
		return Recording{}, fmt.Errorf("reading a recording: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Recording{}, errors.New("reading a recording: something follows it")
	}
	rec.Machine.Sort()
	return rec, nil
}

// WriteTo writes the recording, indented, with a newline at its end.
func (r Recording) WriteTo(w io.Writer) (int64, error) {
	r.Version = RecordingVersion
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return 0, fmt.Errorf("writing a recording: %w", err)
	}
	n, err := w.Write(append(b, '\n'))
	return int64(n), err
}
