/* abi.c: what the header promises of every function alike, one thread.
 *
 * Owns: success, NULL, sizes of structs, alignment, hostile strings, handles that are closed, freed or of another kind, and
 * errors: for each function and each of its parameters. Leaves out: what the functions do (registry.c and the rest).
 */
#include "calls.h"
#include "check.h"
#include "kit.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static struct world world;
static struct args args;

/* Every function, with arguments of its own. */
#define EACH_CALL(c) \
    for (const struct call *c = CALLS; c < CALLS + CALL_COUNT && (args_begin(&args, &world, 0), check_about(c->name), 1); c++)

/* The next parameter of these letters. */
#define EACH_PARAMETER(c, letters, at) \
    for (int at = parameter(c, letters, 0); at >= 0; at = parameter(c, letters, at + 1))

static void each_function_succeeds(void) {
    EACH_CALL(c) {
        securereg_error error = {0};
        CHECK_OK(call_well(c, &world, &args, &error), &error);
        check_covered(c->name, "success", -1);
    }
}

/* Ready to be called, with the handle it wants. */
static void ready(const struct call *c) {
    if (c->takes != NONE) args.token = world.token[c->takes];
    call_prepare(c, &world, &args);
}

static void null_is_refused_or_allowed_as_the_header_says(void) {
    EACH_CALL(c) {
        EACH_PARAMETER(c, "sbow", at) {
            ready(c);
            args.null = at;
            CHECK(call_badly(c, &args, SECUREREG_NULL, "NULL"));
            check_covered(c->name, "null", at);
        }
        EACH_PARAMETER(c, "zipv", at) {
            securereg_error error = {0};
            args.null = at;
            CHECK_OK(call_well(c, &world, &args, &error), &error);
            check_covered(c->name, "null", at);
        }
        EACH_PARAMETER(c, "r", at) {
            /* The default root of whoever runs this: read only, and whatever is there. */
            args.null = at;
            args.open.flags = 0;
            int32_t status = call_well(c, &world, &args, NULL);
            CHECK(status == SECUREREG_OK || status == SECUREREG_NOT_FOUND || status == SECUREREG_PERMISSION);
            check_covered(c->name, "null", at);
        }
    }
}

/* A copy of a call's struct in memory of exactly this many bytes, `value` behind the struct itself. */
static void *resized(const struct call *c, int at, size_t claimed, size_t room, int value) {
    size_t known = struct_size(c, at);
    char *copy = malloc(room);
    REQUIRE(copy);
    memset(copy, value, room);
    memcpy(copy, args.seen[at], room < known ? room : known);
    memcpy(copy, &claimed, sizeof claimed);
    return copy;
}

static void the_size_of_a_struct_is_believed_only_as_far_as_it_is_known(void) {
    EACH_CALL(c) EACH_PARAMETER(c, "iwv", at) {
        size_t size = struct_size(c, at);
        int is_input = c->parameters[at] == 'i';
        CHECK_OK(call_well(c, &world, &args, NULL), NULL); /* args.seen has the struct now */

        const size_t wrong[] = {0, 1, sizeof(size_t), size - 1, 4097, SIZE_MAX / 2, SIZE_MAX};
        for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            ready(c);
            /* No more memory than the size itself, so that a tool sees who reads on. */
            void *copy = resized(c, at, wrong[i], sizeof(size_t), 0);
            args.swap = at, args.with = copy;
            CHECK(call_badly(c, &args, SECUREREG_WRONG_SIZE, "size"));
            args.swap = -1;
            free(copy);
        }
        const size_t larger[] = {size, size + 1, size + 8, 4096};
        for (unsigned i = 0; i < 4; i++) {
            securereg_error error = {0};
            char *copy = resized(c, at, larger[i], larger[i], 0);
            args.swap = at, args.with = copy;
            CHECK_OK(call_well(c, &world, &args, &error), &error);
            size_t told;
            memcpy(&told, copy, sizeof told);
            CHECK_INT(told, larger[i]);
            for (size_t n = size; n < larger[i]; n++) CHECK_INT(copy[n], 0);

            /* What a newer program asks for and this library does not know: refused. What it only makes room for: not. */
            if (larger[i] > size) {
                copy[larger[i] - 1] = 1;
                if (is_input) {
                    ready(c);
                    CHECK(call_badly(c, &args, SECUREREG_WRONG_SIZE, "size"));
                } else {
                    CHECK_OK(call_well(c, &world, &args, &error), &error);
                    CHECK_INT(copy[larger[i] - 1], 1);
                }
            }
            args.swap = -1;
            free(copy);
        }
        check_covered(c->name, "size", at);
    }
}

