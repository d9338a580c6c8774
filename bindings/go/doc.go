// Package securereg gives Go programs verified model bytes: every byte that comes out of it was hashed against what was
// promoted into the registry. It is a thin layer over libsecurereg (securereg.h), found by pkg-config.
//
// A [Registry] is opened with [Open] and may be used by any number of goroutines, as may everything that comes from it.
// What was opened from a Registry outlives it. Close what you open: a cleanup of the garbage collector closes what was
// forgotten, some time.
//
// Failures are [*Error] values. They tell what happened by a [Status], to be asked for with [errors.Is]:
//
//	if errors.Is(err, securereg.ErrQuarantined) { ... }
//
// [ErrNotFound] is also fs.ErrNotExist, [ErrPermission] fs.ErrPermission, [ErrClosed] fs.ErrClosed, and [ErrCancelled] the
// error of the context that ended the call.
//
// Calls that take a [context.Context] may be long; they stop soon after it ends, and then nothing was changed.
// [WithProgress] makes a context that also hears how far they are.
package securereg
