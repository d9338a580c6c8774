/* promote.c: taking models in.
 *
 * Owns: what the header says of securereg_promote and of what is recorded of a model, by value: outcomes, claims, hostile
 * options, a source that changes, progress and cancelling; and that a failure leaves nothing. Leaves out: what becomes of a
 * model later (registry.c).
 */
#include "check.h"
#include "kit.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static securereg_registry registry;
static securereg_error error;

static void begin(void) { registry = kit_registry("root"); }

static int32_t promote(const char *path, const char *name, const securereg_promote_options *options,
                       securereg_promotion *result) {
    *result = (securereg_promotion){.size = sizeof *result, .outcome = 77, .method = 77};
    return securereg_promote(registry, path, name, options, NULL, result, NULL, &error);
}

static int is_hex(const char *text) { return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64; }

static void a_promoted_model_is_told_as_it_is(void) {
    securereg_promote_options options = {
        .size = sizeof options,
        .sha256 = TINY_SHA256,
        .format = "gguf",
        .filename = "renamed.gguf",
        .source = "https://example.invalid/\"tiny\"",
        .evidence = "{\"scanner\":{\"verdict\":\"clean\"}}",
        .size_bytes = TINY_SIZE,
    };
    securereg_promotion result = {.size = sizeof result};
    securereg_model model = {0};
    securereg_model_info info = {.size = sizeof info};
    CHECK_OK(securereg_promote(registry, kit_data(TINY), "org/tiny:v1", &options, NULL, &result, &model, &error), &error);
    CHECK_INT(result.outcome, SECUREREG_OUTCOME_PROMOTED);
    CHECK(result.method == SECUREREG_METHOD_COPIED || result.method == SECUREREG_METHOD_REFLINKED);
    CHECK_OK(securereg_model_get(model, &info, &error), &error);
    CHECK_TEXT(info.name, "org/tiny:v1");
    CHECK_TEXT(info.sha256, TINY_SHA256);
    CHECK_TEXT(info.format, "gguf");
    CHECK_TEXT(info.layout, "file");
    CHECK_TEXT(info.source, "https://example.invalid/\"tiny\"");
    CHECK_INT(strlen(info.promoted_at), strlen("2026-01-02T03:04:05Z"));
    CHECK(info.promoted_at[10] == 'T' && info.promoted_at[19] == 'Z');
    CHECK_TEXT(info.quarantine_reason, NULL);
    CHECK_TEXT(info.quarantine_cause, NULL);
    CHECK_TEXT(info.incident_id, NULL);
    CHECK_INT(info.size_bytes, TINY_SIZE);
    CHECK_INT(info.file_count, 1);
    CHECK_INT(info.status, SECUREREG_MODEL_PROMOTED);
    CHECK_INT(info.reserved, 0);
    CHECK_INT(info.size, sizeof info);

    securereg_file_info file = {.size = sizeof file};
    CHECK_OK(securereg_model_file(model, 0, &file, &error), &error);
    CHECK_TEXT(file.path, "renamed.gguf");
    CHECK_TEXT(file.sha256, TINY_SHA256);
    CHECK(is_hex(file.blake3) && strcmp(file.blake3, file.sha256) != 0);
    CHECK_INT(file.size_bytes, TINY_SIZE);
    const uint64_t none[] = {1, UINT32_MAX, (uint64_t)UINT32_MAX + 1, UINT64_MAX};
    for (int i = 0; i < 4; i++)
        CHECK_FAILS(securereg_model_file(model, none[i], &file, &error), SECUREREG_NOT_FOUND, &error, "org/tiny:v1");
    CHECK_OK(securereg_model_free(model), NULL);

    /* Everything, as JSON. */
    securereg_text text = {0};
    const char *json;
    size_t len = 0;
    CHECK_OK(securereg_describe(registry, "org/tiny:v1", &text, &error), &error);
    CHECK_OK(securereg_text_data(text, &json, &len, &error), &error);
    CHECK_INT(strlen(json), len);
    CHECK(json[0] == '{' && json[len - 1] == '}');
    CHECK_HAS(json, "\"name\":\"org/tiny:v1\"");
    CHECK_HAS(json, "\"sha256\":\"" TINY_SHA256 "\"");
    CHECK_HAS(json, "\"size_bytes\":1451776");
    CHECK_HAS(json, "\"status\":\"promoted\"");
    CHECK_HAS(json, "\"source\":\"https://example.invalid/\\\"tiny\\\"\"");
    CHECK_HAS(json, "\"scanner\":{\"verdict\":\"clean\"}");
    CHECK_HAS(json, "\"mounted\":false");
    CHECK_OK(securereg_text_free(text), NULL);
    text.id = 7;
    CHECK_FAILS(securereg_describe(registry, "none", &text, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_INT(text.id, 7);
}

static void what_a_promotion_did(void) {
    securereg_promotion result;
    uint64_t before = kit_generation(registry);
    CHECK_OK(promote(kit_small("one"), "m", NULL, &result), &error);
    CHECK_INT(result.outcome, SECUREREG_OUTCOME_PROMOTED);
    CHECK_INT(kit_generation(registry), before + 1);
    CHECK_OK(promote(kit_small("one"), "m", NULL, &result), &error);
    CHECK_INT(result.outcome, SECUREREG_OUTCOME_ALREADY_THERE);
    CHECK_INT(result.method, SECUREREG_METHOD_SHARED);
    CHECK_INT(kit_generation(registry), before + 1);
    /* The same file name holds other bytes now, but the model does not. */
    CHECK_FAILS(promote(kit_small("two"), "m", NULL, &result), SECUREREG_CONFLICT, &error, "m");
    CHECK_INT(result.outcome, 77);
    /* A tag moves. */
    CHECK_OK(promote(kit_small("one"), "t:latest", NULL, &result), &error);
    CHECK_OK(promote(kit_small("two"), "t:latest", NULL, &result), &error);
    CHECK_INT(result.outcome, SECUREREG_OUTCOME_MOVED);
    /* A source that is given away is gone. */
    securereg_promote_options move = {.size = sizeof move, .flags = SECUREREG_PROMOTE_MOVE};
    const char *given = kit_small("given-away");
    CHECK_OK(promote(given, "given", &move, &result), &error);
    CHECK(result.method == SECUREREG_METHOD_ADOPTED || result.method == SECUREREG_METHOD_COPIED ||
          result.method == SECUREREG_METHOD_REFLINKED);
    CHECK(!kit_exists(given));
}

static void a_split_set_has_its_files_sorted(void) {
    securereg_model model = {0};
    securereg_model_info info = {.size = sizeof info};
    securereg_file_info file = {.size = sizeof file};
    const char *shard = kit_data("split/tiny-00001-of-00002.gguf");
    CHECK_OK(securereg_promote(registry, shard, "split", NULL, NULL, NULL, &model, &error), &error);
    CHECK_OK(securereg_model_get(model, &info, &error), &error);
    CHECK_TEXT(info.layout, "split");
    CHECK_INT(info.file_count, 2);
    CHECK_INT(info.size_bytes, 730624 + 721376);
    CHECK_OK(securereg_model_file(model, 0, &file, &error), &error);
    CHECK_TEXT(file.path, "tiny-00001-of-00002.gguf");
    CHECK_TEXT(file.sha256, "c34b8f15c59a7f5f1395d70d1d3e16af6e7e36399bd8e6ac4d3c388ecac90fa7");
    CHECK_OK(securereg_model_file(model, 1, &file, &error), &error);
    CHECK_TEXT(file.path, "tiny-00002-of-00002.gguf");
    CHECK_INT(file.size_bytes, 721376);
    CHECK_FAILS(securereg_model_file(model, 2, &file, &error), SECUREREG_NOT_FOUND, &error, "split");
    CHECK_OK(securereg_model_free(model), NULL);
}

/* What a failed promotion must leave as it was. */
static void check_nothing_is_left(uint64_t generation, unsigned blobs) {
    CHECK_INT(kit_count(kit_path("%s/tmp", kit_root("root"))), 0);
    CHECK_INT(kit_count(kit_path("%s/blobs/sha256", kit_root("root"))), blobs);
    CHECK_INT(kit_generation(registry), generation);
    securereg_model model = {7};
    CHECK_FAILS(securereg_lookup(registry, "claimed", &model, &error), SECUREREG_NOT_FOUND, &error, "claimed");
    CHECK_INT(model.id, 7);
}

static void a_claim_that_does_not_hold_promotes_nothing(void) {
    uint64_t generation = kit_generation(registry);
    unsigned blobs = kit_count(kit_path("%s/blobs/sha256", kit_root("root")));
    securereg_promotion result;
    const char *wrong = "00000000000000000000000000000000000000000000000000000000000000ff";
    securereg_promote_options claim = {.size = sizeof claim, .sha256 = wrong};
    CHECK_INT(promote(kit_data(TINY), "claimed", &claim, &result), SECUREREG_DIGEST_MISMATCH);
    CHECK_INT(securereg_error_status(error), SECUREREG_DIGEST_MISMATCH);
    CHECK_TEXT(securereg_error_model(error), "claimed");
    CHECK_TEXT(securereg_error_expected(error), wrong);
    CHECK_TEXT(securereg_error_actual(error), TINY_SHA256);
    CHECK_HAS(securereg_error_message(error), TINY_SHA256);
    CHECK_OK(securereg_error_free(error), NULL);
    error.id = 0;
    CHECK_INT(result.outcome, 77);
    check_nothing_is_left(generation, blobs);

    claim = (securereg_promote_options){.size = sizeof claim, .size_bytes = TINY_SIZE - 1};
    CHECK_FAILS(promote(kit_data(TINY), "claimed", &claim, &result), SECUREREG_DIGEST_MISMATCH, &error, "size");
    claim = (securereg_promote_options){.size = sizeof claim, .format = "safetensors"};
    CHECK_FAILS(promote(kit_data(TINY), "claimed", &claim, &result), SECUREREG_REFUSED, &error, "claimed to be safetensors");
    check_nothing_is_left(generation, blobs);
    /* The same digest in upper case, and the same size, hold. */
    char upper[65] = TINY_SHA256;
    for (char *c = upper; *c; c++) *c = (char)toupper((unsigned char)*c);
    claim = (securereg_promote_options){.size = sizeof claim, .sha256 = upper, .filename = "renamed.gguf"};
    claim.size_bytes = TINY_SIZE;
    CHECK_OK(promote(kit_data(TINY), "org/tiny:v1", &claim, &result), &error);
    CHECK_INT(result.outcome, SECUREREG_OUTCOME_ALREADY_THERE);
}

static void a_source_that_is_no_model_promotes_nothing(void) {
    uint64_t generation = kit_generation(registry);
    unsigned blobs = kit_count(kit_path("%s/blobs/sha256", kit_root("root")));
    securereg_promotion result;
    const char *junk = kit_path("%s/junk.gguf", kit_scratch());
    kit_write(junk, "not a model at all, but long enough for one", 43);
    CHECK_FAILS(promote(junk, "claimed", NULL, &result), SECUREREG_REFUSED, &error, NULL);
    const char *missing = kit_path("%s/missing.gguf", kit_scratch());
    CHECK_FAILS(promote(missing, "claimed", NULL, &result), SECUREREG_NOT_FOUND, &error, "missing.gguf");
    const char *link = kit_path("%s/link.gguf", kit_scratch());
    CHECK(symlink(kit_small("linked"), link) == 0);
    CHECK_FAILS(promote(link, "claimed", NULL, &result), SECUREREG_INVALID_INPUT, &error, "link");
    CHECK_FAILS(promote(kit_small("x"), "../claimed", NULL, &result), SECUREREG_INVALID_INPUT, &error, "name");
    check_nothing_is_left(generation, blobs);
}

static void hostile_options_of_a_promotion(void) {
    uint64_t generation = kit_generation(registry);
    unsigned blobs = kit_count(kit_path("%s/blobs/sha256", kit_root("root")));
    char *text = malloc(5001);
    memset(text, 'a', 5000);
    text[5000] = 0;
    const struct {
        securereg_promote_options options;
        int32_t want;
        const char *part;
    } rows[] = {
        {{.sha256 = ""}, SECUREREG_INVALID_INPUT, "64 hex digits"},
        {{.sha256 = "\xff"}, SECUREREG_INVALID_INPUT, "options.sha256"},
        {{.sha256 = text}, SECUREREG_INVALID_INPUT, "64 hex digits"},
        {{.sha256 = "sha256:" TINY_SHA256}, SECUREREG_INVALID_INPUT, "64 hex digits"},
        {{.format = "onnx"}, SECUREREG_REFUSED, "onnx"},
        {{.format = "\xff"}, SECUREREG_INVALID_INPUT, "options.format"},
        {{.filename = "../x"}, SECUREREG_INVALID_INPUT, NULL},
        {{.filename = "a/b"}, SECUREREG_INVALID_INPUT, "file name"},
        {{.filename = ""}, SECUREREG_INVALID_INPUT, NULL},
        {{.filename = text}, SECUREREG_INVALID_INPUT, NULL},
        {{.filename = "\xff"}, SECUREREG_INVALID_INPUT, "options.filename"},
        {{.source = text}, SECUREREG_TOO_LARGE, "4096"},
        {{.source = "\xff"}, SECUREREG_INVALID_INPUT, "options.source"},
        {{.evidence = ""}, SECUREREG_INVALID_INPUT, "evidence"},
        {{.evidence = "[]"}, SECUREREG_INVALID_INPUT, "evidence"},
        {{.evidence = "{\"a\":"}, SECUREREG_INVALID_INPUT, "evidence"},
        {{.evidence = "{\"a\":\"\xff\"}"}, SECUREREG_INVALID_INPUT, "options.evidence"},
        {{.size_bytes = UINT64_MAX}, SECUREREG_DIGEST_MISMATCH, "size"},
        {{.flags = 2}, SECUREREG_INVALID_INPUT, "flags"},
        {{.flags = UINT32_MAX}, SECUREREG_INVALID_INPUT, "flags"},
    };
    securereg_promotion result;
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        securereg_promote_options options = rows[i].options;
        options.size = sizeof options;
        check_about(kit_path("row %u", i));
        CHECK_FAILS(promote(kit_small("options"), "claimed", &options, &result), rows[i].want, &error, rows[i].part);
    }
    free(text);
    /* Nested deeper than any stack should go. */
    size_t depth = 20000;
    char *deep = malloc(depth + 6);
    memcpy(deep, "{\"a\":", 5);
    memset(deep + 5, '[', depth);
    deep[depth + 5] = 0;
    securereg_promote_options options = {.size = sizeof options, .evidence = deep};
    CHECK_FAILS(promote(kit_small("options"), "claimed", &options, &result), SECUREREG_INVALID_INPUT, &error, "evidence");
    free(deep);
    /* More evidence than 16 MiB. */
    size_t len = (16 << 20) + 100;
    char *much = malloc(len + 1);
    memset(much, ' ', len);
    memcpy(much, "{\"a\":\"", 6);
    memset(much + 6, 'x', len - 8);
    memcpy(much + len - 2, "\"}", 3);
    options.evidence = much;
    CHECK_FAILS(promote(kit_small("options"), "claimed", &options, &result), SECUREREG_TOO_LARGE, &error, "evidence");
    free(much);
    check_nothing_is_left(generation, blobs);
}

/* Stops after so many steps. */
struct stopper {
    int left, calls, wrong;
    uint64_t last;
};
static int32_t stop(void *user, uint32_t phase, uint64_t done, uint64_t total) {
    struct stopper *s = user;
    s->calls++;
    s->wrong |= phase > SECUREREG_PHASE_VERIFY || done > total || total == 0;
    s->last = done;
    return s->left-- > 0 ? 0 : -1;
}

static void the_progress_callback_stops_the_work_and_nothing_is_left(void) {
    uint64_t generation = kit_generation(registry);
    unsigned blobs = kit_count(kit_path("%s/blobs/sha256", kit_root("root")));
    const char *large = kit_sized("large", 8 << 20);
    struct stopper stopper = {0};
    securereg_task task = {.size = sizeof task, .progress = stop, .user = &stopper};
    securereg_promotion result = {.size = sizeof result, .outcome = 77};
    securereg_model model = {7};
    CHECK_FAILS(securereg_promote(registry, large, "claimed", NULL, &task, &result, &model, &error), SECUREREG_CANCELLED,
                &error, "nothing was changed");
    CHECK_INT(stopper.calls, 1);
    CHECK_INT(model.id, 7);
    CHECK_INT(result.outcome, 77);
    check_nothing_is_left(generation, blobs);
    /* A move that is cancelled leaves the source. */
    securereg_promote_options move = {.size = sizeof move, .flags = SECUREREG_PROMOTE_MOVE};
    stopper = (struct stopper){.left = 1};
    CHECK_FAILS(securereg_promote(registry, large, "claimed", &move, &task, NULL, NULL, &error), SECUREREG_CANCELLED,
                &error, NULL);
    CHECK(kit_exists(large));
    check_nothing_is_left(generation, blobs);
    /* To the end it tells of all bytes. */
    stopper = (struct stopper){.left = 1 << 30};
    CHECK_OK(securereg_promote(registry, large, "large", NULL, &task, NULL, NULL, &error), &error);
    CHECK(stopper.calls > 1);
    CHECK_INT(stopper.last, 8 << 20);
    CHECK(!stopper.wrong);

    stopper = (struct stopper){0};
    generation = kit_generation(registry);
    CHECK_FAILS(securereg_verify(registry, "large", &task, &error), SECUREREG_CANCELLED, &error, NULL);
    CHECK_FAILS(securereg_verify_all(registry, &task, &error), SECUREREG_CANCELLED, &error, NULL);
    CHECK_OK(securereg_quarantine(registry, "large", "a test", NULL, &error), &error);
    CHECK_FAILS(securereg_release(registry, "large", "a test", &task, &error), SECUREREG_CANCELLED, &error, NULL);
    CHECK_INT(kit_status(registry, "large"), SECUREREG_MODEL_QUARANTINED);
    CHECK_OK(securereg_release(registry, "large", "a test", NULL, &error), &error);
    CHECK_INT(kit_generation(registry), generation + 2);
    /* Who is not told may not stop it. */
    task.progress = NULL;
    CHECK_OK(securereg_verify(registry, "large", &task, &error), &error);
    CHECK_OK(securereg_delete(registry, "large", &error), &error);
}

/* Somebody writes the source while it is read. */
static int32_t append(void *user, uint32_t phase, uint64_t done, uint64_t total) {
    (void)phase, (void)done, (void)total;
    FILE *file = fopen(user, "ae");
    return file && fputc('x', file) == 'x' && fclose(file) == 0 ? 0 : 1;
}

static void a_source_that_changes_meanwhile_promotes_nothing(void) {
    uint64_t generation = kit_generation(registry);
    unsigned blobs = kit_count(kit_path("%s/blobs/sha256", kit_root("root")));
    const char *path = kit_sized("changing", 3 << 20);
    securereg_task task = {.size = sizeof task, .progress = append, .user = (void *)path};
    CHECK_FAILS(securereg_promote(registry, path, "claimed", NULL, &task, NULL, NULL, &error), SECUREREG_SOURCE_CHANGED,
                &error, "changed while it was read");
    check_nothing_is_left(generation, blobs);
}

static void end(void) { CHECK_OK(securereg_close(registry), NULL); }

static const struct test tests[] = {
    {"the_registry_opens", begin},
    {"a_promoted_model_is_told_as_it_is", a_promoted_model_is_told_as_it_is},
    {"what_a_promotion_did", what_a_promotion_did},
    {"a_split_set_has_its_files_sorted", a_split_set_has_its_files_sorted},
    {"a_claim_that_does_not_hold_promotes_nothing", a_claim_that_does_not_hold_promotes_nothing},
    {"a_source_that_is_no_model_promotes_nothing", a_source_that_is_no_model_promotes_nothing},
    {"hostile_options_of_a_promotion", hostile_options_of_a_promotion},
    {"the_progress_callback_stops_the_work_and_nothing_is_left",
     the_progress_callback_stops_the_work_and_nothing_is_left},
    {"a_source_that_changes_meanwhile_promotes_nothing", a_source_that_changes_meanwhile_promotes_nothing},
    {"the_registry_closes", end},
};
TESTS(tests)
