package securereg

// #cgo pkg-config: securereg
// #include "shim.h"
import "C"

import (
	"context"
	"encoding/json"
	"runtime"
	"unsafe"
)

// Options say how a registry is opened. Without any, nothing is written to it, not even a lock file.
type Options struct {
	Write  bool // change what is there, too
	Create bool // make the registry where there is none; includes Write
}

// Registry is an open registry.
type Registry struct {
	h       C.securereg_registry
	cleanup runtime.Cleanup
}

// Open opens the registry at the folder root; "" is /var/lib/secure-ai/registry for root and
// $XDG_DATA_HOME/securereg/registry for anyone else.
func Open(root string, options Options) (*Registry, error) {
	var w words
	defer w.free()
	cRoot := w.optional("the root", root)
	if w.err != nil {
		return nil, w.err
	}
	var c C.securereg_open_options
	c.size = C.size_t(unsafe.Sizeof(c))
	if options.Write || options.Create {
		c.flags |= C.SECUREREG_OPEN_WRITE
	}
	if options.Create {
		c.flags |= C.SECUREREG_OPEN_CREATE
	}
	var h C.securereg_registry
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_open(cRoot, &c, &h, e) })
	if err != nil {
		return nil, err
	}
	r := &Registry{h: h}
	r.cleanup = runtime.AddCleanup(r, func(h C.securereg_registry) { C.securereg_close(h) }, h)
	return r, nil
}

// Close closes the registry. What was opened from it stays open, and calls of this moment finish. A second Close is
// [ErrClosed].
func (r *Registry) Close() error {
	r.cleanup.Stop()
	return ended(C.securereg_close(r.h))
}

// Generation counts up with each change, by whatever process.
func (r *Registry) Generation() (uint64, error) {
	defer runtime.KeepAlive(r)
	var out C.uint64_t
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_generation(r.h, &out, e) })
	return uint64(out), err
}

// Models lists all models, quarantined ones too, sorted by name, as they are this moment.
func (r *Registry) Models() ([]Model, error) {
	defer runtime.KeepAlive(r)
	var list C.securereg_list
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_list_models(r.h, &list, e) })
	if err != nil {
		return nil, err
	}
	defer C.securereg_list_free(list)
	var count C.uint64_t
	err = call(func(e *C.securereg_error) C.securereg_status { return C.securereg_list_count(list, &count, e) })
	if err != nil {
		return nil, err
	}
	models := make([]Model, 0, count)
	for at := C.uint64_t(0); at < count; at++ {
		model, err := takeModel(func(out *C.securereg_model, e *C.securereg_error) C.securereg_status {
			return C.securereg_list_at(list, at, out, e)
		})
		if err != nil {
			return nil, err
		}
		models = append(models, model)
	}
	return models, nil
}

// Lookup gives the model of this name, quarantined or not, as it is this moment.
func (r *Registry) Lookup(name string) (Model, error) {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName := w.text("the name", name)
	if w.err != nil {
		return Model{}, w.err
	}
	return takeModel(func(out *C.securereg_model, e *C.securereg_error) C.securereg_status {
		return C.securereg_lookup(r.h, cName, out, e)
	})
}

// Describe gives everything that is recorded of a model, as the JSON of the HTTP API.
func (r *Registry) Describe(name string) (json.RawMessage, error) {
	text, err := r.textOf(name, func(cName *C.char, out *C.securereg_text, e *C.securereg_error) C.securereg_status {
		return C.securereg_describe(r.h, cName, out, e)
	})
	return json.RawMessage(text), err
}

// MountPath tells where a live mount shows a model: its file, its folder, or the first shard of a split set.
func (r *Registry) MountPath(name string) (string, error) {
	text, err := r.textOf(name, func(cName *C.char, out *C.securereg_text, e *C.securereg_error) C.securereg_status {
		return C.securereg_mount_path(r.h, cName, out, e)
	})
	return string(text), err
}

// Integrity gives the result of the last verification of all models, by whatever process, as JSON. [ErrNotFound] when
// none has run yet.
func (r *Registry) Integrity() (json.RawMessage, error) {
	text, err := r.textOf("", func(_ *C.char, out *C.securereg_text, e *C.securereg_error) C.securereg_status {
		return C.securereg_integrity(r.h, out, e)
	})
	return json.RawMessage(text), err
}

func (r *Registry) textOf(
	name string, f func(*C.char, *C.securereg_text, *C.securereg_error) C.securereg_status,
) ([]byte, error) {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName := w.text("the name", name)
	if w.err != nil {
		return nil, w.err
	}
	var text C.securereg_text
	if err := call(func(e *C.securereg_error) C.securereg_status { return f(cName, &text, e) }); err != nil {
		return nil, err
	}
	defer C.securereg_text_free(text)
	var data *C.char
	var size C.size_t
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_text_data(text, &data, &size, e) })
	if err != nil {
		return nil, err
	}
	return copied(unsafe.Pointer(data), uint64(size)), nil
}

// copied is what C keeps elsewhere, in Go's memory.
func copied(data unsafe.Pointer, size uint64) []byte {
	return append([]byte{}, unsafe.Slice((*byte)(data), size)...)
}