static void a_pointer_that_is_not_aligned_is_refused(void) {
    static union {
        max_align_t aligned;
        char bytes[1024];
    } memory;
    EACH_CALL(c) EACH_PARAMETER(c, "owvpi", at) {
        CHECK_OK(call_well(c, &world, &args, NULL), NULL);
        memcpy(memory.bytes + 1, args.seen[at], strchr("op", c->parameters[at]) ? 4 : struct_size(c, at));
        char before[sizeof memory];
        memcpy(before, memory.bytes, sizeof before);
        ready(c);
        args.swap = at, args.with = memory.bytes + 1;
        CHECK(call_badly(c, &args, SECUREREG_INVALID_INPUT, "align"));
        CHECK(memcmp(before, memory.bytes, sizeof before) == 0);
        args.swap = -1;
        check_covered(c->name, "align", at);
    }
}

/* The error itself: nobody can be told, and nobody dies. */
static void an_error_that_is_not_aligned_is_not_written(void) {
    static union {
        uint64_t aligned;
        char bytes[32];
    } memory;
    EACH_CALL(c) EACH_PARAMETER(c, "e", at) {
        static const char untouched[sizeof memory.bytes];
        memset(&memory, 0, sizeof memory);
        args.token = UINT64_MAX;
        args.null = c->takes == NONE ? 2 : -1;
        args_reset(&args);
        int32_t status = c->run(&args, (void *)(memory.bytes + 1));
        CHECK_INT(status, c->takes == NONE ? SECUREREG_NULL : SECUREREG_CLOSED);
        CHECK(memcmp(memory.bytes, untouched, sizeof untouched) == 0);
        check_covered(c->name, "align", at);
    }
}

static void hostile_strings_are_refused(void) {
    size_t len = 1 << 20;
    char *text = malloc(len + 1);
    REQUIRE(text);
    memset(text, 'a', len);
    text[len] = 0;
    EACH_CALL(c) EACH_PARAMETER(c, "szr", at) {
        /* The bytes in one block each, so that a tool sees who reads beyond. */
        static const char *const bad[] = {"\xff", "a\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "t\xc3"};
        for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
            char *copy = strdup(bad[i]);
            ready(c);
            args.swap = at, args.with = copy;
            CHECK(call_badly(c, &args, SECUREREG_INVALID_INPUT, "UTF-8"));
            free(copy);
        }
        const char *const odd[] = {text, "", "../tiny", "tiny\n", "a:b:c", "\xe2\x80\xae"};
        for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++) {
            ready(c);
            args_reset(&args);
            args.swap = at, args.with = odd[i];
            securereg_error error = {0};
            int32_t status = c->run(&args, &error);
            /* Why it is quarantined or released may be said in any words; a quarantine keeps them, in bearable length. */
            int in_words = at > 1 && (strstr(c->name, "release") || (i > 0 && strstr(c->name, "quarantine")));
            if (in_words && status == SECUREREG_OK) continue;
            CHECK(status != SECUREREG_OK && status != SECUREREG_PANIC);
            CHECK_FAILS(status, status, &error, NULL);
        }
        args.swap = -1;
        check_covered(c->name, "string", at);
    }
    free(text);
}

static void a_handle_that_is_none_closed_or_of_another_kind_is_refused(void) {
    EACH_CALL(c) {
        if (c->takes == NONE) continue;
        /* None: nothing to free, nothing else to be done with. */
        args.token = 0;
        if (c->flags & FREES || strcmp(c->name, "securereg_error_status") == 0) {
            CHECK_OK(c->run(&args, NULL), NULL);
        } else {
            CHECK(call_badly(c, &args, SECUREREG_CLOSED, "zero"));
        }
        /* Closed. */
        args.token = world_make(&world, c->takes);
        CHECK_OK(give_back(c->takes, args.token), NULL);
        uint64_t closed = args.token;
        CHECK(call_badly(c, &args, SECUREREG_CLOSED, "closed"));
        /* Closed, and its place in the table taken by another. */
        uint64_t next = world_make(&world, c->takes);
        CHECK(next != closed);
        CHECK(call_badly(c, &args, SECUREREG_CLOSED, "closed"));
        CHECK_OK(give_back(c->takes, next), NULL);
        /* Of every other kind, alive. */
        for (enum kind kind = REGISTRY; kind < KINDS; kind++) {
            if (kind == c->takes) continue;
            args.token = world.token[kind];
            CHECK(call_badly(c, &args, SECUREREG_CLOSED, "something else"));
        }
        /* Made up. */
        const uint64_t never[] = {1, UINT32_MAX, UINT64_MAX, (uint64_t)1 << 32 | UINT32_MAX, (uint64_t)UINT32_MAX << 32,
                                  closed ^ (uint64_t)1 << 63, world.token[c->takes] + ((uint64_t)1 << 32)};
        for (unsigned i = 0; i < sizeof never / sizeof *never; i++) {
            args.token = never[i];
            CHECK(call_badly(c, &args, SECUREREG_CLOSED, NULL));
        }
        check_covered(c->name, "closed", -1);
    }
    /* None of that did any harm. */
    each_function_succeeds();
}

