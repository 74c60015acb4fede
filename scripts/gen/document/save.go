package document

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// save replaces the folder's documents: NAME.json.zst and NAME.pb.zst, with / in
// a name written as __, and index.json, which maps each name to its hash.
func save(out string, v2 *spec.Swagger, v3 map[string]*spec3.OpenAPI) error {
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	index := map[string]string{}
	data, err := v2.MarshalJSON()
	if err != nil {
		return err
	}
	doc, err := openapi_v2.ParseDocument(data)
	if err != nil {
		return fmt.Errorf("converting version 2: %w", err)
	}
	if err := savePair(out, "v2", data, doc, data); err != nil {
		return err
	}
	index["v2"] = hash(data)
	base := data
	for key, d := range v3 {
		data, err := d.MarshalJSON()
		if err != nil {
			return err
		}
		doc, err := openapi_v3.ParseDocument(data)
		if err != nil {
			return fmt.Errorf("converting %s: %w", key, err)
		}
		name := "v3/" + key
		if err := savePair(out, name, data, doc, base); err != nil {
			return err
		}
		index[name] = hash(data)
	}
	text, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "index.json"), append(text, '\n'), 0o644)
}

// savePair packs all but the base itself with the base as their dictionary, as
// server/rest/openapi reads them.
func savePair(out, name string, data []byte, doc proto.Message, base []byte) error {
	pb, err := proto.MarshalOptions{Deterministic: true}.Marshal(doc)
	if err != nil {
		return err
	}
	file := filepath.Join(out, strings.ReplaceAll(name, "/", "__"))
	if err := compress(file+".json.zst", data, base); err != nil {
		return err
	}
	return compress(file+".pb.zst", pb, base)
}

func compress(file string, data, base []byte) error {
	options := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8 << 20)}
	if &data[0] != &base[0] {
		options = append(options, zstd.WithEncoderDictRaw(1, base))
	}
	enc, err := zstd.NewWriter(nil, options...)
	if err != nil {
		return err
	}
	return os.WriteFile(file, enc.EncodeAll(data, nil), 0o644)
}

// hash is what ETags and the index's URLs carry.
func hash(data []byte) string { return fmt.Sprintf("%X", sha256.Sum256(data)) }
