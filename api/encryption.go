package api

// PathEncryption shows (GET) and changes (POST of an EncryptionAction) how Secrets are
// kept in the store. It is behind authorization, as a path that is no resource.
const PathEncryption = "/orch/v1/secrets-encryption"

// EncryptionAction is what `orch secrets-encrypt` asks for.
type EncryptionAction struct {
	// Action is prepare, rotate, rotate-keys, reencrypt, enable or disable.
	Action string `json:"action"`
}

// EncryptionStatus says how Secrets are kept.
type EncryptionStatus struct {
	Enabled bool `json:"enabled"`
	// File is the user's EncryptionConfiguration where that decides about Secrets.
	File string `json:"file,omitempty"`
	// Stage is k3s' word: reencrypt_finished, prepare, rotate, reencrypt_active.
	Stage string          `json:"stage"`
	Keys  []EncryptionKey `json:"keys,omitempty"`
	// Running tells that objects are being rewritten; Progress is of the last time.
	Running  bool                 `json:"running,omitempty"`
	Progress []EncryptionProgress `json:"progress,omitempty"`
	// Error is why the last rewriting did not come to its end.
	Error string `json:"error,omitempty"`
}

// EncryptionKey names a key; it never carries it.
type EncryptionKey struct {
	Name     string `json:"name"`
	Provider string `json:"provider"`
	// Active is the key that is written with.
	Active bool `json:"active,omitempty"`
}

// EncryptionProgress is one line of the answer to an EncryptionAction.
type EncryptionProgress struct {
	Resource string `json:"resource,omitempty"`
	Done     int    `json:"done,omitempty"`
	Changed  int    `json:"changed,omitempty"`
	Failed   int    `json:"failed,omitempty"`
	// Finished and Error are on the last line.
	Finished bool   `json:"finished,omitempty"`
	Error    string `json:"error,omitempty"`
}