static void what_is_freed_twice_is_closed(void) {
    EACH_CALL(c) {
        if (!(c->flags & FREES)) continue;
        uint64_t token = args.token = world_make(&world, c->takes), bystander = world_make(&world, c->takes);
        CHECK_OK(c->run(&args, NULL), NULL);
        for (int i = 0; i < 3; i++) CHECK_INT(c->run(&args, NULL), SECUREREG_CLOSED);
        uint64_t next = world_make(&world, c->takes);
        CHECK(next != token);
        CHECK_INT(c->run(&args, NULL), SECUREREG_CLOSED);
        CHECK_OK(give_back(c->takes, next), NULL);
        CHECK_OK(give_back(c->takes, bystander), NULL);
        check_covered(c->name, "twice", -1);
    }
}

static void a_token_never_comes_back(void) {
    enum { MANY = 2000 };
    static uint64_t seen[MANY];
    for (int i = 0; i < MANY; i++) {
        seen[i] = world_make(&world, MODEL);
        CHECK_OK(give_back(MODEL, seen[i]), NULL);
    }
    for (int i = 0; i < MANY; i++)
        for (int j = 0; j < i; j++)
            if (seen[i] == seen[j]) CHECK(!"a token came back");
}

static void an_error_is_written_on_failure_and_only_then(void) {
    EACH_CALL(c) {
        if (c->flags & NO_ERROR) continue;
        /* A success leaves even an error of before as it was. */
        securereg_error error = {0x5A5A5A5A5A5A5A5A};
        if (c->run != NULL && strcmp(c->name, "securereg_mount_path") != 0) {
            CHECK_OK(call_well(c, &world, &args, &error), NULL);
            CHECK(error.id == 0x5A5A5A5A5A5A5A5A);
        }
        /* A failure writes it, and the error says what failed; one that nobody wants is not made. */
        error.id = 0;
        args.token = UINT64_MAX;
        args.null = c->takes == NONE ? 2 : -1;
        args_reset(&args);
        int32_t want = c->takes == NONE ? SECUREREG_NULL : SECUREREG_CLOSED;
        CHECK_INT(c->run(&args, NULL), want);
        CHECK_INT(c->run(&args, &error), want);
        CHECK_INT(securereg_error_status(error), want);
        CHECK(*securereg_error_message(error) != 0);
        CHECK_TEXT(securereg_error_model(error), "");
        CHECK_TEXT(securereg_error_expected(error), "");
        CHECK_TEXT(securereg_error_actual(error), "");
        CHECK_OK(securereg_error_free(error), NULL);
        CHECK_INT(securereg_error_status(error), SECUREREG_CLOSED);
        CHECK_TEXT(securereg_error_message(error), "");
        check_covered(c->name, "error", -1);
    }
    securereg_error none = {0};
    CHECK_OK(securereg_error_status(none), NULL);
    CHECK_TEXT(securereg_error_message(none), "");
    CHECK_TEXT(securereg_error_model(none), "");
    CHECK_TEXT(securereg_error_expected(none), "");
    CHECK_TEXT(securereg_error_actual(none), "");
}

/* A string belongs to its error: errors that are made and freed meanwhile do not move it. */
static void the_strings_of_an_error_stay_where_they_are(void) {
    securereg_error held = {world.token[ERROR]};
    const char *message = securereg_error_message(held);
    char *before = strdup(message);
    for (int i = 0; i < 1000; i++) CHECK_OK(give_back(ERROR, world_make(&world, ERROR)), NULL);
    CHECK(securereg_error_message(held) == message);
    CHECK_TEXT(message, before);
    free(before);
    CHECK_INT(securereg_error_status(held), SECUREREG_DIGEST_MISMATCH);
    CHECK_TEXT(securereg_error_model(held), "wrong");
    CHECK_TEXT(securereg_error_expected(held), TINY_SHA256);
    CHECK_INT(strlen(securereg_error_actual(held)), 64);
}

