package securereg

// #include "shim.h"
import "C"

import (
	"strings"
	"unsafe"
)

// Version is that of the library which is loaded, such as "0.1.0".
func Version() string { return C.GoString(C.securereg_version()) }

// words are strings on their way to C, freed together.
type words struct {
	made []*C.char
	err  error
}

// text is the string with a NUL behind it. One with a NUL inside is refused: C would see only a part of it.
func (w *words) text(what, s string) *C.char {
	if strings.IndexByte(s, 0) >= 0 {
		w.err = &Error{Status: ErrInvalidInput, Message: what + " has a NUL in it"}
		return nil
	}
	made := C.CString(s)
	w.made = append(w.made, made)
	return made
}

// optional is NULL for an empty string.
func (w *words) optional(what, s string) *C.char {
	if s == "" {
		return nil
	}
	return w.text(what, s)
}

func (w *words) free() {
	for _, made := range w.made {
		C.free(unsafe.Pointer(made))
	}
}
