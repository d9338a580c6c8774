/* registry.c: opening, asking, verifying, quarantine, deleting.
 *
 * Owns: what the header says of securereg_open to securereg_delete, of models and of lists, by value. Leaves out: taking
 * models in (promote.c), their bytes (reading.c, sealed.c), events (events.c).
 */
#include "check.h"
#include "kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static securereg_registry registry;
static securereg_error error;

static void open_and_close(void) {
    securereg_open_options options = {.size = sizeof options};
    securereg_registry out = {7};
    CHECK_FAILS(securereg_open(kit_root("none"), NULL, &out, &error), SECUREREG_NOT_FOUND, &error, "none");
    options.flags = SECUREREG_OPEN_WRITE;
    CHECK_FAILS(securereg_open(kit_root("none"), &options, &out, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK(!kit_exists(kit_root("none")));
    const uint32_t wrong[] = {SECUREREG_OPEN_CREATE, 4, 7, UINT32_MAX};
    for (int i = 0; i < 4; i++) {
        options.flags = wrong[i];
        CHECK_FAILS(securereg_open(kit_root("none"), &options, &out, &error), SECUREREG_INVALID_INPUT, &error, "flags");
    }
    CHECK_INT(out.id, 7);

    registry = kit_registry("root");
    CHECK_INT(kit_generation(registry), 0);
    struct stat stat_of;
    CHECK(stat(kit_root("root"), &stat_of) == 0 && (stat_of.st_mode & 0777) == 0700);
    /* A second handle on the same root, for reading. */
    CHECK_OK(securereg_open(kit_root("root"), NULL, &out, &error), &error);
    CHECK_INT(kit_generation(out), 0);
    CHECK_OK(securereg_close(out), NULL);
    CHECK_FAILS(securereg_generation(out, &(uint64_t){0}, &error), SECUREREG_CLOSED, &error, "closed");

    /* Not private: refused, with the remedy. */
    CHECK(chmod(kit_root("root"), 0755) == 0);
    CHECK_FAILS(securereg_open(kit_root("root"), NULL, &out, &error), SECUREREG_PERMISSION, &error, "chmod 700");
    CHECK(chmod(kit_root("root"), 0700) == 0);
    /* A file is no registry. */
    const char *file = kit_small("no-registry");
    int32_t status = securereg_open(file, NULL, &out, &error);
    CHECK(status != SECUREREG_OK);
    CHECK_FAILS(status, status, &error, NULL);
}

static int32_t promote(const char *path, const char *name, const securereg_promote_options *options,
                       securereg_promotion *result) {
    *result = (securereg_promotion){.size = sizeof *result, .outcome = 77, .method = 77};
    return securereg_promote(registry, path, name, options, NULL, result, NULL, &error);
}

static int is_hex(const char *text) { return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64; }

static void promote_the_models(void) {
    securereg_promotion result;
    CHECK_OK(promote(kit_small("one"), "m", NULL, &result), &error);
    CHECK_OK(promote(kit_small("two"), "t:latest", NULL, &result), &error);
    CHECK_OK(promote(kit_small("given"), "given", NULL, &result), &error);
    CHECK_OK(promote(kit_data(TINY), "org/tiny:v1", NULL, &result), &error);
    CHECK_OK(promote(kit_data("split/tiny-00001-of-00002.gguf"), "split", NULL, &result), &error);
}

static void a_list_is_sorted_and_its_models_outlive_it(void) {
    securereg_list list = {0};
    uint64_t count = 0;
    char last[256] = "";
    CHECK_OK(securereg_list_models(registry, &list, &error), &error);
    CHECK_OK(securereg_list_count(list, &count, &error), &error);
    CHECK_INT(count, 5);
    securereg_model first = {0}, model;
    CHECK_OK(securereg_list_at(list, 0, &first, &error), &error);
    for (uint64_t i = 0; i < count; i++) {
        securereg_model_info info = {.size = sizeof info};
        CHECK_OK(securereg_list_at(list, i, &model, &error), &error);
        CHECK_OK(securereg_model_get(model, &info, &error), &error);
        CHECK(strcmp(last, info.name) < 0);
        snprintf(last, sizeof last, "%s", info.name);
        CHECK_OK(securereg_model_free(model), NULL);
    }
    const uint64_t none[] = {count, UINT32_MAX, UINT64_MAX};
    for (int i = 0; i < 3; i++)
        CHECK_FAILS(securereg_list_at(list, none[i], &model, &error), SECUREREG_NOT_FOUND, &error, "5 models");
    CHECK_OK(securereg_list_free(list), NULL);
    securereg_model_info info = {.size = sizeof info};
    CHECK_OK(securereg_model_get(first, &info, &error), &error);
    CHECK_TEXT(info.name, "given");
    CHECK_OK(securereg_model_free(first), NULL);
}

static void a_model_and_a_list_stay_as_they_were(void) {
    securereg_model before = {0}, after = {0};
    securereg_list list = {0};
    CHECK_OK(securereg_lookup(registry, "m", &before, &error), &error);
    CHECK_OK(securereg_list_models(registry, &list, &error), &error);
    CHECK_OK(securereg_quarantine(registry, "m", "seen in the wild", "INC-7", &error), &error);
    CHECK_OK(securereg_lookup(registry, "m", &after, &error), &error);
    securereg_model_info info = {.size = sizeof info};
    CHECK_OK(securereg_model_get(before, &info, &error), &error);
    CHECK_INT(info.status, SECUREREG_MODEL_PROMOTED);
    CHECK_TEXT(info.quarantine_reason, NULL);
    CHECK_OK(securereg_model_get(after, &info, &error), &error);
    CHECK_INT(info.status, SECUREREG_MODEL_QUARANTINED);
    CHECK_TEXT(info.quarantine_reason, "seen in the wild");
    CHECK_TEXT(info.quarantine_cause, "incident");
    CHECK_TEXT(info.incident_id, "INC-7");
    CHECK_OK(securereg_model_free(before), NULL);
    CHECK_OK(securereg_model_free(after), NULL);
    CHECK_OK(securereg_list_free(list), NULL);
}

static void an_incident_is_lifted_by_a_release_only(void) {
    securereg_promotion result;
    securereg_file file = {7};
    /* The bytes may not come back under another name either. */
    CHECK_FAILS(promote(kit_small("one"), "again", NULL, &result), SECUREREG_CONFLICT, &error, NULL);
    CHECK_FAILS(securereg_file_open(registry, "m", NULL, &file, &error), SECUREREG_QUARANTINED, &error, "seen in the wild");
    CHECK_OK(securereg_verify(registry, "m", NULL, &error), &error);
    CHECK_INT(kit_status(registry, "m"), SECUREREG_MODEL_QUARANTINED);
    CHECK_OK(securereg_release(registry, "m", "looked at", NULL, &error), &error);
    CHECK_INT(kit_status(registry, "m"), SECUREREG_MODEL_PROMOTED);
    CHECK_OK(securereg_file_open(registry, "m", NULL, &file, &error), &error);
    CHECK_OK(securereg_file_close(file), NULL);

    char *text = malloc(4098);
    memset(text, 'r', 4097);
    text[4097] = 0;
    CHECK_FAILS(securereg_quarantine(registry, "m", "", NULL, &error), SECUREREG_INVALID_INPUT, &error, "reason");
    CHECK_FAILS(securereg_quarantine(registry, "m", " \t", NULL, &error), SECUREREG_INVALID_INPUT, &error, "reason");
    CHECK_FAILS(securereg_quarantine(registry, "m", text, NULL, &error), SECUREREG_TOO_LARGE, &error, "4096");
    CHECK_FAILS(securereg_quarantine(registry, "m", "r", text, &error), SECUREREG_TOO_LARGE, &error, "256");
    free(text);
    CHECK_FAILS(securereg_quarantine(registry, "none", "r", NULL, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_FAILS(securereg_release(registry, "none", "r", NULL, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_INT(kit_status(registry, "m"), SECUREREG_MODEL_PROMOTED);
}

static void an_incident_outlives_its_model(void) {
    securereg_promotion result;
    CHECK_OK(promote(kit_small("bad"), "bad", NULL, &result), &error);
    CHECK_OK(securereg_quarantine(registry, "bad", "a test", "INC-8", &error), &error);
    CHECK_OK(securereg_delete(registry, "bad", &error), &error);
    CHECK_FAILS(promote(kit_small("bad"), "bad", NULL, &result), SECUREREG_CONFLICT, &error, NULL);
    CHECK_FAILS(promote(kit_small("bad"), "other", NULL, &result), SECUREREG_CONFLICT, &error, NULL);
    CHECK_OK(securereg_release(registry, "bad", "it was not", NULL, &error), &error);
    CHECK_FAILS(securereg_release(registry, "bad", "again", NULL, &error), SECUREREG_NOT_FOUND, &error, "bad");
    CHECK_OK(promote(kit_small("bad"), "bad", NULL, &result), &error);
    CHECK_OK(securereg_delete(registry, "bad", &error), &error);
}

static void the_integrity_is_that_of_the_last_verification_of_all(void) {
    securereg_text text = {7};
    const char *json;
    CHECK_FAILS(securereg_integrity(registry, &text, &error), SECUREREG_NOT_FOUND, &error, "no verification");
    CHECK_INT(text.id, 7);
    CHECK_OK(securereg_verify_all(registry, NULL, &error), &error);
    CHECK_OK(securereg_integrity(registry, &text, &error), &error);
    CHECK_OK(securereg_text_data(text, &json, NULL, &error), &error);
    CHECK_HAS(json, "\"checked\":5");
    CHECK_HAS(json, "\"verified_at\":\"20");
    CHECK_HAS(json, "\"name\":\"org/tiny:v1\"");
    CHECK(strstr(json, "\"status\":\"failed\"") == NULL);
    CHECK_OK(securereg_text_free(text), NULL);
}

static void a_flipped_bit_is_corrupt(void) {
    const char *root = kit_root("root");
    kit_flip(root, TINY_SHA256, 1000000);
    CHECK_INT(securereg_verify(registry, "org/tiny:v1", NULL, &error), SECUREREG_CORRUPT);
    CHECK_INT(securereg_error_status(error), SECUREREG_CORRUPT);
    CHECK_HAS(securereg_error_message(error), "org/tiny:v1");
    CHECK_TEXT(securereg_error_model(error), "org/tiny:v1");
    CHECK_TEXT(securereg_error_expected(error), TINY_SHA256);
    CHECK(is_hex(securereg_error_actual(error)) && strcmp(securereg_error_actual(error), TINY_SHA256) != 0);
    CHECK_OK(securereg_error_free(error), NULL);
    error.id = 0;

    securereg_model model = {0};
    securereg_model_info info = {.size = sizeof info};
    CHECK_OK(securereg_lookup(registry, "org/tiny:v1", &model, &error), &error);
    CHECK_OK(securereg_model_get(model, &info, &error), &error);
    CHECK_INT(info.status, SECUREREG_MODEL_QUARANTINED);
    CHECK_TEXT(info.quarantine_cause, "integrity");
    CHECK(info.quarantine_reason && *info.quarantine_reason);
    CHECK_TEXT(info.incident_id, NULL);
    CHECK_OK(securereg_model_free(model), NULL);

    securereg_text text = {7};
    const char *json;
    CHECK_FAILS(securereg_release(registry, "org/tiny:v1", "it is fine", NULL, &error), SECUREREG_CORRUPT, &error, NULL);
    CHECK_FAILS(securereg_mount_path(registry, "org/tiny:v1", &text, &error), SECUREREG_QUARANTINED, &error, NULL);
    CHECK_FAILS(securereg_verify_all(registry, NULL, &error), SECUREREG_CORRUPT, &error, "1 of 5 models");
    CHECK_OK(securereg_integrity(registry, &text, &error), &error);
    CHECK_OK(securereg_text_data(text, &json, NULL, &error), &error);
    CHECK_HAS(json, "\"status\":\"failed\"");
    CHECK_OK(securereg_text_free(text), NULL);

    kit_flip(root, TINY_SHA256, 1000000);
    CHECK_OK(securereg_verify(registry, "org/tiny:v1", NULL, &error), &error);
    CHECK_INT(kit_status(registry, "org/tiny:v1"), SECUREREG_MODEL_PROMOTED);

    /* Without its bytes there is nothing to verify, and no digest to show. */
    const char *blob = kit_path("%s/blobs/sha256/%s", root, TINY_SHA256), *away = kit_path("%s/away", root);
    CHECK(rename(blob, away) == 0);
    int32_t status = securereg_verify(registry, "org/tiny:v1", NULL, &error);
    CHECK(status == SECUREREG_CORRUPT || status == SECUREREG_UNREADABLE);
    CHECK_FAILS(status, status, &error, "org/tiny:v1");
    CHECK(rename(away, blob) == 0);
    CHECK_OK(securereg_verify(registry, "org/tiny:v1", NULL, &error), &error);
    CHECK_INT(kit_status(registry, "org/tiny:v1"), SECUREREG_MODEL_PROMOTED);
}

static void without_a_mount_there_is_no_path(void) {
    securereg_text text = {7};
    CHECK_FAILS(securereg_mount_path(registry, "m", &text, &error), SECUREREG_NOT_MOUNTED, &error, "mount");
    CHECK_FAILS(securereg_mount_path(registry, "none", &text, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_INT(text.id, 7);
}

static void without_its_manifest_nothing_is_served(void) {
    const char *manifest = kit_path("%s/manifest.yaml", kit_root("root")), *away = kit_path("%s.away", manifest);
    uint64_t generation = 7;
    securereg_registry second = {7};
    securereg_list list = {7};
    CHECK(rename(manifest, away) == 0);
    CHECK_FAILS(securereg_generation(registry, &generation, &error), SECUREREG_MANIFEST, &error, "manifest.yaml");
    CHECK_FAILS(securereg_list_models(registry, &list, &error), SECUREREG_MANIFEST, &error, "manifest.yaml");
    CHECK_FAILS(securereg_open(kit_root("root"), NULL, &second, &error), SECUREREG_MANIFEST, &error, "manifest.yaml");
    CHECK(generation == 7 && second.id == 7 && list.id == 7);
    CHECK(rename(away, manifest) == 0);
    CHECK_OK(securereg_generation(registry, &generation, &error), &error);
}

/* Everything under the root: names, sizes, times. */
static char *listing(void) {
    FILE *find = popen(kit_path("find '%s' -printf '%%p %%s %%m %%T@ %%C@\\n' | sort", kit_root("root")), "r");
    CHECK(find);
    size_t room = 1 << 16;
    char *text = malloc(room);
    text[fread(text, 1, room - 1, find)] = 0;
    CHECK_INT(pclose(find), 0);
    return text;
}

static void a_registry_that_is_open_for_reading_changes_nothing(void) {
    char *before = listing();
    securereg_registry reader = kit_open("root", 0);
    securereg_promotion result = {.size = sizeof result, .outcome = 77};
    securereg_model model = {7};
    const char *source = kit_small("read-only");
    CHECK_FAILS(securereg_promote(reader, source, "claimed", NULL, NULL, &result, &model, &error), SECUREREG_PERMISSION,
                &error, "read-only");
    CHECK_FAILS(securereg_quarantine(reader, "m", "r", NULL, &error), SECUREREG_PERMISSION, &error, "read-only");
    CHECK_OK(securereg_verify(reader, "m", NULL, &error), &error);
    CHECK_OK(securereg_verify_all(reader, NULL, &error), &error);
    CHECK_FAILS(securereg_delete(reader, "m", &error), SECUREREG_PERMISSION, &error, "read-only");
    CHECK(result.outcome == 77 && model.id == 7);
    securereg_file file = {0};
    char bytes[4];
    size_t read = 0;
    CHECK_OK(securereg_file_open(reader, "m", NULL, &file, &error), &error);
    CHECK_OK(securereg_read_at(file, bytes, 4, 0, &read, &error), &error);
    CHECK(read == 4 && memcmp(bytes, "GGUF", 4) == 0);
    CHECK_OK(securereg_file_close(file), NULL);
    char *after = listing();
    CHECK_TEXT(after, before);
    free(before);
    free(after);

    /* A release of what is quarantined is a change. */
    CHECK_OK(securereg_quarantine(registry, "m", "r", NULL, &error), &error);
    CHECK_FAILS(securereg_release(reader, "m", "r", NULL, &error), SECUREREG_PERMISSION, &error, "read-only");
    CHECK_OK(securereg_release(registry, "m", "r", NULL, &error), &error);
    /* Damage is refused by this process, and written down by nobody. */
    kit_flip(kit_root("root"), TINY_SHA256, 5);
    CHECK_FAILS(securereg_verify(reader, "org/tiny:v1", NULL, &error), SECUREREG_CORRUPT, &error, "org/tiny:v1");
    CHECK_FAILS(securereg_file_open(reader, "org/tiny:v1", NULL, &file, &error), SECUREREG_CORRUPT, &error, NULL);
    CHECK_INT(kit_status(reader, "org/tiny:v1"), SECUREREG_MODEL_PROMOTED);
    kit_flip(kit_root("root"), TINY_SHA256, 5);
    CHECK_OK(securereg_verify(reader, "org/tiny:v1", NULL, &error), &error);
    CHECK_OK(securereg_close(reader), NULL);
}

static void what_is_deleted_is_gone_but_for_who_reads_it(void) {
    securereg_file file = {0};
    char bytes[24];
    size_t read = 0;
    CHECK_OK(securereg_file_open(registry, "given", NULL, &file, &error), &error);
    const char *blob = kit_path("%s/blobs/sha256/%s", kit_root("root"), kit_sha256(registry, "given"));
    CHECK(kit_exists(blob));
    CHECK_OK(securereg_delete(registry, "given", &error), &error);
    CHECK(!kit_exists(blob));
    CHECK_FAILS(securereg_delete(registry, "given", &error), SECUREREG_NOT_FOUND, &error, "given");
    CHECK_FAILS(securereg_verify(registry, "given", NULL, &error), SECUREREG_NOT_FOUND, &error, "given");
    CHECK_OK(securereg_read_at(file, bytes, sizeof bytes, 0, &read, &error), &error);
    CHECK(read == 24 && memcmp(bytes, "GGUF", 4) == 0);
    CHECK_OK(securereg_file_close(file), NULL);
    /* Bytes that another model holds stay. */
    securereg_promote_options options = {.size = sizeof options, .filename = "m2.gguf"};
    CHECK_OK(securereg_promote(registry, kit_small("one"), "m2", &options, NULL, NULL, NULL, &error), &error);
    blob = kit_path("%s/blobs/sha256/%s", kit_root("root"), kit_sha256(registry, "m"));
    CHECK_OK(securereg_delete(registry, "m2", &error), &error);
    CHECK(kit_exists(blob));
}

static void close_it(void) { CHECK_OK(securereg_close(registry), NULL); }

static const struct test tests[] = {
    {"open_and_close", open_and_close},
    {"the_models_are_promoted", promote_the_models},
    {"a_list_is_sorted_and_its_models_outlive_it", a_list_is_sorted_and_its_models_outlive_it},
    {"a_model_and_a_list_stay_as_they_were", a_model_and_a_list_stay_as_they_were},
    {"an_incident_is_lifted_by_a_release_only", an_incident_is_lifted_by_a_release_only},
    {"an_incident_outlives_its_model", an_incident_outlives_its_model},
    {"the_integrity_is_that_of_the_last_verification_of_all", the_integrity_is_that_of_the_last_verification_of_all},
    {"a_flipped_bit_is_corrupt", a_flipped_bit_is_corrupt},
    {"without_a_mount_there_is_no_path", without_a_mount_there_is_no_path},
    {"without_its_manifest_nothing_is_served", without_its_manifest_nothing_is_served},
    {"a_registry_that_is_open_for_reading_changes_nothing", a_registry_that_is_open_for_reading_changes_nothing},
    {"what_is_deleted_is_gone_but_for_who_reads_it", what_is_deleted_is_gone_but_for_who_reads_it},
    {"the_registry_closes", close_it},
};
TESTS(tests)