static void every_status_has_its_word(void) {
    static const struct {
        int32_t status;
        const char *word;
    } words[] = {
        {SECUREREG_OK, "ok"},
        {SECUREREG_INVALID_INPUT, "invalid_input"},
        {SECUREREG_DIGEST_MISMATCH, "digest_mismatch"},
        {SECUREREG_REFUSED, "refused"},
        {SECUREREG_SOURCE_CHANGED, "source_changed"},
        {SECUREREG_CONFLICT, "conflict"},
        {SECUREREG_NOT_FOUND, "not_found"},
        {SECUREREG_QUARANTINED, "quarantined"},
        {SECUREREG_CORRUPT, "corrupt"},
        {SECUREREG_UNREADABLE, "unreadable"},
        {SECUREREG_MANIFEST, "manifest"},
        {SECUREREG_AUDIT, "audit"},
        {SECUREREG_NOT_MOUNTED, "not_mounted"},
        {SECUREREG_NO_SPACE, "no_space"},
        {SECUREREG_TOO_LARGE, "too_large"},
        {SECUREREG_PERMISSION, "permission"},
        {SECUREREG_UNSUPPORTED, "unsupported"},
        {SECUREREG_CANCELLED, "cancelled"},
        {SECUREREG_IO, "io"},
        {SECUREREG_NO_MEMORY, "no_memory"},
        {SECUREREG_CLOSED, "closed"},
        {SECUREREG_FORKED, "forked"},
        {SECUREREG_NULL, "null"},
        {SECUREREG_WRONG_SIZE, "wrong_size"},
        {SECUREREG_TOO_MANY, "too_many"},
        {SECUREREG_PANIC, "panic"},
        {20, "unknown"},
        {63, "unknown"},
        {70, "unknown"},
        {-1, "unknown"},
        {INT32_MAX, "unknown"},
        {INT32_MIN, "unknown"},
    };
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        CHECK_TEXT(securereg_status_name(words[i].status), words[i].word);
    CHECK_TEXT(securereg_version(), SECUREREG_VERSION);
}

/* A million handles: not under a tool. */
static void too_many_handles_are_refused_and_nothing_else_breaks(void) {
    enum { LIMIT = 1 << 20 };
    if (!kit_is("plain")) return;
    uint64_t *tokens = malloc((LIMIT + 1) * sizeof *tokens);
    REQUIRE(tokens);
    securereg_list list = {world.token[LIST]};
    unsigned count = 0;
    int32_t status = SECUREREG_OK;
    for (; count <= LIMIT && status == SECUREREG_OK; count += status == SECUREREG_OK) {
        securereg_model model = {0xA5};
        status = securereg_list_at(list, 0, &model, NULL);
        CHECK((status == SECUREREG_OK) == (model.id != 0xA5));
        tokens[count] = model.id;
    }
    CHECK_INT(status, SECUREREG_TOO_MANY);
    CHECK(count > LIMIT - 100 && count < LIMIT);
    /* With no room for an error either, the status alone tells. */
    securereg_error error = {0};
    securereg_registry registry = {0xA5};
    CHECK_INT(securereg_open(kit_root("world"), NULL, &registry, &error), SECUREREG_TOO_MANY);
    CHECK(registry.id == 0xA5 && error.id == 0);
    uint64_t size = 0;
    CHECK_OK(securereg_file_size((securereg_file){world.token[FILE_]}, &size, &error), &error);
    for (unsigned i = 0; i < count; i++) CHECK_OK(securereg_model_free((securereg_model){tokens[i]}), NULL);
    free(tokens);
    each_function_succeeds();
}

static void begin(void) { world_open(&world, "world"); }
static void end(void) { world_close(&world); }

static const struct test tests[] = {
    {"the_world_opens", begin},
    {"each_function_succeeds", each_function_succeeds},
    {"null_is_refused_or_allowed_as_the_header_says", null_is_refused_or_allowed_as_the_header_says},
    {"the_size_of_a_struct_is_believed_only_as_far_as_it_is_known",
     the_size_of_a_struct_is_believed_only_as_far_as_it_is_known},
    {"a_pointer_that_is_not_aligned_is_refused", a_pointer_that_is_not_aligned_is_refused},
    {"hostile_strings_are_refused", hostile_strings_are_refused},
    {"a_handle_that_is_none_closed_or_of_another_kind_is_refused",
     a_handle_that_is_none_closed_or_of_another_kind_is_refused},
    {"what_is_freed_twice_is_closed", what_is_freed_twice_is_closed},
    {"a_token_never_comes_back", a_token_never_comes_back},
    {"an_error_is_written_on_failure_and_only_then", an_error_is_written_on_failure_and_only_then},
    {"the_strings_of_an_error_stay_where_they_are", the_strings_of_an_error_stay_where_they_are},
    {"every_status_has_its_word", every_status_has_its_word},
    {"too_many_handles_are_refused_and_nothing_else_breaks", too_many_handles_are_refused_and_nothing_else_breaks},
    {"an_error_that_is_not_aligned_is_not_written", an_error_that_is_not_aligned_is_not_written},
    {"the_world_closes", end},
};
TESTS(tests)