// PromoteOptions are what is claimed of a source, and how it is taken in. What is empty claims nothing.
type PromoteOptions struct {
	SHA256    string          // it must have: 64 hex digits, of several files that of their list
	Format    string          // it must have: "gguf", "safetensors", "pytorch" or "onnx"
	Filename  string          // in the mount, for a single file
	Source    string          // where it came from, in words
	Evidence  json.RawMessage // a JSON object that is kept with it as it is
	SizeBytes uint64          // it must have
	Move      bool            // the source is given away
}

// Outcome is what a promotion did to its name.
type Outcome uint32

const (
	Promoted     Outcome = C.SECUREREG_OUTCOME_PROMOTED      // the name is new
	AlreadyThere Outcome = C.SECUREREG_OUTCOME_ALREADY_THERE // the name already stood for these very bytes
	Moved        Outcome = C.SECUREREG_OUTCOME_MOVED         // a tag points to new content, or damaged bytes were replaced
)

// Method is how a promotion took the bytes in.
type Method uint32

const (
	Shared    Method = C.SECUREREG_METHOD_SHARED    // they were there already
	Adopted   Method = C.SECUREREG_METHOD_ADOPTED   // the source's own file was taken
	Reflinked Method = C.SECUREREG_METHOD_REFLINKED // the file system shares the blocks
	Copied    Method = C.SECUREREG_METHOD_COPIED    // the bytes were copied
)

// Promotion is what a promotion did.
type Promotion struct {
	Model   Model
	Outcome Outcome
	Method  Method
}

// Promote takes the file, folder or first shard at path in as the model name. It is synced to disk when this returns.
func (r *Registry) Promote(ctx context.Context, path, name string, options PromoteOptions) (Promotion, error) {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cPath, cName := w.text("the path", path), w.text("the name", name)
	var flags C.uint32_t
	if options.Move {
		flags = C.SECUREREG_PROMOTE_MOVE
	}
	c := C.securereg_go_options(w.optional("SHA256", options.SHA256), w.optional("Format", options.Format),
		w.optional("Filename", options.Filename), w.optional("Source", options.Source),
		w.optional("Evidence", string(options.Evidence)), C.uint64_t(options.SizeBytes), flags)
	if w.err != nil {
		return Promotion{}, w.err
	}
	var result C.securereg_promotion
	result.size = C.size_t(unsafe.Sizeof(result))
	var out C.securereg_model
	// Also when a panic of the caller's comes through.
	defer func() { C.securereg_model_free(out) }()
	err := watched(ctx, func(watch C.uintptr_t, e *C.securereg_error) C.securereg_status {
		return C.securereg_go_promote(r.h, cPath, cName, &c, watch, &result, &out, e)
	})
	if err != nil {
		return Promotion{}, err
	}
	model, err := modelOf(out)
	return Promotion{Model: model, Outcome: Outcome(result.outcome), Method: Method(result.method)}, err
}

// Verify hashes every byte of a model, from the disk. It returns nil only if all are what was promoted; that restores a
// model which integrity had quarantined.
func (r *Registry) Verify(ctx context.Context, name string) error {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName := w.text("the name", name)
	if w.err != nil {
		return w.err
	}
	return watched(ctx, func(watch C.uintptr_t, e *C.securereg_error) C.securereg_status {
		return C.securereg_go_verify(r.h, cName, watch, e)
	})
}

// VerifyAll does the same with every model. Its result is kept: see [Registry.Integrity].
func (r *Registry) VerifyAll(ctx context.Context) error {
	defer runtime.KeepAlive(r)
	return watched(ctx, func(watch C.uintptr_t, e *C.securereg_error) C.securereg_status {
		return C.securereg_go_verify_all(r.h, watch, e)
	})
}

// Quarantine takes a model out of service, everywhere; only [Registry.Release] brings it back. incidentID may be empty.
// Sealed memory stays as it is.
func (r *Registry) Quarantine(name, reason, incidentID string) error {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName, cReason := w.text("the name", name), w.text("the reason", reason)
	cIncident := w.optional("the incident", incidentID)
	if w.err != nil {
		return w.err
	}
	return call(func(e *C.securereg_error) C.securereg_status {
		return C.securereg_quarantine(r.h, cName, cReason, cIncident, e)
	})
}

// Release verifies a model and, if every byte is good, lifts its quarantine, whoever put it.
func (r *Registry) Release(ctx context.Context, name, reason string) error {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName, cReason := w.text("the name", name), w.text("the reason", reason)
	if w.err != nil {
		return w.err
	}
	return watched(ctx, func(watch C.uintptr_t, e *C.securereg_error) C.securereg_status {
		return C.securereg_go_release(r.h, cName, cReason, watch, e)
	})
}

// Delete removes a model, and the bytes that no other holds. What is open stays readable, and verified.
func (r *Registry) Delete(name string) error {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName := w.text("the name", name)
	if w.err != nil {
		return w.err
	}
	return call(func(e *C.securereg_error) C.securereg_status { return C.securereg_delete(r.h, cName, e) })
}
