/* calls.h: every function of the library in one table, to be called in the same way.
 *
 * Owns: for each function a call that succeeds, what must be done before it, and which of its parameters may be what.
 * Promises: each call writes only into its own `struct args`, so that any number of threads may call at once. Leaves out:
 * what is tested with it (abi.c, forked.c, panics.c, threads.c). run.sh compares what these cover with the header, so that
 * a function or a parameter that is missing here is found.
 */
#ifndef CALLS_H
#define CALLS_H

#include "securereg.h"

#include <stddef.h>
#include <stdint.h>

/* What a handle is of. */
enum kind { NONE, REGISTRY, LIST, MODEL, FILE_, SEALED, EVENTS, GGUF, TEXT, ERROR, KINDS };

/* What a call writes. */
struct outputs {
    uint64_t handle; /* every handle is a struct of just this */
    uint64_t number;
    size_t len;
    const void *data;
    const char *string;
    int descriptor;
    securereg_promotion promotion;
    securereg_model_info model;
    securereg_file_info file;
    securereg_event event;
    securereg_gguf_info gguf;
    securereg_gguf_pair pair;
    securereg_gguf_tensor tensor;
    char buffer[64];
};

enum { PARAMETERS = 8 };

/* One caller's arguments and results. */
struct args {
    uint64_t token;              /* the handle */
    uint64_t index;
    int null;                    /* the pointer parameter that is NULL, or -1 */
    int swap;                    /* the one that is `with` instead, or -1 */
    const void *with;
    const void *seen[PARAMETERS]; /* the pointers of the last call */
    const char *returned;        /* of a function that returns a string */
    char victim[64], source[512]; /* the caller's own model, to be changed */
    securereg_open_options open;
    securereg_promote_options promote;
    securereg_task task;
    struct outputs out;
};

/* Does not end in a status; goes through no boundary that could stop a panic, nor needs one; frees its handle; changes
 * the disk; its string is "" when the handle is nothing. */
enum { NO_ERROR = 1, NO_BOUNDARY = 2, FREES = 4, CHANGES = 8, TELLS = 16 };

struct call {
    const char *name;
    enum kind takes, gives;
    /* One letter a parameter: h handle, n number, s string, z string or NULL, r root or NULL, b buffer, o output, p output
     * or NULL, i sized struct or NULL, w sized struct to be filled, v the same or NULL, e error. */
    const char *parameters;
    unsigned flags;
    int32_t (*run)(struct args *, securereg_error *);
};

extern const struct call CALLS[];
extern const unsigned CALL_COUNT;

/* A registry with a model, and a handle of each kind in it. */
struct world {
    const char *root;
    securereg_registry registry;
    uint64_t token[KINDS];
};
void world_open(struct world *world, const char *name);
void world_close(struct world *world);

/* A new handle of this kind, and its end. */
uint64_t world_make(const struct world *world, enum kind kind);
int32_t give_back(enum kind kind, uint64_t token);

/* Arguments of a caller of its own, told apart by `number`. */
void args_begin(struct args *args, const struct world *world, unsigned number);
/* Fills all outputs with a pattern, and sets the sizes of structs. */
void args_reset(struct args *args);

/* Calls so that it must succeed, with what must be before and after; the status. `error` may be NULL. */
int32_t call_well(const struct call *call, const struct world *world, struct args *args, securereg_error *error);

/* Does what must be before such a call; then the handle it frees is args->token. */
void call_prepare(const struct call *call, const struct world *world, struct args *args);

/* A call that must fail: with this status and an error (if the function tells one), and no output touched. */
int call_badly(const struct call *call, struct args *args, int32_t want, const char *part);

/* Where a parameter of this letter is, or -1; from `from` on. */
int parameter(const struct call *call, const char *letters, int from);
size_t struct_size(const struct call *call, int at);

#endif
