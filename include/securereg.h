/* securereg 0.1.0: verified model bytes for programs in C. Made by `cargo xtask header`; do not edit.
 *
 * Every byte that comes out of this library was hashed against what was promoted.
 *
 * Handles      are tokens in a struct of their own, passed by value; {0} is none. Closing none is fine. Using one that is
 *              closed, freed or none is SECUREREG_CLOSED and harms nothing: tokens are not addresses, and never come back.
 * Results      each function returns a status; outputs are written only when it is SECUREREG_OK. `error` may be NULL;
 *              else it is written only on failure (and not by SECUREREG_FORKED), and is the caller's to free. Pass {0}.
 * Structs      begin with their size: set it to sizeof, and leave what you do not use at zero. Fields are only ever added,
 *              at the end; numbers are only ever added.
 * Strings      are UTF-8 and end in NUL, given and taken. What the library gives belongs to the handle it came from.
 * Lengths      are in bytes, times of a model RFC 3339 in UTC, digests bare lower-case hex.
 * Threads      every function may be called from any thread at any time, also with the same handle.
 * fork         a forked child gets SECUREREG_FORKED from everything until it calls exec. The library starts no thread that
 *              outlives a call, and installs no signal handler.
 * Panics       of the library end at this boundary: SECUREREG_PANIC.
 */

#ifndef SECUREREG_H
#define SECUREREG_H


#include <stddef.h>
#include <stdint.h>

#define SECUREREG_VERSION_MAJOR 0
#define SECUREREG_VERSION_MINOR 1
#define SECUREREG_VERSION_PATCH 0
#define SECUREREG_VERSION "0.1.0"


/**
 * The source is being read, hashed and copied, or sealed memory filled.
 */
#define SECUREREG_PHASE_COPY 0

/**
 * Bytes are being hashed against what was promoted.
 */
#define SECUREREG_PHASE_VERIFY 1

/**
 * securereg_open: change what is there, too. Without it nothing is written to the root, not even a lock file, so it may lie on
 * a read-only file system; damage that is found is then refused by this process only.
 */
#define SECUREREG_OPEN_WRITE 1

/**
 * securereg_open: make the registry where there is none. Asks for SECUREREG_OPEN_WRITE.
 */
#define SECUREREG_OPEN_CREATE 2

/**
 * securereg_promote: the source is given away: its file itself is taken where that is provably safe, else it is copied and
 * then removed.
 */
#define SECUREREG_PROMOTE_MOVE 1

/**
 * The name is new.
 */
#define SECUREREG_OUTCOME_PROMOTED 0

/**
 * The name already stood for these very bytes.
 */
#define SECUREREG_OUTCOME_ALREADY_THERE 1

/**
 * A tag points to new content now, or damaged bytes were replaced by good ones.
 */
#define SECUREREG_OUTCOME_MOVED 2

/**
 * The bytes were in the registry already.
 */
#define SECUREREG_METHOD_SHARED 0

/**
 * The source's own file was taken.
 */
#define SECUREREG_METHOD_ADOPTED 1

/**
 * The file system shares the blocks until one side changes.
 */
#define SECUREREG_METHOD_REFLINKED 2

/**
 * The bytes were copied.
 */
#define SECUREREG_METHOD_COPIED 3

/**
 * It is served.
 */
#define SECUREREG_MODEL_PROMOTED 0

/**
 * It is not served.
 */
#define SECUREREG_MODEL_QUARANTINED 1

/**
 * Nothing else has happened.
 */
#define SECUREREG_EVENT_NONE 0

/**
 * A new model.
 */
#define SECUREREG_EVENT_PROMOTED 1

/**
 * The name stands for other content now.
 */
#define SECUREREG_EVENT_REPLACED 2

/**
 * The model is not served any more. Sealed memory of it stays as it is: `sealed` says how many of its files this process
 * holds, and stopping their use is the program's to do.
 */
#define SECUREREG_EVENT_QUARANTINED 3

/**
 * The model is served again.
 */
#define SECUREREG_EVENT_RELEASED 4

/**
 * The model is gone.
 */
#define SECUREREG_EVENT_DELETED 5

/**
 * Bytes of securereg_event.name, its NUL included.
 */
#define SECUREREG_NAME_MAX 256

/**
 * How a call ended. Numbers are only ever added: treat one you do not know as a failure.
 */
