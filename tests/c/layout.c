/* layout.c: numbers and structs as programs were compiled with them.
 *
 * Owns: every number of the header, and where every field lies on a machine of 64 bits. Only ever add here: a line that must
 * change is a broken ABI. Compiles or does not; there is nothing to run.
 */
#include "securereg.h"

#define IS(value, number) _Static_assert((value) == (number), #value " has changed")
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " has moved")
#define SIZE(type, size) _Static_assert(sizeof(type) >= (size) && _Alignof(type) == 8, #type " has shrunk")

IS(SECUREREG_OK, 0);
IS(SECUREREG_INVALID_INPUT, 1);
IS(SECUREREG_DIGEST_MISMATCH, 2);
IS(SECUREREG_REFUSED, 3);
IS(SECUREREG_SOURCE_CHANGED, 4);
IS(SECUREREG_CONFLICT, 5);
IS(SECUREREG_NOT_FOUND, 6);
IS(SECUREREG_QUARANTINED, 7);
IS(SECUREREG_CORRUPT, 8);
IS(SECUREREG_UNREADABLE, 9);
IS(SECUREREG_MANIFEST, 10);
IS(SECUREREG_AUDIT, 11);
IS(SECUREREG_NOT_MOUNTED, 12);
IS(SECUREREG_NO_SPACE, 13);
IS(SECUREREG_TOO_LARGE, 14);
IS(SECUREREG_PERMISSION, 15);
IS(SECUREREG_UNSUPPORTED, 16);
IS(SECUREREG_CANCELLED, 17);
IS(SECUREREG_IO, 18);
IS(SECUREREG_NO_MEMORY, 19);
IS(SECUREREG_CLOSED, 64);
IS(SECUREREG_FORKED, 65);
IS(SECUREREG_NULL, 66);
IS(SECUREREG_WRONG_SIZE, 67);
IS(SECUREREG_TOO_MANY, 68);
IS(SECUREREG_PANIC, 69);
IS(sizeof(securereg_status), 4);

IS(SECUREREG_PHASE_COPY, 0);
IS(SECUREREG_PHASE_VERIFY, 1);
IS(SECUREREG_OPEN_WRITE, 1);
IS(SECUREREG_OPEN_CREATE, 2);
IS(SECUREREG_PROMOTE_MOVE, 1);
IS(SECUREREG_OUTCOME_PROMOTED, 0);
IS(SECUREREG_OUTCOME_ALREADY_THERE, 1);
IS(SECUREREG_OUTCOME_MOVED, 2);
IS(SECUREREG_METHOD_SHARED, 0);
IS(SECUREREG_METHOD_ADOPTED, 1);
IS(SECUREREG_METHOD_REFLINKED, 2);
IS(SECUREREG_METHOD_COPIED, 3);
IS(SECUREREG_MODEL_PROMOTED, 0);
IS(SECUREREG_MODEL_QUARANTINED, 1);
IS(SECUREREG_EVENT_NONE, 0);
IS(SECUREREG_EVENT_PROMOTED, 1);
IS(SECUREREG_EVENT_REPLACED, 2);
IS(SECUREREG_EVENT_QUARANTINED, 3);
IS(SECUREREG_EVENT_RELEASED, 4);
IS(SECUREREG_EVENT_DELETED, 5);
IS(SECUREREG_NAME_MAX, 256);

/* Handles are passed by value: their size may never change. */
IS(sizeof(securereg_error), 8);
IS(sizeof(securereg_text), 8);
IS(sizeof(securereg_registry), 8);
IS(sizeof(securereg_list), 8);
IS(sizeof(securereg_model), 8);
IS(sizeof(securereg_file), 8);
IS(sizeof(securereg_sealed), 8);
IS(sizeof(securereg_events), 8);
IS(sizeof(securereg_gguf), 8);

#if UINTPTR_MAX == UINT64_MAX
SIZE(securereg_open_options, 16);
AT(securereg_open_options, flags, 8);
AT(securereg_open_options, reserved, 12);

SIZE(securereg_promote_options, 64);
AT(securereg_promote_options, sha256, 8);
AT(securereg_promote_options, format, 16);
AT(securereg_promote_options, filename, 24);
AT(securereg_promote_options, source, 32);
AT(securereg_promote_options, evidence, 40);
AT(securereg_promote_options, size_bytes, 48);
AT(securereg_promote_options, flags, 56);
AT(securereg_promote_options, reserved, 60);

SIZE(securereg_task, 24);
AT(securereg_task, progress, 8);
AT(securereg_task, user, 16);

SIZE(securereg_promotion, 16);
AT(securereg_promotion, outcome, 8);
AT(securereg_promotion, method, 12);

SIZE(securereg_model_info, 104);
AT(securereg_model_info, name, 8);
AT(securereg_model_info, sha256, 16);
AT(securereg_model_info, format, 24);
AT(securereg_model_info, layout, 32);
AT(securereg_model_info, source, 40);
AT(securereg_model_info, promoted_at, 48);
AT(securereg_model_info, quarantine_reason, 56);
AT(securereg_model_info, quarantine_cause, 64);
AT(securereg_model_info, incident_id, 72);
AT(securereg_model_info, size_bytes, 80);
AT(securereg_model_info, file_count, 88);
AT(securereg_model_info, status, 96);
AT(securereg_model_info, reserved, 100);

SIZE(securereg_file_info, 40);
AT(securereg_file_info, path, 8);
AT(securereg_file_info, sha256, 16);
AT(securereg_file_info, blake3, 24);
AT(securereg_file_info, size_bytes, 32);

SIZE(securereg_event, 280);
AT(securereg_event, kind, 8);
AT(securereg_event, sealed, 12);
AT(securereg_event, generation, 16);
AT(securereg_event, name, 24);

SIZE(securereg_gguf_info, 48);
AT(securereg_gguf_info, pair_count, 8);
AT(securereg_gguf_info, tensor_count, 16);
AT(securereg_gguf_info, data_offset, 24);
AT(securereg_gguf_info, alignment, 32);
AT(securereg_gguf_info, version, 40);
AT(securereg_gguf_info, reserved, 44);

SIZE(securereg_gguf_pair, 80);
AT(securereg_gguf_pair, key, 8);
AT(securereg_gguf_pair, data, 16);
AT(securereg_gguf_pair, data_size, 24);
AT(securereg_gguf_pair, count, 32);
AT(securereg_gguf_pair, u64_value, 40);
AT(securereg_gguf_pair, i64_value, 48);
AT(securereg_gguf_pair, f64_value, 56);
AT(securereg_gguf_pair, value_type, 64);
AT(securereg_gguf_pair, array_type, 68);
AT(securereg_gguf_pair, index, 72);

SIZE(securereg_gguf_tensor, 80);
AT(securereg_gguf_tensor, name, 8);
AT(securereg_gguf_tensor, type_name, 16);
AT(securereg_gguf_tensor, type_id, 24);
AT(securereg_gguf_tensor, dimension_count, 28);
AT(securereg_gguf_tensor, dimensions, 32);
AT(securereg_gguf_tensor, offset, 64);
AT(securereg_gguf_tensor, size_bytes, 72);
#endif
