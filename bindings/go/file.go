package securereg

// #include "shim.h"
import "C"

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"unsafe"
)

// File is one file of a promoted model, open for verified reads: an io.ReaderAt for any number of goroutines, and an
// io.ReadSeeker with a position of its own.
type File struct {
	h       C.securereg_file
	size    int64
	cleanup runtime.Cleanup

	mu  sync.Mutex // held across a Read, which moves pos
	pos int64
}

var (
	_ io.ReaderAt   = (*File)(nil)
	_ io.ReadSeeker = (*File)(nil)
	_ io.Closer     = (*File)(nil)
)

// OpenFile opens the file at path inside the promoted model name; "" is its only one. At once, however large it is, when
// the stored file is untouched since it was last checked, else after all of it was hashed again.
func (r *Registry) OpenFile(name, path string) (*File, error) {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName, cPath := w.text("the name", name), w.optional("the path", path)
	if w.err != nil {
		return nil, w.err
	}
	var h C.securereg_file
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_file_open(r.h, cName, cPath, &h, e) })
	if err != nil {
		return nil, err
	}
	var size C.uint64_t
	err = call(func(e *C.securereg_error) C.securereg_status { return C.securereg_file_size(h, &size, e) })
	if err != nil {
		C.securereg_file_close(h)
		return nil, err
	}
	f := &File{h: h, size: int64(size)}
	f.cleanup = runtime.AddCleanup(f, func(h C.securereg_file) { C.securereg_file_close(h) }, h)
	return f, nil
}

// Close closes the file; reads of this moment finish. A second Close is [ErrClosed].
func (f *File) Close() error {
	f.cleanup.Stop()
	return ended(C.securereg_file_close(f.h))
}

// Size is the file's size in bytes, as promoted.
func (f *File) Size() int64 { return f.size }

// ReadAt reads len(p) bytes from off on, every one of them checked. After a failure p may hold bytes, but none that were
// not checked.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	defer runtime.KeepAlive(f)
	if off < 0 {
		return 0, &Error{Status: ErrInvalidInput, Message: "a negative offset"}
	}
	var told C.securereg_error
	var read C.size_t
	status := C.securereg_read_at(f.h, unsafe.Pointer(unsafe.SliceData(p)), C.size_t(len(p)), C.uint64_t(off), &read, &told)
	if err := failure(Status(status), told); err != nil {
		return 0, err
	}
	if int(read) < len(p) {
		return int(read), io.EOF
	}
	return int(read), nil
}

// Read reads from where the last Read or Seek left off.
func (f *File) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // the next one says so
	}
	return n, err
}

// Seek moves to where the next Read begins.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.size
	default:
		return 0, &Error{Status: ErrInvalidInput, Message: "no such whence"}
	}
	if offset < 0 {
		return 0, &Error{Status: ErrInvalidInput, Message: "a negative position"}
	}
	f.pos = offset
	return offset, nil
}
