package securereg

// #include "shim.h"
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// Sealed is one file of a promoted model in sealed memory (a memfd), which nobody can change any more. It takes as much
// memory as the file is large until it is closed. It outlives a quarantine: watch [Events].
//
// Once its bytes, its descriptor or its path were asked for, nothing closes it but Close: the garbage collector cannot
// know who still uses them.
type Sealed struct {
	h       C.securereg_sealed
	fd      int
	path    string
	cleanup runtime.Cleanup
}

// OpenSealed puts the file at path inside the promoted model name into sealed memory and hashes all of it; "" is its only
// one. One content is one memory in a process, however often it is opened.
func (r *Registry) OpenSealed(ctx context.Context, name, path string) (*Sealed, error) {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName, cPath := w.text("the name", name), w.optional("the path", path)
	if w.err != nil {
		return nil, w.err
	}
	var h C.securereg_sealed
	taken := false
	// Also when a panic of the caller's comes through.
	defer func() {
		if !taken {
			C.securereg_sealed_close(h)
		}
	}()
	err := watched(ctx, func(watch C.uintptr_t, e *C.securereg_error) C.securereg_status {
		return C.securereg_go_open_sealed(r.h, cName, cPath, watch, &h, e)
	})
	if err != nil {
		return nil, err
	}
	var cSealedPath *C.char
	err = call(func(e *C.securereg_error) C.securereg_status { return C.securereg_sealed_path(h, &cSealedPath, e) })
	if err != nil {
		return nil, err
	}
	var fd C.int
	err = call(func(e *C.securereg_error) C.securereg_status { return C.securereg_sealed_fd(h, &fd, e) })
	if err != nil {
		return nil, err
	}
	taken = true
	s := &Sealed{h: h, fd: int(fd), path: C.GoString(cSealedPath)}
	s.cleanup = runtime.AddCleanup(s, func(h C.securereg_sealed) { C.securereg_sealed_close(h) }, h)
	return s, nil
}

// Bytes is the whole file. The slice is not Go's memory: it ends with Close, touching it later ends the program, and so
// does writing to it at any time.
func (s *Sealed) Bytes() ([]byte, error) {
	defer runtime.KeepAlive(s)
	var data unsafe.Pointer
	var size C.size_t
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_sealed_map(s.h, &data, &size, e) })
	if err != nil {
		return nil, err
	}
	s.cleanup.Stop()
	return unsafe.Slice((*byte)(data), int(size)), nil
}

// Fd is the descriptor: read-only, close-on-exec. It belongs to the Sealed: do not close it, and dup it to keep it.
func (s *Sealed) Fd() int {
	s.cleanup.Stop()
	return s.fd
}

// Path opens the memory in this process, "/proc/self/fd/N": what a loader is given. It leads there until Close.
func (s *Sealed) Path() string {
	s.cleanup.Stop()
	return s.path
}

// Close ends it: the descriptor, the path and the bytes are gone with the last Sealed of this content. Mappings and
// descriptors of the caller's own stay. A second Close is [ErrClosed].
func (s *Sealed) Close() error {
	s.cleanup.Stop()
	return ended(C.securereg_sealed_close(s.h))
}