enum securereg_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * It did what it says.
   */
  SECUREREG_OK = 0,
  /**
   * An argument is malformed: a name outside the allow-list, a bad digest, a length over SIZE_MAX / 2.
   */
  SECUREREG_INVALID_INPUT = 1,
  /**
   * The source's bytes are not what was claimed (SHA-256 or size).
   */
  SECUREREG_DIGEST_MISMATCH = 2,
  /**
   * Policy refused the content: the message names the worst findings, each with its rule in brackets.
   */
  SECUREREG_REFUSED = 3,
  /**
   * The source changed while it was read.
   */
  SECUREREG_SOURCE_CHANGED = 4,
  /**
   * The name, the mount path or the bytes are taken, or the bytes are under an incident.
   */
  SECUREREG_CONFLICT = 5,
  /**
   * No such model, file or registry.
   */
  SECUREREG_NOT_FOUND = 6,
  /**
   * The model is quarantined.
   */
  SECUREREG_QUARANTINED = 7,
  /**
   * Stored bytes are not what was promoted. They were not given out, and the model is quarantined.
   */
  SECUREREG_CORRUPT = 8,
  /**
   * Stored bytes could not be read; nothing is said about their content.
   */
  SECUREREG_UNREADABLE = 9,
  /**
   * manifest.yaml is missing, torn, edited or older than one already seen: nothing is served.
   */
  SECUREREG_MANIFEST = 10,
  /**
   * The audit log is broken.
   */
  SECUREREG_AUDIT = 11,
  /**
   * No live mount shows the model.
   */
  SECUREREG_NOT_MOUNTED = 12,
  /**
   * No space left on the disk, or a limit on file sizes (`ulimit -f`).
   */
  SECUREREG_NO_SPACE = 13,
  /**
   * Something is over a limit.
   */
  SECUREREG_TOO_LARGE = 14,
  /**
   * The operating system refused access, or the registry was opened read-only.
   */
  SECUREREG_PERMISSION = 15,
  /**
   * Not possible on this machine, file system or root.
   */
  SECUREREG_UNSUPPORTED = 16,
  /**
   * The progress callback asked to stop.
   */
  SECUREREG_CANCELLED = 17,
  /**
   * Another failure of the operating system.
   */
  SECUREREG_IO = 18,
  /**
   * Not enough memory for what was asked.
   */
  SECUREREG_NO_MEMORY = 19,
  /**
   * The handle is zero, was closed or freed, or is of another kind.
   */
  SECUREREG_CLOSED = 64,
  /**
   * This process was forked from one that uses the library: nothing works here until exec.
   */
  SECUREREG_FORKED = 65,
  /**
   * A pointer is NULL that may not be.
   */
  SECUREREG_NULL = 66,
  /**
   * The `size` at the beginning of a struct is none this library knows.
   */
  SECUREREG_WRONG_SIZE = 67,
  /**
   * Too many handles are open.
   */
  SECUREREG_TOO_MANY = 68,
  /**
   * A bug in the library: it panicked, and was stopped at the boundary.
   */
  SECUREREG_PANIC = 69,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum securereg_status securereg_status;
#else
typedef int32_t securereg_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a failed call says beyond its status. Begin with `{0}`, pass its address, and free it with securereg_error_free
 * after a failure; a success leaves it as it was.
 */
typedef struct securereg_error {
  /**
   * A token; 0 is no error.
   */
  uint64_t id;
} securereg_error;

/**
 * A piece of text that belongs to the caller: free it with securereg_text_free.
 */
