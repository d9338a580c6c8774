package securereg

// #include "shim.h"
import "C"

import (
	"context"
	"runtime/cgo"
)

// Phase is what long work is doing.
type Phase uint32

const (
	PhaseCopy   Phase = C.SECUREREG_PHASE_COPY   // reading a source, hashing and copying it, or filling sealed memory
	PhaseVerify Phase = C.SECUREREG_PHASE_VERIFY // hashing bytes against what was promoted
)

// Progress is told of done of total bytes. It is called by one goroutine at a time, not the one that made the call; it must
// not use this package, and should not take long. A panic in it stops the work and goes on in the goroutine of the call.
type Progress func(phase Phase, done, total uint64)

type progressKey struct{}

// WithProgress makes a context whose long calls tell progress how far they are.
func WithProgress(ctx context.Context, progress Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, progress)
}

// watch is who looks after one call.
type watch struct {
	ctx      context.Context
	progress Progress
	panicked any
}

//export securereg_go_progress
func securereg_go_progress(handle C.uintptr_t, phase C.uint32_t, done, total C.uint64_t) (stop C.int32_t) {
	w := cgo.Handle(handle).Value().(*watch)
	// A panic must not pass through the library.
	defer func() {
		if w.panicked = recover(); w.panicked != nil {
			stop = 1
		}
	}()
	if w.progress != nil {
		w.progress(Phase(phase), uint64(done), uint64(total))
	}
	if w.ctx.Err() != nil {
		return 1
	}
	return 0
}

// watched runs a long call, which ends soon after ctx does.
func watched(ctx context.Context, f func(watch C.uintptr_t, e *C.securereg_error) C.securereg_status) error {
	if ctx.Err() != nil {
		return &Error{Status: ErrCancelled, Message: "cancelled before it began", causes: causes(ctx)}
	}
	w := &watch{ctx: ctx}
	w.progress, _ = ctx.Value(progressKey{}).(Progress)
	var handle cgo.Handle
	if w.progress != nil || ctx.Done() != nil {
		handle = cgo.NewHandle(w)
		defer handle.Delete()
	}
	err := call(func(e *C.securereg_error) C.securereg_status { return f(C.uintptr_t(handle), e) })
	if w.panicked != nil {
		panic(w.panicked)
	}
	if e, ok := err.(*Error); ok && e.Status == ErrCancelled {
		e.causes = causes(ctx)
	}
	return err
}

func causes(ctx context.Context) []error { return []error{ctx.Err(), context.Cause(ctx)} }
