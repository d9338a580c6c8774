package securereg

// #include "shim.h"
import "C"

import (
	"time"
	"unsafe"
)

// Model is what is recorded of a model, as it was when it was asked for.
type Model struct {
	Name       string
	SHA256     string // bare hex; of several files that of their list
	Format     string // "gguf", "safetensors", "pytorch" or "onnx"
	Layout     string // "file", "folder" or "split"
	Source     string // where it came from, in the promoter's words
	PromotedAt time.Time
	SizeBytes  uint64      // the sum of its files
	Files      []ModelFile // at least one, sorted by path
	Quarantine *Quarantine // nil when it is served
}

// ModelFile is one file of a model.
type ModelFile struct {
	Path      string // inside the model; of a single file its name
	SHA256    string
	BLAKE3    string
	SizeBytes uint64
}

// Quarantine is why a model is not served.
type Quarantine struct {
	Reason     string
	Cause      string // who decides over its release: "integrity" or "incident"
	IncidentID string // empty when none was named
}

// takeModel copies the model that a call gives.
func takeModel(f func(*C.securereg_model, *C.securereg_error) C.securereg_status) (Model, error) {
	var h C.securereg_model
	if err := call(func(e *C.securereg_error) C.securereg_status { return f(&h, e) }); err != nil {
		return Model{}, err
	}
	defer C.securereg_model_free(h)
	return modelOf(h)
}

func infoOf(h C.securereg_model) (C.securereg_model_info, error) {
	var info C.securereg_model_info
	info.size = C.size_t(unsafe.Sizeof(info))
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_model_get(h, &info, e) })
	return info, err
}

func modelOf(h C.securereg_model) (Model, error) {
	info, err := infoOf(h)
	if err != nil {
		return Model{}, err
	}
	model := Model{
		Name:      C.GoString(info.name),
		SHA256:    C.GoString(info.sha256),
		Format:    C.GoString(info.format),
		Layout:    C.GoString(info.layout),
		Source:    C.GoString(info.source),
		SizeBytes: uint64(info.size_bytes),
	}
	if model.PromotedAt, err = time.Parse(time.RFC3339, C.GoString(info.promoted_at)); err != nil {
		return Model{}, err
	}
	if info.status != C.SECUREREG_MODEL_PROMOTED {
		model.Quarantine = &Quarantine{
			Reason:     C.GoString(info.quarantine_reason),
			Cause:      C.GoString(info.quarantine_cause),
			IncidentID: C.GoString(info.incident_id),
		}
	}
	for at := C.uint64_t(0); at < info.file_count; at++ {
		var file C.securereg_file_info
		file.size = C.size_t(unsafe.Sizeof(file))
		err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_model_file(h, at, &file, e) })
		if err != nil {
			return Model{}, err
		}
		model.Files = append(model.Files, ModelFile{
			Path:      C.GoString(file.path),
			SHA256:    C.GoString(file.sha256),
			BLAKE3:    C.GoString(file.blake3),
			SizeBytes: uint64(file.size_bytes),
		})
	}
	return model, nil
}

// digest is a model's SHA-256 this moment.
func (r *Registry) digest(name string) (string, error) {
	var w words
	defer w.free()
	cName := w.text("the name", name)
	if w.err != nil {
		return "", w.err
	}
	var h C.securereg_model
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_lookup(r.h, cName, &h, e) })
	if err != nil {
		return "", err
	}
	defer C.securereg_model_free(h)
	info, err := infoOf(h)
	return C.GoString(info.sha256), err
}
