/* reading.c: verified reads.
 *
 * Owns: securereg_file_open, _size, _read_at and _close by value: every boundary of a 64 KiB group, every odd length and
 * offset, damage, quarantine. Leaves out: sealed memory (sealed.c), many threads (threads.c).
 */
#include "check.h"
#include "kit.h"

#include <stdlib.h>
#include <string.h>

#define G 65536

static securereg_registry registry;
static securereg_error error;
static securereg_file file;
static char *source, *buffer;

static void begin(void) {
    size_t len;
    registry = kit_registry("root");
    kit_promote(registry, kit_data(TINY), "tiny");
    kit_promote(registry, kit_data("split/tiny-00001-of-00002.gguf"), "split");
    source = kit_read(kit_data(TINY), &len);
    CHECK_INT(len, TINY_SIZE);
    CHECK_OK(securereg_file_open(registry, "tiny", NULL, &file, &error), &error);
    uint64_t size = 0;
    CHECK_OK(securereg_file_size(file, &size, &error), &error);
    CHECK_INT(size, TINY_SIZE);
}

/* Reads into memory of exactly this size, so that a tool sees a byte too many. */
static void check_read(uint64_t offset, size_t len) {
    size_t read = 77, want = offset >= TINY_SIZE ? 0 : len < TINY_SIZE - offset ? len : TINY_SIZE - (size_t)offset;
    check_about(kit_path("%zu bytes at %llu", len, (unsigned long long)offset));
    buffer = malloc(len ? len : 1);
    memset(buffer, 0xA5, len);
    CHECK_OK(securereg_read_at(file, buffer, len, offset, &read, &error), &error);
    if (CHECK_INT(read, want)) {
        CHECK(memcmp(buffer, source + (want ? offset : 0), want) == 0);
        for (size_t i = want; i < len && i < want + 100; i++) CHECK_INT((unsigned char)buffer[i], 0xA5);
    }
    free(buffer);
}

static void reads_give_the_bytes_at_every_boundary(void) {
    static const uint64_t offsets[] = {0,
                                       1,
                                       G - 1,
                                       G,
                                       G + 1,
                                       3 * G - 7,
                                       16 * G,
                                       TINY_SIZE - G - 1,
                                       TINY_SIZE - 2,
                                       TINY_SIZE - 1,
                                       TINY_SIZE,
                                       TINY_SIZE + 1,
                                       TINY_SIZE + 2 * G,
                                       (uint64_t)INT64_MAX,
                                       (uint64_t)INT64_MAX + 1,
                                       UINT64_MAX - 1,
                                       UINT64_MAX};
    static const size_t lengths[] = {0, 1, 2, G / 2 - 1, G / 2, G - 1, G, G + 1, 2 * G, 1 << 20, (1 << 20) + 1, 2 << 20};
    for (unsigned o = 0; o < sizeof offsets / sizeof *offsets; o++)
        for (unsigned l = 0; l < sizeof lengths / sizeof *lengths; l++) check_read(offsets[o], lengths[l]);
}

static void a_length_of_nothing_and_of_too_much(void) {
    size_t read = 77;
    CHECK_OK(securereg_read_at(file, NULL, 0, 0, &read, &error), &error);
    CHECK_INT(read, 0);
    CHECK_OK(securereg_read_at(file, NULL, 0, UINT64_MAX, &read, &error), &error);
    CHECK_INT(read, 0);
    char one = 'x';
    read = 77;
    CHECK_FAILS(securereg_read_at(file, &one, SIZE_MAX, 0, &read, &error), SECUREREG_INVALID_INPUT, &error, "length");
    CHECK_FAILS(securereg_read_at(file, &one, SIZE_MAX / 2 + 1, 0, &read, &error), SECUREREG_INVALID_INPUT, &error, "length");
    CHECK_FAILS(securereg_read_at(file, &one, SIZE_MAX, UINT64_MAX, &read, &error), SECUREREG_INVALID_INPUT, &error, "length");
    CHECK_FAILS(securereg_read_at(file, NULL, SIZE_MAX / 2, 0, &read, &error), SECUREREG_NULL, &error, "buffer");
    CHECK_FAILS(securereg_read_at(file, NULL, 1, TINY_SIZE, &read, &error), SECUREREG_NULL, &error, "buffer");
    CHECK(read == 77 && one == 'x');
    /* The longest there is: as much as the file has, and no byte more is touched. */
    char *whole = malloc(TINY_SIZE);
    CHECK_OK(securereg_read_at(file, whole, SIZE_MAX / 2, 0, &read, &error), &error);
    CHECK_INT(read, TINY_SIZE);
    CHECK(memcmp(whole, source, TINY_SIZE) == 0);
    CHECK_OK(securereg_read_at(file, &one, SIZE_MAX / 2, TINY_SIZE - 1, &read, &error), &error);
    CHECK(read == 1 && one == source[TINY_SIZE - 1]);
    CHECK_OK(securereg_read_at(file, &one, SIZE_MAX / 2, UINT64_MAX, &read, &error), &error);
    CHECK_INT(read, 0);
    free(whole);
}