typedef struct securereg_text {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_text;

/**
 * Options of securereg_open.
 */
typedef struct securereg_open_options {
  /**
   * sizeof(securereg_open_options).
   */
  size_t size;
  /**
   * SECUREREG_OPEN_* together, or 0 to read only.
   */
  uint32_t flags;
  /**
   * Zero.
   */
  uint32_t reserved;
} securereg_open_options;

/**
 * An open registry: close it with securereg_close. May be used by any number of threads at once.
 */
typedef struct securereg_registry {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_registry;

/**
 * All models as they were when they were asked for: free it with securereg_list_free.
 */
typedef struct securereg_list {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_list;

/**
 * A model as it was when it was asked for: free it with securereg_model_free.
 */
typedef struct securereg_model {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_model;

/**
 * Options of securereg_promote: what is claimed of the source. Strings may be NULL.
 */
typedef struct securereg_promote_options {
  /**
   * sizeof(securereg_promote_options).
   */
  size_t size;
  /**
   * The SHA-256 it must have, 64 hex digits: of several files that of their list (`<hex>  <path>\n`, sorted by path).
   */
  const char *sha256;
  /**
   * The format it must have: "gguf", "safetensors", "pytorch" or "onnx".
   */
  const char *format;
  /**
   * Its file name in the mount, for a single file.
   */
  const char *filename;
  /**
   * Where it came from, in words.
   */
  const char *source;
  /**
   * A JSON object that is kept with it as it is: scan results and the like, at most 16 MiB.
   */
  const char *evidence;
  /**
   * The size it must have, in bytes; 0 claims nothing.
   */
  uint64_t size_bytes;
  /**
   * SECUREREG_PROMOTE_* together, or 0.
   */
  uint32_t flags;
  /**
   * Zero.
   */
  uint32_t reserved;
} securereg_promote_options;

/**
 * Tells how far long work is: `done` of `total` bytes in `phase` (a SECUREREG_PHASE_*). Return 0 to go on, anything else
 * to stop: the call then ends with SECUREREG_CANCELLED, and nothing was changed. Called by one thread at a time, not always
 * the one that made the call; such a thread has a stack of 2 MiB. It must not throw, not jump out, not call the library
 * (SECUREREG_INVALID_INPUT), and not wait for a thread that does.
 */
typedef int32_t (*securereg_progress)(void *user, uint32_t phase, uint64_t done, uint64_t total);

/**
 * Options of a call that may take long.
 */
typedef struct securereg_task {
  /**
   * sizeof(securereg_task).
   */
  size_t size;
  /**
   * Who is told, or NULL.
   */
  securereg_progress progress;
  /**
   * Given to `progress` as it is.
   */
  void *user;
} securereg_task;

/**
 * What a promotion did.
 */
typedef struct securereg_promotion {
  /**
   * sizeof(securereg_promotion), set by the caller.
   */
  size_t size;
  /**
   * A SECUREREG_OUTCOME_*.
   */
  uint32_t outcome;
  /**
   * A SECUREREG_METHOD_*; of several files the costliest.
   */
  uint32_t method;
} securereg_promotion;

/**
 * What is recorded of a model. Strings belong to the securereg_model: they are gone with securereg_model_free.
 */
typedef struct securereg_model_info {
  /**
   * sizeof(securereg_model_info), set by the caller.
   */
  size_t size;
  /**
   * Its name.
   */
  const char *name;
  /**
   * Its SHA-256, bare hex: of several files that of their list.
   */
  const char *sha256;
  /**
   * "gguf", "safetensors", "pytorch" or "onnx"; later versions may know more.
   */
  const char *format;
  /**
   * "file", "folder" or "split".
   */
  const char *layout;
  /**
   * Where it came from, in the promoter's words.
   */
  const char *source;
  /**
   * When it was promoted: RFC 3339, UTC.
   */
  const char *promoted_at;
  /**
   * Why it is quarantined; NULL when it is not.
   */
  const char *quarantine_reason;
  /**
   * Who decides over its release: "integrity" or "incident"; NULL when it is not quarantined.
   */
  const char *quarantine_cause;
  /**
   * The incident; NULL when none was named.
   */
  const char *incident_id;
  /**
   * The sum of its files, in bytes.
   */
  uint64_t size_bytes;
  /**
   * How many files it has: at least 1.
   */
  uint64_t file_count;
  /**
   * A SECUREREG_MODEL_*.
   */
  uint32_t status;
  /**
   * Zero.
   */
  uint32_t reserved;
} securereg_model_info;

/**
 * One file of a model. Strings belong to the securereg_model.
 */
typedef struct securereg_file_info {
  /**
   * sizeof(securereg_file_info), set by the caller.
   */
  size_t size;
  /**
   * Its path inside the model; of a single file its name.
   */
  const char *path;
  /**
   * Its SHA-256, bare hex.
   */
  const char *sha256;
  /**
   * Its BLAKE3 hash, bare hex.
   */
  const char *blake3;
  /**
   * Its size in bytes.
   */
  uint64_t size_bytes;
} securereg_file_info;

/**
 * One file of a promoted model, open for verified reads: close it with securereg_file_close. May be used by any number of
 * threads at once.
 */
typedef struct securereg_file {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_file;

/**
 * One file of a promoted model in sealed memory: close it with securereg_sealed_close. May be used by any number of threads
 * at once.
 */
typedef struct securereg_sealed {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_sealed;

/**
 * A subscription to what changes in a registry: close it with securereg_events_close.
 */
typedef struct securereg_events {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_events;

/**
 * One change of one model.
 */
typedef struct securereg_event {
  /**
   * sizeof(securereg_event), set by the caller.
   */
  size_t size;
  /**
   * A SECUREREG_EVENT_*; a number you do not know is a change of some other sort.
   */
  uint32_t kind;
  /**
   * How many of the model's files this process holds in sealed memory.
   */
  uint32_t sealed;
  /**
   * The generation of the catalog that shows it.
   */
  uint64_t generation;
  /**
   * The model's name.
   */
  char name[SECUREREG_NAME_MAX];
} securereg_event;

/**
 * The header of a GGUF model: free it with securereg_gguf_free.
 */
typedef struct securereg_gguf {
  /**
   * A token; 0 is none.
   */
  uint64_t id;
} securereg_gguf;

/**
 * What a header says in numbers.
 */
typedef struct securereg_gguf_info {
  /**
   * sizeof(securereg_gguf_info), set by the caller.
   */
  size_t size;
  /**
   * How many metadata pairs there are.
   */
  uint64_t pair_count;
  /**
   * How many tensors there are.
   */
  uint64_t tensor_count;
  /**
   * Where tensor data begins, in bytes from the start of the file.
   */
  uint64_t data_offset;
  /**
   * The alignment of tensor data in bytes.
   */
  uint64_t alignment;
  /**
   * The format's version: 2 or 3.
   */
  uint32_t version;
  /**
   * Zero.
   */
  uint32_t reserved;
} securereg_gguf_info;

/**
 * A metadata pair. Types are ggml's `gguf_type`: 0 UINT8, 1 INT8, 2 UINT16, 3 INT16, 4 UINT32, 5 INT32, 6 FLOAT32, 7 BOOL,
 * 8 STRING, 9 ARRAY, 10 UINT64, 11 INT64, 12 FLOAT64. What it points to belongs to the securereg_gguf.
 */
typedef struct securereg_gguf_pair {
  /**
   * sizeof(securereg_gguf_pair), set by the caller.
   */
  size_t size;
  /**
   * The key.
   */
  const char *key;
  /**
   * Of a string: its bytes, with a NUL after the last. Of an array of numbers or booleans: its values, packed,
   * little-endian, not aligned. Else NULL.
   */
  const void *data;
  /**
   * The length of `data` in bytes, without the NUL.
   */
  uint64_t data_size;
  /**
   * Of an array: how many values it has; else 1. The strings of an array: securereg_gguf_string.
   */
  uint64_t count;
  /**
   * The value of an unsigned integer or a boolean.
   */
  uint64_t u64_value;
  /**
   * The value of a signed integer.
   */
  int64_t i64_value;
  /**
   * The value of a float.
   */
  double f64_value;
  /**
   * The type of the value.
   */
  uint32_t value_type;
  /**
   * Of an array: the type of its values.
   */
  uint32_t array_type;
  /**
   * Its place among the pairs, from 0: what securereg_gguf_string takes.
   */
  uint64_t index;
} securereg_gguf_pair;

/**
 * A tensor. Strings belong to the securereg_gguf.
 */
typedef struct securereg_gguf_tensor {
  /**
   * sizeof(securereg_gguf_tensor), set by the caller.
   */
  size_t size;
  /**
   * Its name.
   */
  const char *name;
  /**
   * ggml's name of its type, such as "Q4_K".
   */
  const char *type_name;
  /**
   * ggml's number of its type.
   */
  uint32_t type_id;
  /**
   * How many dimensions it has: 1 to 4.
   */
  uint32_t dimension_count;
  /**
   * Its dimensions, ne0 (the innermost) first; 1 where it has none.
   */
  uint64_t dimensions[4];
  /**
   * Where its data begins, in bytes from the start of the file: what securereg_read_at takes.
   */
  uint64_t offset;
  /**
   * Bytes of its data.
   */
  uint64_t size_bytes;
} securereg_gguf_tensor;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The word for a status, `snake_case`, such as "not_found"; "unknown" for a number this library does not know. The
 * string is static. Works in a forked child too. Thread-safe.
 */
const char *securereg_status_name(int32_t status);

/**
 * The library's version, such as "0.1.0": compare it with SECUREREG_VERSION, which the program was compiled with. The
 * string is static. Works in a forked child too. Thread-safe.
 */
const char *securereg_version(void);

/**
 * The status of the call that made this error: SECUREREG_OK of no error (id 0), SECUREREG_CLOSED of one that was freed.
 * Thread-safe.
 */
securereg_status securereg_error_status(struct securereg_error error);

/**
 * What went wrong, on which name, and the remedy: UTF-8, lower case, never NULL ("" of no error or a freed one). The string
 * belongs to the error: it is gone with securereg_error_free. Thread-safe.
 */
const char *securereg_error_message(struct securereg_error error);

/**
 * The model the error is about, "" where it is about none. Owned and bounded like securereg_error_message. Thread-safe.
 */
const char *securereg_error_model(struct securereg_error error);

/**
 * Of a digest that is not what it should be: the one that was promoted or claimed, bare hex, else "". Owned like
 * securereg_error_message. Thread-safe.
 */
const char *securereg_error_expected(struct securereg_error error);

/**
 * Of a digest that is not what it should be: the one that was found, bare hex, else "". Owned like
 * securereg_error_message. Thread-safe.
 */
const char *securereg_error_actual(struct securereg_error error);

/**
 * Frees an error and its strings. Freeing no error (id 0) is fine; freeing one twice is SECUREREG_CLOSED and harms nothing.
 * Thread-safe.
 */
securereg_status securereg_error_free(struct securereg_error error);

/**
 * The text: UTF-8, with a NUL after its last byte. `*data` stays valid until the text is freed; `len` may be NULL, else
 * `*len` is the length in bytes without the NUL. Thread-safe.
 *
 * Errors: SECUREREG_CLOSED, SECUREREG_NULL.
 */
securereg_status securereg_text_data(struct securereg_text text,
                                     const char **data,
                                     size_t *len,
                                     struct securereg_error *error);

/**
 * Frees a text. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
 */
securereg_status securereg_text_free(struct securereg_text text);

/**
 * Opens the registry at the folder `root`: NULL is /var/lib/secure-ai/registry for root, $XDG_DATA_HOME/securereg/registry
 * for anyone else. `options` may be NULL: to read only. On success `*out` is the caller's, to be closed with
 * securereg_close. Starts no thread. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND without a registry there; SECUREREG_PERMISSION when it is not private to this user;
 * SECUREREG_MANIFEST when its records do not hold; SECUREREG_UNSUPPORTED on a network file system.
 */
securereg_status securereg_open(const char *root,
                                const struct securereg_open_options *options,
                                struct securereg_registry *out,
                                struct securereg_error *error);

/**
 * Closes a registry. What was opened from it stays open. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe: calls
 * that use it this moment finish.
 */
securereg_status securereg_close(struct securereg_registry registry);

/**
 * The generation of the catalog: it counts up with each change, by whatever process. Thread-safe.
 *
 * Errors: SECUREREG_MANIFEST while the registry's records do not hold.
 */
securereg_status securereg_generation(struct securereg_registry registry, uint64_t *out, struct securereg_error *error);

/**
 * All models, quarantined ones too, sorted by name, as they are this moment. `*out` is the caller's, to be freed with
 * securereg_list_free. Thread-safe.
 */
securereg_status securereg_list_models(struct securereg_registry registry,
                                       struct securereg_list *out,
                                       struct securereg_error *error);

/**
 * The model `name`, quarantined or not, as it is this moment. `*out` is the caller's, to be freed with
 * securereg_model_free. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND.
 */
securereg_status securereg_lookup(struct securereg_registry registry,
                                  const char *name,
                                  struct securereg_model *out,
                                  struct securereg_error *error);

/**
 * Everything that is recorded of the model `name`, as the JSON of the HTTP API. `*out` is the caller's. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND, SECUREREG_CORRUPT when the evidence kept with it was altered.
 */
securereg_status securereg_describe(struct securereg_registry registry,
                                    const char *name,
                                    struct securereg_text *out,
                                    struct securereg_error *error);

/**
 * Where a live mount shows the model `name`: its file, its folder, or the first shard of a split set. `*out` is the
 * caller's. Thread-safe.
 *
 * Errors: SECUREREG_NOT_MOUNTED, SECUREREG_NOT_FOUND, SECUREREG_QUARANTINED, SECUREREG_CORRUPT.
 */
securereg_status securereg_mount_path(struct securereg_registry registry,
                                      const char *name,
                                      struct securereg_text *out,
                                      struct securereg_error *error);

/**
 * Takes the file, folder or first shard at `path` in as the model `name`: copied, hashed, inspected, judged, registered,
 * and synced to disk before the call returns. `options` and `task` may be NULL; so may `result`, which is told what
 * happened, and `out`, which is the caller's model, to be freed with securereg_model_free. Thread-safe.
 *
 * Errors: SECUREREG_PERMISSION of a registry opened read-only; SECUREREG_DIGEST_MISMATCH, SECUREREG_REFUSED,
 * SECUREREG_SOURCE_CHANGED, SECUREREG_CONFLICT, SECUREREG_TOO_LARGE, SECUREREG_NO_SPACE, SECUREREG_CANCELLED: nothing was
 * changed then, except that a refusal is in the audit log.
 */
securereg_status securereg_promote(struct securereg_registry registry,
                                   const char *path,
                                   const char *name,
                                   const struct securereg_promote_options *options,
                                   const struct securereg_task *task,
                                   struct securereg_promotion *result,
                                   struct securereg_model *out,
                                   struct securereg_error *error);

/**
 * Hashes every byte of the model `name`, from the disk. SECUREREG_OK only if all are what was promoted; that restores a
 * model which integrity had quarantined. `task` may be NULL. Thread-safe.
 *
 * Errors: SECUREREG_CORRUPT (the model is quarantined by then; the error has both digests where they are known),
 * SECUREREG_UNREADABLE, SECUREREG_NOT_FOUND, SECUREREG_CANCELLED.
 */
securereg_status securereg_verify(struct securereg_registry registry,
                                  const char *name,
                                  const struct securereg_task *task,
                                  struct securereg_error *error);

/**
 * Hashes every byte of every model, each stored file once. SECUREREG_OK only if all models pass; the result is kept (not of
 * a registry opened to read only), see securereg_integrity. `task` may be NULL. Thread-safe.
 *
 * Errors: SECUREREG_CORRUPT or SECUREREG_UNREADABLE, naming how many and the first; SECUREREG_CANCELLED.
 */
securereg_status securereg_verify_all(struct securereg_registry registry,
                                      const struct securereg_task *task,
                                      struct securereg_error *error);

/**
 * The result of the last verification of all models, by whatever process, as JSON: `{"models":[...],"checked":N,
 * "verified_at":...}`. `*out` is the caller's. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND when none has run yet.
 */
securereg_status securereg_integrity(struct securereg_registry registry,
                                     struct securereg_text *out,
                                     struct securereg_error *error);

/**
 * Takes the model `name` out of service, everywhere, for `reason`; only a release brings it back. `incident_id` may be
 * NULL. Sealed memory that engines hold already stays as it is. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND, SECUREREG_PERMISSION of a registry opened read-only.
 */
securereg_status securereg_quarantine(struct securereg_registry registry,
                                      const char *name,
                                      const char *reason,
                                      const char *incident_id,
                                      struct securereg_error *error);

/**
 * Verifies the model `name` and, if every byte is good, lifts its quarantine, whoever put it. When no model has that name
 * now but one that had was deleted under an incident, its bytes may be promoted again. `reason` goes into the audit log.
 * `task` may be NULL. Thread-safe.
 *
 * Errors: SECUREREG_CORRUPT or SECUREREG_UNREADABLE: it stays quarantined; SECUREREG_NOT_FOUND, SECUREREG_PERMISSION,
 * SECUREREG_CANCELLED.
 */
securereg_status securereg_release(struct securereg_registry registry,
                                   const char *name,
                                   const char *reason,
                                   const struct securereg_task *task,
                                   struct securereg_error *error);

/**
 * Removes the model `name`, and the bytes that no other model holds. What is open stays readable, and verified. The weights
 * of a model under an incident stay blocked until a release. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND, SECUREREG_PERMISSION of a registry opened read-only.
 */
securereg_status securereg_delete(struct securereg_registry registry,
                                  const char *name,
                                  struct securereg_error *error);

/**
 * What is recorded of a model. Set `info->size` first. Thread-safe.
 */
securereg_status securereg_model_get(struct securereg_model model,
                                     struct securereg_model_info *info,
                                     struct securereg_error *error);

/**
 * The file at `index` of a model, from 0, sorted by path. Set `info->size` first. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND from file_count on.
 */
securereg_status securereg_model_file(struct securereg_model model,
                                      uint64_t index,
                                      struct securereg_file_info *info,
                                      struct securereg_error *error);

/**
 * Frees a model and its strings. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
 */
securereg_status securereg_model_free(struct securereg_model model);

/**
 * How many models a list has. Thread-safe.
 */
securereg_status securereg_list_count(struct securereg_list list, uint64_t *out, struct securereg_error *error);

/**
 * The model at `index` of a list, from 0. `*out` is the caller's, and outlives the list. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND from the count on.
 */
securereg_status securereg_list_at(struct securereg_list list,
                                   uint64_t index,
                                   struct securereg_model *out,
                                   struct securereg_error *error);

/**
 * Frees a list. Models taken from it stay. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
 */
securereg_status securereg_list_free(struct securereg_list list);

/**
 * Opens the file at `path` inside the promoted model `name`; NULL means its only file. At once, however large it is, when
 * the stored file is untouched since it was last checked, else after all of it was hashed again. `*out` is the caller's, to
 * be closed with securereg_file_close; it outlives the registry's handle. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND, SECUREREG_QUARANTINED, SECUREREG_CORRUPT (the model is quarantined by then),
 * SECUREREG_UNREADABLE, SECUREREG_INVALID_INPUT when `path` is NULL and there are several files.
 */
securereg_status securereg_file_open(struct securereg_registry registry,
                                     const char *name,
                                     const char *path,
                                     struct securereg_file *out,
                                     struct securereg_error *error);

/**
 * Its size in bytes, as promoted. Thread-safe.
 */
securereg_status securereg_file_size(struct securereg_file file, uint64_t *out, struct securereg_error *error);

/**
 * Reads up to `len` bytes from `offset` on into `buffer`. `*read` is how many: less than `len` only at the end of the file,
 * 0 from its end on. Each 64 KiB group that the range touches is read whole and hashed; small reads within one group are
 * served from the last that was checked. After a failure `buffer` may hold bytes, but none that were not checked. `buffer`
 * may be NULL when `len` is 0. Thread-safe.
 *
 * Errors: SECUREREG_CORRUPT (the model is quarantined by then), SECUREREG_UNREADABLE, SECUREREG_QUARANTINED once an
 * incident has ended it, SECUREREG_INVALID_INPUT for a `len` over SIZE_MAX / 2.
 */
securereg_status securereg_read_at(struct securereg_file file,
                                   void *buffer,
                                   size_t len,
                                   uint64_t offset,
                                   size_t *read,
                                   struct securereg_error *error);

/**
 * Closes a file. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe: reads of this moment finish.
 */
securereg_status securereg_file_close(struct securereg_file file);

/**
 * Puts the file at `path` inside the promoted model `name` (NULL: its only file) into a memfd, hashes all of it, and seals
 * it with F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_SEAL, so that nobody can change a byte afterwards. A loader
 * opens it by securereg_sealed_path; of a split set, open each shard. `task` may be NULL. One content is one memfd in a
 * process: opening it again, also from other threads and registries, shares it. `*out` is the caller's, to be closed with
 * securereg_sealed_close. It takes as much memory as the file is large until it is closed and no mapping of it is left.
 * Sealed bytes outlive a quarantine: watch for it with securereg_events_open. Thread-safe.
 *
 * Errors: SECUREREG_NO_MEMORY, naming the need, when the machine, a control group or `ulimit -f` does not allow it (nothing
 * was taken); else as securereg_file_open, and SECUREREG_CANCELLED.
 */
securereg_status securereg_open_sealed(struct securereg_registry registry,
                                       const char *name,
                                       const char *path,
                                       const struct securereg_task *task,
                                       struct securereg_sealed *out,
                                       struct securereg_error *error);

/**
 * The same, mapped: `*data` and `*len` are the file's bytes, to be read only. They stay until the sealed memory is closed
 * with securereg_sealed_close; `*data` of an empty file is not NULL, and leads to nothing. Thread-safe.
 *
 * Errors: as securereg_open_sealed.
 */
securereg_status securereg_map(struct securereg_registry registry,
                               const char *name,
                               const char *path,
                               const struct securereg_task *task,
                               struct securereg_sealed *out,
                               const void **data,
                               size_t *len,
                               struct securereg_error *error);

/**
 * The bytes of sealed memory, mapped: see securereg_map. Thread-safe.
 */
securereg_status securereg_sealed_map(struct securereg_sealed sealed,
                                      const void **data,
                                      size_t *len,
                                      struct securereg_error *error);

/**
 * The descriptor: close-on-exec, opened read-only and with a position of its own (without /proc: a duplicate whose position
 * other handles of the same content share, and whose writes fail by the seals). It belongs to the sealed memory: do not
 * close it; dup it or open securereg_sealed_path to have one of your own. Thread-safe.
 *
 * Errors: SECUREREG_IO when another part of the program has closed it by mistake: what stands at its number now is never
 * given out.
 */
securereg_status securereg_sealed_fd(struct securereg_sealed sealed,
                                     int *out,
                                     struct securereg_error *error);

/**
 * A path that opens the sealed memory in this process, "/proc/self/fd/N": what a loader is given, such as
 * llama_model_load_from_file. The string and what it leads to belong to the sealed memory. Thread-safe.
 *
 * Errors: SECUREREG_IO as securereg_sealed_fd; SECUREREG_NOT_FOUND without /proc; SECUREREG_UNSUPPORTED in a thread that has
 * a descriptor table of its own.
 */
securereg_status securereg_sealed_path(struct securereg_sealed sealed,
                                       const char **out,
                                       struct securereg_error *error);

/**
 * Closes sealed memory: its descriptor, its path and what securereg_map gave are gone with the last handle of this content.
 * Mappings and descriptors of the caller's own stay. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
 */
securereg_status securereg_sealed_close(struct securereg_sealed sealed);

/**
 * Subscribes to what changes in a registry from now on, by whatever process. `*out` is the caller's, to be closed with
 * securereg_events_close. Starts no thread. Thread-safe.
 */
securereg_status securereg_events_open(struct securereg_registry registry,
                                       struct securereg_events *out,
                                       struct securereg_error *error);

/**
 * A descriptor for poll(2): readable when securereg_events_next should be asked, until it has answered
 * SECUREREG_EVENT_NONE. It belongs to the subscription: do not read or close it. Thread-safe.
 *
 * Errors: SECUREREG_IO when another part of the program has closed it by mistake.
 */
securereg_status securereg_events_fd(struct securereg_events events, int *out, struct securereg_error *error);

/**
 * The next event, or SECUREREG_EVENT_NONE when nothing else has happened; it does not wait. What is told is what changed
 * since it last told: several changes of one model in between are told as what they came to, a quarantine always. Set
 * `out->size` first. Thread-safe: each event is given to one caller.
 *
 * Errors: SECUREREG_MANIFEST while the registry's records do not hold; SECUREREG_IO, SECUREREG_AUDIT and
 * SECUREREG_UNREADABLE when they cannot be read: nothing is lost by that, and the descriptor stays readable.
 */
securereg_status securereg_events_next(struct securereg_events events,
                                       struct securereg_event *out,
                                       struct securereg_error *error);

/**
 * Ends a subscription; its descriptor is closed. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
 */
securereg_status securereg_events_close(struct securereg_events events);

/**
 * Reads the header of the GGUF file at `path` inside the promoted model `name` (NULL: its only file), verified, and none of
 * its weights. `*out` is the caller's, to be freed with securereg_gguf_free. Thread-safe.
 *
 * Errors: SECUREREG_REFUSED when it is not a sound GGUF; else as securereg_file_open.
 */
securereg_status securereg_gguf_open(struct securereg_registry registry,
                                     const char *name,
                                     const char *path,
                                     struct securereg_gguf *out,
                                     struct securereg_error *error);

/**
 * What the header says in numbers. Set `info->size` first. Thread-safe.
 */
securereg_status securereg_gguf_get(struct securereg_gguf gguf,
                                    struct securereg_gguf_info *info,
                                    struct securereg_error *error);

/**
 * The metadata pair at `index`, from 0, in file order. Set `pair->size` first. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND from pair_count on.
 */
securereg_status securereg_gguf_pair_at(struct securereg_gguf gguf,
                                        uint64_t index,
                                        struct securereg_gguf_pair *pair,
                                        struct securereg_error *error);

/**
 * The metadata pair with this key, such as "general.architecture". Set `pair->size` first. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND.
 */
securereg_status securereg_gguf_find(struct securereg_gguf gguf,
                                     const char *key,
                                     struct securereg_gguf_pair *pair,
                                     struct securereg_error *error);

/**
 * The string at `index` of the array that is the metadata pair at `pair`: `*len` bytes at `*data`, which end in no NUL and
 * may not be UTF-8. They belong to the securereg_gguf. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND, SECUREREG_INVALID_INPUT when the pair is no array of strings.
 */
securereg_status securereg_gguf_string(struct securereg_gguf gguf,
                                       uint64_t pair,
                                       uint64_t index,
                                       const char **data,
                                       size_t *len,
                                       struct securereg_error *error);

/**
 * The tensor at `index`, from 0, in file order. Set `tensor->size` first. Thread-safe.
 *
 * Errors: SECUREREG_NOT_FOUND from tensor_count on.
 */
securereg_status securereg_gguf_tensor_at(struct securereg_gguf gguf,
                                          uint64_t index,
                                          struct securereg_gguf_tensor *tensor,
                                          struct securereg_error *error);

/**
 * Frees a header and what it pointed to. None (id 0) is fine; twice is SECUREREG_CLOSED. Thread-safe.
 */
securereg_status securereg_gguf_free(struct securereg_gguf gguf);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SECUREREG_H */
