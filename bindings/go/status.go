package securereg

// #include "shim.h"
import "C"

import (
	"errors"
	"io/fs"
)

// Status is how a call ended, and the error that [errors.Is] asks for. Treat a number you do not know as a failure.
type Status int32

// What a call can end with, besides success: see enum securereg_status.
const (
	ErrInvalidInput   Status = C.SECUREREG_INVALID_INPUT   // an argument is malformed
	ErrDigestMismatch Status = C.SECUREREG_DIGEST_MISMATCH // the source's bytes are not what was claimed
	ErrRefused        Status = C.SECUREREG_REFUSED         // policy refused the content
	ErrSourceChanged  Status = C.SECUREREG_SOURCE_CHANGED  // the source changed while it was read
	ErrConflict       Status = C.SECUREREG_CONFLICT        // the name, the mount path or the bytes are taken
	ErrNotFound       Status = C.SECUREREG_NOT_FOUND       // no such model, file or registry
	ErrQuarantined    Status = C.SECUREREG_QUARANTINED     // the model is quarantined
	ErrCorrupt        Status = C.SECUREREG_CORRUPT         // stored bytes are not what was promoted; none were given out
	ErrUnreadable     Status = C.SECUREREG_UNREADABLE      // stored bytes could not be read
	ErrManifest       Status = C.SECUREREG_MANIFEST        // the registry's records do not hold: nothing is served
	ErrAudit          Status = C.SECUREREG_AUDIT           // the audit log is broken
	ErrNotMounted     Status = C.SECUREREG_NOT_MOUNTED     // no live mount shows the model
	ErrNoSpace        Status = C.SECUREREG_NO_SPACE        // no space left on the disk
	ErrTooLarge       Status = C.SECUREREG_TOO_LARGE       // something is over a limit
	ErrPermission     Status = C.SECUREREG_PERMISSION      // access refused, or the registry was opened read-only
	ErrUnsupported    Status = C.SECUREREG_UNSUPPORTED     // not possible on this machine, file system or root
	ErrCancelled      Status = C.SECUREREG_CANCELLED       // the context ended
	ErrIO             Status = C.SECUREREG_IO              // another failure of the operating system
	ErrNoMemory       Status = C.SECUREREG_NO_MEMORY       // not enough memory for what was asked
	ErrClosed         Status = C.SECUREREG_CLOSED          // it was closed, or never opened
	ErrForked         Status = C.SECUREREG_FORKED          // this process was forked from one that uses the library
	ErrNull           Status = C.SECUREREG_NULL            // a bug of this package
	ErrWrongSize      Status = C.SECUREREG_WRONG_SIZE      // this package and the library do not fit together
	ErrTooMany        Status = C.SECUREREG_TOO_MANY        // too much is open
	ErrPanic          Status = C.SECUREREG_PANIC           // a bug of the library
)

// Error is the status's word, such as "not_found".
func (s Status) Error() string { return C.GoString(C.securereg_status_name(C.int32_t(s))) }

// Is tells which of the standard errors a status also is.
func (s Status) Is(target error) bool {
	switch s {
	case ErrNotFound:
		return target == fs.ErrNotExist
	case ErrPermission:
		return target == fs.ErrPermission
	case ErrClosed:
		return target == fs.ErrClosed
	case ErrInvalidInput:
		return target == fs.ErrInvalid
	case ErrUnsupported:
		return target == errors.ErrUnsupported
	}
	return false
}

// Error is a failed call.
type Error struct {
	Status  Status
	Message string // what went wrong, on which name, and the remedy
	Model   string // the model it is about; empty where it is about none
	// Of a digest that is not what it should be: what was promoted or claimed, and what was found; else empty.
	Expected, Actual string

	// Why the caller's own context ended, when it did.
	causes []error
}

func (e *Error) Error() string { return "securereg: " + e.Message }

// Unwrap gives the status, and the context's error where one ended the call.
func (e *Error) Unwrap() []error { return append([]error{e.Status}, e.causes...) }

// call runs one function of the library.
func call(f func(*C.securereg_error) C.securereg_status) error {
	var told C.securereg_error
	return failure(Status(f(&told)), told)
}

// failure is nil for a call that succeeded. It takes the C error over.
func failure(status Status, told C.securereg_error) error {
	if status == C.SECUREREG_OK {
		return nil
	}
	defer C.securereg_error_free(told)
	e := &Error{
		Status:   status,
		Message:  C.GoString(C.securereg_error_message(told)),
		Model:    C.GoString(C.securereg_error_model(told)),
		Expected: C.GoString(C.securereg_error_expected(told)),
		Actual:   C.GoString(C.securereg_error_actual(told)),
	}
	if e.Message == "" {
		// Not every failure can be told in full: not when no handle is left, and not of closing.
		e.Message = status.Error()
	}
	return e
}

// ended is the error of closing something.
func ended(status C.securereg_status) error { return failure(Status(status), C.securereg_error{}) }