static void which_file_is_said_when_there_are_several(void) {
    securereg_file out = {7};
    CHECK_FAILS(securereg_file_open(registry, "split", NULL, &out, &error), SECUREREG_INVALID_INPUT, &error, "2 files");
    CHECK_FAILS(securereg_file_open(registry, "split", "none", &out, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_FAILS(securereg_file_open(registry, "split", "../tiny", &out, &error), SECUREREG_INVALID_INPUT, &error, NULL);
    CHECK_FAILS(securereg_file_open(registry, "none", NULL, &out, &error), SECUREREG_NOT_FOUND, &error, "none");
    CHECK_INT(out.id, 7);
    uint64_t size = 0;
    CHECK_OK(securereg_file_open(registry, "split", "tiny-00002-of-00002.gguf", &out, &error), &error);
    CHECK_OK(securereg_file_size(out, &size, &error), &error);
    CHECK_INT(size, 721376);
    CHECK_OK(securereg_file_close(out), NULL);
}

static void a_file_outlives_the_handle_of_its_registry(void) {
    securereg_registry second = kit_open("root", 0);
    securereg_file out = {0};
    char bytes[4];
    size_t read;
    CHECK_OK(securereg_file_open(second, "tiny", TINY, &out, &error), &error);
    CHECK_OK(securereg_close(second), NULL);
    CHECK_OK(securereg_read_at(out, bytes, 4, 0, &read, &error), &error);
    CHECK(read == 4 && memcmp(bytes, "GGUF", 4) == 0);
    CHECK_OK(securereg_file_close(out), NULL);
}

static void an_incident_ends_what_is_open(void) {
    char bytes[8];
    size_t read = 77;
    CHECK_OK(securereg_quarantine(registry, "tiny", "a test", "INC-9", &error), &error);
    CHECK_FAILS(securereg_read_at(file, bytes, 8, 0, &read, &error), SECUREREG_QUARANTINED, &error, NULL);
    CHECK_FAILS(securereg_read_at(file, bytes, 8, UINT64_MAX, &read, &error), SECUREREG_QUARANTINED, &error, NULL);
    CHECK_INT(read, 77);
    CHECK_OK(securereg_release(registry, "tiny", "a test", NULL, &error), &error);
    CHECK_OK(securereg_read_at(file, bytes, 8, 0, &read, &error), &error);
    CHECK_INT(read, 8);
}

static void a_flipped_bit_is_never_given_out(void) {
    const uint64_t at = 5 * G + 100;
    size_t read = 77;
    char bytes[256];
    memset(bytes, 0xA5, sizeof bytes);
    kit_flip(kit_root("root"), TINY_SHA256, at);
    CHECK_INT(securereg_read_at(file, bytes, sizeof bytes, at - 10, &read, &error), SECUREREG_CORRUPT);
    CHECK_TEXT(securereg_error_model(error), "tiny");
    CHECK_HAS(securereg_error_message(error), "not what was promoted");
    CHECK_OK(securereg_error_free(error), NULL);
    error.id = 0;
    CHECK_INT(read, 77);
    /* After a failure the buffer may hold bytes, but none that were not checked: never the flipped one. */
    CHECK(bytes[10] != (char)(source[at] ^ 1));
    CHECK_INT(kit_status(registry, "tiny"), SECUREREG_MODEL_QUARANTINED);
    securereg_file out = {7};
    CHECK_FAILS(securereg_file_open(registry, "tiny", NULL, &out, &error), SECUREREG_QUARANTINED, &error, "tiny");
    CHECK_INT(out.id, 7);
    /* A long read that meets it on the way fails whole. */
    char *whole = malloc(TINY_SIZE);
    memset(whole, 0xA5, TINY_SIZE);
    CHECK_FAILS(securereg_read_at(file, whole, TINY_SIZE, 0, &read, &error), SECUREREG_CORRUPT, &error, "tiny");
    CHECK(whole[at] != (char)(source[at] ^ 1));
    CHECK_INT(read, 77);
    /* What is open goes on giving what is good. */
    CHECK_OK(securereg_read_at(file, whole, G, 7 * G, &read, &error), &error);
    CHECK(read == G && memcmp(whole, source + 7 * G, G) == 0);
    free(whole);

    kit_flip(kit_root("root"), TINY_SHA256, at);
    CHECK_OK(securereg_verify(registry, "tiny", NULL, &error), &error);
    CHECK_INT(kit_status(registry, "tiny"), SECUREREG_MODEL_PROMOTED);
    check_read(at - 10, 256);
}

static void damage_found_at_the_open_is_corrupt(void) {
    const char *shard = "c34b8f15c59a7f5f1395d70d1d3e16af6e7e36399bd8e6ac4d3c388ecac90fa7";
    securereg_file out = {7};
    kit_flip(kit_root("root"), shard, 0);
    CHECK_FAILS(securereg_file_open(registry, "split", "tiny-00001-of-00002.gguf", &out, &error), SECUREREG_CORRUPT,
                &error, "tiny-00001-of-00002.gguf");
    CHECK_INT(out.id, 7);
    CHECK_INT(kit_status(registry, "split"), SECUREREG_MODEL_QUARANTINED);
    kit_flip(kit_root("root"), shard, 0);
    CHECK_OK(securereg_verify(registry, "split", NULL, &error), &error);
}

static void end(void) {
    CHECK_OK(securereg_file_close(file), NULL);
    CHECK_OK(securereg_close(registry), NULL);
    free(source);
}

static const struct test tests[] = {
    {"the_model_opens", begin},
    {"reads_give_the_bytes_at_every_boundary", reads_give_the_bytes_at_every_boundary},
    {"a_length_of_nothing_and_of_too_much", a_length_of_nothing_and_of_too_much},
    {"which_file_is_said_when_there_are_several", which_file_is_said_when_there_are_several},
    {"a_file_outlives_the_handle_of_its_registry", a_file_outlives_the_handle_of_its_registry},
    {"an_incident_ends_what_is_open", an_incident_ends_what_is_open},
    {"a_flipped_bit_is_never_given_out", a_flipped_bit_is_never_given_out},
    {"damage_found_at_the_open_is_corrupt", damage_found_at_the_open_is_corrupt},
    {"the_model_closes", end},
};
TESTS(tests)
