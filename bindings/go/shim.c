#include "shim.h"

#include "_cgo_export.h"

static int32_t on_progress(void *user, uint32_t phase, uint64_t done, uint64_t total) {
  return securereg_go_progress((uintptr_t)user, phase, done, total);
}

static securereg_task watched(uintptr_t watch) {
  securereg_task task = {sizeof task, watch ? on_progress : NULL, (void *)watch};
  return task;
}

securereg_status securereg_go_promote(securereg_registry registry, const char *path, const char *name,
                                      const securereg_promote_options *options, uintptr_t watch,
                                      securereg_promotion *result, securereg_model *out, securereg_error *error) {
  const securereg_task task = watched(watch);
  return securereg_promote(registry, path, name, options, &task, result, out, error);
}

securereg_status securereg_go_verify(securereg_registry registry, const char *name, uintptr_t watch,
                                     securereg_error *error) {
  const securereg_task task = watched(watch);
  return securereg_verify(registry, name, &task, error);
}

securereg_status securereg_go_verify_all(securereg_registry registry, uintptr_t watch, securereg_error *error) {
  const securereg_task task = watched(watch);
  return securereg_verify_all(registry, &task, error);
}

securereg_status securereg_go_release(securereg_registry registry, const char *name, const char *reason, uintptr_t watch,
                                      securereg_error *error) {
  const securereg_task task = watched(watch);
  return securereg_release(registry, name, reason, &task, error);
}

securereg_status securereg_go_open_sealed(securereg_registry registry, const char *name, const char *path,
                                          uintptr_t watch, securereg_sealed *out, securereg_error *error) {
  const securereg_task task = watched(watch);
  return securereg_open_sealed(registry, name, path, &task, out, error);
}

securereg_promote_options securereg_go_options(const char *sha256, const char *format, const char *filename,
                                               const char *source, const char *evidence, uint64_t size_bytes,
                                               uint32_t flags) {
  securereg_promote_options options = {sizeof options, sha256, format, filename, source, evidence, size_bytes, flags, 0};
  return options;
}

securereg_status securereg_go_strings(securereg_gguf gguf, uint64_t pair, uint64_t from, size_t count, const char **data,
                                      size_t *lens, securereg_error *error) {
  for (size_t i = 0; i < count; i++) {
    const securereg_status status = securereg_gguf_string(gguf, pair, from + i, &data[i], &lens[i], error);
    if (status != SECUREREG_OK) return status;
  }
  return SECUREREG_OK;
}
