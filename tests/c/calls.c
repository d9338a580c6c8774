/* calls.c: see calls.h. */
#include "calls.h"
#include "check.h"
#include "kit.h"

#include <stdio.h>
#include <string.h>

/* --- one function each --- */

static void *at(struct args *a, int parameter, const void *pointer) {
    a->seen[parameter] = pointer;
    if (parameter == a->null) return NULL;
    return (void *)(parameter == a->swap ? a->with : pointer);
}
/* A handle for an output of its type. */
#define GIVES(parameter) at(a, parameter, &a->out.handle)
#define CALL(function) static int32_t call_##function(struct args *a, securereg_error *e)

/* Of a function that returns a string: "" is what it says of a handle that is nothing. */
static int32_t told(struct args *a, const char *text) {
    a->returned = text;
    return text == NULL ? -1 : *text ? SECUREREG_OK : SECUREREG_CLOSED;
}

CALL(status_name) { (void)e; return told(a, securereg_status_name(SECUREREG_CORRUPT)); }
CALL(version) { (void)e; return told(a, securereg_version()); }
CALL(error_status) {
    (void)e;
    int32_t status = securereg_error_status((securereg_error){a->token});
    return status == SECUREREG_DIGEST_MISMATCH || status == SECUREREG_NOT_FOUND ? SECUREREG_OK : status;
}
CALL(error_message) { (void)e; return told(a, securereg_error_message((securereg_error){a->token})); }
CALL(error_model) { (void)e; return told(a, securereg_error_model((securereg_error){a->token})); }
CALL(error_expected) { (void)e; return told(a, securereg_error_expected((securereg_error){a->token})); }
CALL(error_actual) { (void)e; return told(a, securereg_error_actual((securereg_error){a->token})); }
CALL(error_free) { (void)e; return securereg_error_free((securereg_error){a->token}); }
CALL(text_data) {
    return securereg_text_data((securereg_text){a->token}, at(a, 1, &a->out.string), at(a, 2, &a->out.len), e);
}
CALL(text_free) { (void)e; return securereg_text_free((securereg_text){a->token}); }
CALL(open) { return securereg_open(at(a, 0, kit_root("world")), at(a, 1, &a->open), GIVES(2), e); }
CALL(close) { (void)e; return securereg_close((securereg_registry){a->token}); }
#define R ((securereg_registry){a->token})
CALL(generation) { return securereg_generation(R, at(a, 1, &a->out.number), e); }
CALL(list_models) { return securereg_list_models(R, GIVES(1), e); }
CALL(lookup) { return securereg_lookup(R, at(a, 1, "tiny"), GIVES(2), e); }
CALL(describe) { return securereg_describe(R, at(a, 1, "tiny"), GIVES(2), e); }
CALL(mount_path) {
    int32_t status = securereg_mount_path(R, at(a, 1, "tiny"), GIVES(2), e);
    if (status != SECUREREG_NOT_MOUNTED) return status;
    /* There is no mount in these tests: that it says so is the success. */
    if (e) securereg_error_free(*e), e->id = 0;
    a->out.handle = 0;
    return SECUREREG_OK;
}
CALL(promote) {
    return securereg_promote(R, at(a, 1, a->source), at(a, 2, a->victim), at(a, 3, &a->promote), at(a, 4, &a->task),
                             at(a, 5, &a->out.promotion), GIVES(6), e);
}
CALL(verify) { return securereg_verify(R, at(a, 1, "tiny"), at(a, 2, &a->task), e); }
CALL(verify_all) { return securereg_verify_all(R, at(a, 1, &a->task), e); }
CALL(integrity) { return securereg_integrity(R, GIVES(1), e); }
CALL(quarantine) { return securereg_quarantine(R, at(a, 1, a->victim), at(a, 2, "a test"), at(a, 3, "INC-1"), e); }
CALL(release) { return securereg_release(R, at(a, 1, a->victim), at(a, 2, "a test"), at(a, 3, &a->task), e); }
CALL(delete) { return securereg_delete(R, at(a, 1, a->victim), e); }
CALL(model_get) { return securereg_model_get((securereg_model){a->token}, at(a, 1, &a->out.model), e); }
CALL(model_file) {
    return securereg_model_file((securereg_model){a->token}, a->index, at(a, 2, &a->out.file), e);
}
CALL(model_free) { (void)e; return securereg_model_free((securereg_model){a->token}); }
CALL(list_count) { return securereg_list_count((securereg_list){a->token}, at(a, 1, &a->out.number), e); }
CALL(list_at) { return securereg_list_at((securereg_list){a->token}, a->index, GIVES(2), e); }
CALL(list_free) { (void)e; return securereg_list_free((securereg_list){a->token}); }
CALL(file_open) { return securereg_file_open(R, at(a, 1, "tiny"), at(a, 2, TINY), GIVES(3), e); }
CALL(file_size) { return securereg_file_size((securereg_file){a->token}, at(a, 1, &a->out.number), e); }
CALL(read_at) {
    return securereg_read_at((securereg_file){a->token}, at(a, 1, a->out.buffer), sizeof a->out.buffer, a->index,
                             at(a, 4, &a->out.len), e);
}
CALL(file_close) { (void)e; return securereg_file_close((securereg_file){a->token}); }
CALL(open_sealed) {
    return securereg_open_sealed(R, at(a, 1, "tiny"), at(a, 2, TINY), at(a, 3, &a->task), GIVES(4), e);
}
CALL(map) {
    return securereg_map(R, at(a, 1, "tiny"), at(a, 2, TINY), at(a, 3, &a->task), GIVES(4), at(a, 5, &a->out.data),
                         at(a, 6, &a->out.len), e);
}
#define S ((securereg_sealed){a->token})
CALL(sealed_map) { return securereg_sealed_map(S, at(a, 1, &a->out.data), at(a, 2, &a->out.len), e); }
CALL(sealed_fd) { return securereg_sealed_fd(S, at(a, 1, &a->out.descriptor), e); }
CALL(sealed_path) { return securereg_sealed_path(S, at(a, 1, &a->out.string), e); }
CALL(sealed_close) { (void)e; return securereg_sealed_close(S); }
CALL(events_open) { return securereg_events_open(R, GIVES(1), e); }
CALL(events_fd) { return securereg_events_fd((securereg_events){a->token}, at(a, 1, &a->out.descriptor), e); }
CALL(events_next) { return securereg_events_next((securereg_events){a->token}, at(a, 1, &a->out.event), e); }
CALL(events_close) { (void)e; return securereg_events_close((securereg_events){a->token}); }
CALL(gguf_open) { return securereg_gguf_open(R, at(a, 1, "tiny"), at(a, 2, TINY), GIVES(3), e); }
#define G ((securereg_gguf){a->token})
CALL(gguf_get) { return securereg_gguf_get(G, at(a, 1, &a->out.gguf), e); }
CALL(gguf_pair_at) { return securereg_gguf_pair_at(G, a->index, at(a, 2, &a->out.pair), e); }
CALL(gguf_find) { return securereg_gguf_find(G, at(a, 1, "llama.vocab_size"), at(a, 2, &a->out.pair), e); }
CALL(gguf_string) {
    return securereg_gguf_string(G, 15, a->index, at(a, 3, &a->out.string), at(a, 4, &a->out.len), e);
}
CALL(gguf_tensor_at) { return securereg_gguf_tensor_at(G, a->index, at(a, 2, &a->out.tensor), e); }
CALL(gguf_free) { (void)e; return securereg_gguf_free(G); }

