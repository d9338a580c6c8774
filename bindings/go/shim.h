// What Go cannot say itself: a progress callback, and many strings in one call.

#ifndef SECUREREG_GO_SHIM_H
#define SECUREREG_GO_SHIM_H

#include <securereg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Each is its namesake, with a watch (a cgo.Handle; 0 is none) instead of a task.
securereg_status securereg_go_promote(securereg_registry registry, const char *path, const char *name,
                                      const securereg_promote_options *options, uintptr_t watch,
                                      securereg_promotion *result, securereg_model *out, securereg_error *error);
securereg_status securereg_go_verify(securereg_registry registry, const char *name, uintptr_t watch,
                                     securereg_error *error);
securereg_status securereg_go_verify_all(securereg_registry registry, uintptr_t watch, securereg_error *error);
securereg_status securereg_go_release(securereg_registry registry, const char *name, const char *reason, uintptr_t watch,
                                      securereg_error *error);
securereg_status securereg_go_open_sealed(securereg_registry registry, const char *name, const char *path,
                                          uintptr_t watch, securereg_sealed *out, securereg_error *error);

// The options, with the strings where C keeps them.
securereg_promote_options securereg_go_options(const char *sha256, const char *format, const char *filename,
                                               const char *source, const char *evidence, uint64_t size_bytes,
                                               uint32_t flags);

// Strings `from` up to `from + count` of the array at `pair`.
securereg_status securereg_go_strings(securereg_gguf gguf, uint64_t pair, uint64_t from, size_t count, const char **data,
                                      size_t *lens, securereg_error *error);

#endif