/* --- the table --- */

#define ROW(function, takes, gives, parameters, flags) \
    { "securereg_" #function, takes, gives, parameters, flags, call_##function }

/* In an order in which each finds what it needs: what is promoted is quarantined, released and deleted again. */
const struct call CALLS[] = {
    ROW(status_name, NONE, NONE, "n", NO_ERROR | NO_BOUNDARY),
    ROW(version, NONE, NONE, "", NO_ERROR | NO_BOUNDARY),
    ROW(error_status, ERROR, NONE, "h", NO_ERROR | NO_BOUNDARY),
    ROW(error_message, ERROR, NONE, "h", NO_ERROR | NO_BOUNDARY | TELLS),
    ROW(error_model, ERROR, NONE, "h", NO_ERROR | NO_BOUNDARY | TELLS),
    ROW(error_expected, ERROR, NONE, "h", NO_ERROR | NO_BOUNDARY | TELLS),
    ROW(error_actual, ERROR, NONE, "h", NO_ERROR | NO_BOUNDARY | TELLS),
    ROW(error_free, ERROR, NONE, "h", NO_ERROR | FREES),
    ROW(text_data, TEXT, NONE, "hope", 0),
    ROW(text_free, TEXT, NONE, "h", NO_ERROR | FREES),
    ROW(open, NONE, REGISTRY, "rioe", 0),
    ROW(close, REGISTRY, NONE, "h", NO_ERROR | FREES),
    ROW(generation, REGISTRY, NONE, "hoe", 0),
    ROW(list_models, REGISTRY, LIST, "hoe", 0),
    ROW(lookup, REGISTRY, MODEL, "hsoe", 0),
    ROW(describe, REGISTRY, TEXT, "hsoe", 0),
    ROW(mount_path, REGISTRY, TEXT, "hsoe", 0),
    ROW(promote, REGISTRY, MODEL, "hssiivpe", CHANGES),
    ROW(verify, REGISTRY, NONE, "hsie", 0),
    ROW(verify_all, REGISTRY, NONE, "hie", CHANGES),
    ROW(integrity, REGISTRY, TEXT, "hoe", 0),
    ROW(quarantine, REGISTRY, NONE, "hssze", CHANGES),
    ROW(release, REGISTRY, NONE, "hssie", CHANGES),
    ROW(delete, REGISTRY, NONE, "hse", CHANGES),
    ROW(model_get, MODEL, NONE, "hwe", 0),
    ROW(model_file, MODEL, NONE, "hnwe", 0),
    ROW(model_free, MODEL, NONE, "h", NO_ERROR | FREES),
    ROW(list_count, LIST, NONE, "hoe", 0),
    ROW(list_at, LIST, MODEL, "hnoe", 0),
    ROW(list_free, LIST, NONE, "h", NO_ERROR | FREES),
    ROW(file_open, REGISTRY, FILE_, "hszoe", 0),
    ROW(file_size, FILE_, NONE, "hoe", 0),
    ROW(read_at, FILE_, NONE, "hbnnoe", 0),
    ROW(file_close, FILE_, NONE, "h", NO_ERROR | FREES),
    ROW(open_sealed, REGISTRY, SEALED, "hszioe", 0),
    ROW(map, REGISTRY, SEALED, "hszioooe", 0),
    ROW(sealed_map, SEALED, NONE, "hooe", 0),
    ROW(sealed_fd, SEALED, NONE, "hoe", 0),
    ROW(sealed_path, SEALED, NONE, "hoe", 0),
    ROW(sealed_close, SEALED, NONE, "h", NO_ERROR | FREES),
    ROW(events_open, REGISTRY, EVENTS, "hoe", 0),
    ROW(events_fd, EVENTS, NONE, "hoe", 0),
    ROW(events_next, EVENTS, NONE, "hwe", 0),
    ROW(events_close, EVENTS, NONE, "h", NO_ERROR | FREES),
    ROW(gguf_open, REGISTRY, GGUF, "hszoe", 0),
    ROW(gguf_get, GGUF, NONE, "hwe", 0),
    ROW(gguf_pair_at, GGUF, NONE, "hnwe", 0),
    ROW(gguf_find, GGUF, NONE, "hswe", 0),
    ROW(gguf_string, GGUF, NONE, "hnnooe", 0),
    ROW(gguf_tensor_at, GGUF, NONE, "hnwe", 0),
    ROW(gguf_free, GGUF, NONE, "h", NO_ERROR | FREES),
};
const unsigned CALL_COUNT = sizeof CALLS / sizeof *CALLS;

int parameter(const struct call *call, const char *letters, int from) {
    for (int i = from; call->parameters[i]; i++)
        if (strchr(letters, call->parameters[i])) return i;
    return -1;
}

size_t struct_size(const struct call *call, int at) {
    char letter = call->parameters[at];
    if (letter == 'i')
        return call->takes == NONE                            ? sizeof(securereg_open_options)
               : at == 3 && strstr(call->name, "promote") ? sizeof(securereg_promote_options)
                                                            : sizeof(securereg_task);
    static const struct {
        const char *name;
        size_t size;
    } filled[] = {
        {"securereg_promote", sizeof(securereg_promotion)},     {"securereg_model_get", sizeof(securereg_model_info)},
        {"securereg_model_file", sizeof(securereg_file_info)},  {"securereg_events_next", sizeof(securereg_event)},
        {"securereg_gguf_get", sizeof(securereg_gguf_info)},    {"securereg_gguf_pair_at", sizeof(securereg_gguf_pair)},
        {"securereg_gguf_find", sizeof(securereg_gguf_pair)},   {"securereg_gguf_tensor_at", sizeof(securereg_gguf_tensor)},
    };
    for (unsigned i = 0; i < sizeof filled / sizeof *filled; i++)
        if (strcmp(filled[i].name, call->name) == 0) return filled[i].size;
    check_give_up(call->name, __FILE__, __LINE__);
}

/* --- handles --- */

void world_open(struct world *world, const char *name) {
    memset(world, 0, sizeof *world);
    world->root = name;
    world->registry = kit_registry(name);
    kit_promote(world->registry, kit_data(TINY), "tiny");
    securereg_error error = {0};
    CHECK_OK(securereg_verify_all(world->registry, NULL, &error), &error);
    for (enum kind kind = REGISTRY; kind < ERROR; kind++) world->token[kind] = world_make(world, kind);
    /* One that has all there is in an error. */
    securereg_promote_options options = {.size = sizeof options, .sha256 = TINY_SHA256};
    int32_t status =
        securereg_promote(world->registry, kit_small("wrong"), "wrong", &options, NULL, NULL, NULL, &error);
    REQUIRE(CHECK_INT(status, SECUREREG_DIGEST_MISMATCH));
    world->token[ERROR] = error.id;
}

void world_close(struct world *world) {
    for (enum kind kind = REGISTRY; kind < KINDS; kind++) CHECK_OK(give_back(kind, world->token[kind]), NULL);
    CHECK_OK(securereg_close(world->registry), NULL);
}

uint64_t world_make(const struct world *world, enum kind kind) {
    securereg_registry registry = world->registry;
    securereg_error error = {0};
    uint64_t token = 0;
    int32_t status = SECUREREG_OK;
    switch (kind) {
    case REGISTRY: return kit_open(world->root, SECUREREG_OPEN_WRITE).id;
    case LIST: status = securereg_list_models(registry, (void *)&token, &error); break;
    case MODEL: status = securereg_lookup(registry, "tiny", (void *)&token, &error); break;
    case FILE_: status = securereg_file_open(registry, "tiny", NULL, (void *)&token, &error); break;
    case SEALED: status = securereg_open_sealed(registry, "tiny", NULL, NULL, (void *)&token, &error); break;
    case EVENTS: status = securereg_events_open(registry, (void *)&token, &error); break;
    case GGUF: status = securereg_gguf_open(registry, "tiny", NULL, (void *)&token, &error); break;
    case TEXT: status = securereg_describe(registry, "tiny", (void *)&token, &error); break;
    case ERROR:
        REQUIRE(CHECK_INT(securereg_lookup(registry, "missing", (void *)&token, &error), SECUREREG_NOT_FOUND));
        return error.id;
    case NONE:
    case KINDS: check_give_up("a kind of handle", __FILE__, __LINE__);
    }
    REQUIRE(CHECK_OK(status, &error) && token != 0);
    return token;
}

int32_t give_back(enum kind kind, uint64_t token) {
    switch (kind) {
    case REGISTRY: return securereg_close((securereg_registry){token});
    case LIST: return securereg_list_free((securereg_list){token});
    case MODEL: return securereg_model_free((securereg_model){token});
    case FILE_: return securereg_file_close((securereg_file){token});
    case SEALED: return securereg_sealed_close((securereg_sealed){token});
    case EVENTS: return securereg_events_close((securereg_events){token});
    case GGUF: return securereg_gguf_free((securereg_gguf){token});
    case TEXT: return securereg_text_free((securereg_text){token});
    case ERROR: return securereg_error_free((securereg_error){token});
    case NONE:
    case KINDS: break;
    }
    check_give_up("a kind of handle", __FILE__, __LINE__);
}

/* --- calling --- */

static int32_t go_on(void *user, uint32_t phase, uint64_t done, uint64_t total) {
    (void)user;
    return phase <= SECUREREG_PHASE_VERIFY && done <= total ? 0 : 1;
}

void args_begin(struct args *args, const struct world *world, unsigned number) {
    (void)world;
    memset(args, 0, sizeof *args);
    args->null = args->swap = -1;
    /* Bytes of its own: an incident is of bytes, and would refuse the promotions of others. */
    snprintf(args->victim, sizeof args->victim, "victim-%u", number);
    snprintf(args->source, sizeof args->source, "%s", kit_small(args->victim));
    args->open = (securereg_open_options){.size = sizeof args->open, .flags = SECUREREG_OPEN_WRITE};
    args->promote = (securereg_promote_options){.size = sizeof args->promote, .format = "gguf", .source = "a test"};
    args->task = (securereg_task){.size = sizeof args->task, .progress = go_on};
}

void args_reset(struct args *args) {
    struct outputs *out = &args->out;
    memset(out, 0xA5, sizeof *out);
    out->promotion.size = sizeof out->promotion;
    out->model.size = sizeof out->model;
    out->file.size = sizeof out->file;
    out->event.size = sizeof out->event;
    out->gguf.size = sizeof out->gguf;
    out->pair.size = sizeof out->pair;
    out->tensor.size = sizeof out->tensor;
    args->returned = NULL;
}

/* The victim must be there to be quarantined, released or deleted. */
void call_prepare(const struct call *call, const struct world *world, struct args *args) {
    if (call->flags & FREES) args->token = world_make(world, call->takes);
    if (parameter(call, "s", 0) >= 0 && call->flags & CHANGES && strcmp(call->name, "securereg_promote") != 0) {
        securereg_model there = {0};
        if (securereg_lookup(world->registry, args->victim, &there, NULL) == SECUREREG_NOT_FOUND)
            kit_promote(world->registry, args->source, args->victim);
        CHECK_OK(securereg_model_free(there), NULL);
    }
}

int32_t call_well(const struct call *call, const struct world *world, struct args *args, securereg_error *error) {
    if (!(call->flags & FREES)) args->token = world->token[call->takes];
    call_prepare(call, world, args);
    args_reset(args);
    int32_t status = call->run(args, error);
    if (status == SECUREREG_OK && call->gives != NONE && args->null != parameter(call, "op", 0))
        CHECK_OK(give_back(call->gives, args->out.handle), NULL);
    return status;
}

int call_badly(const struct call *call, struct args *args, int32_t want, const char *part) {
    args_reset(args);
    struct outputs before;
    memcpy(&before, &args->out, sizeof before);
    securereg_error error = {0};
    check_about(call->name);
    int32_t status = call->run(args, &error);
    int good = CHECK_FAILS(status, want, call->flags & NO_ERROR ? NULL : &error, part);
    good &= CHECK(memcmp(&before, &args->out, sizeof before) == 0);
    if (!(call->flags & NO_ERROR)) {
        /* Who does not want to know need not. */
        args_reset(args);
        good &= CHECK_INT(call->run(args, NULL), want);
        good &= CHECK(memcmp(&before, &args->out, sizeof before) == 0);
    }
    return good;
}
