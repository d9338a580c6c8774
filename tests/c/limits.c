/* limits.c: sealed memory in a control group that is too small for it.
 *
 * Owns: `prepare`, which promotes a large and a small model into SECUREREG_TEST_ROOT, and `refused`, which run.sh runs
 * inside the group SECUREREG_TEST_GROUP.
 */
#include "check.h"
#include "kit.h"

#include <stdlib.h>
#include <string.h>

enum { LARGE = 96 << 20 };
#define LARGE_TEXT "100663296"

static securereg_registry open_root(uint32_t flags) {
    securereg_error error = {0};
    securereg_registry registry = {0};
    securereg_open_options options = {.size = sizeof options, .flags = flags};
    REQUIRE(getenv("SECUREREG_TEST_ROOT"));
    REQUIRE(CHECK_OK(securereg_open(getenv("SECUREREG_TEST_ROOT"), &options, &registry, &error), &error));
    return registry;
}

static void prepare(void) {
    securereg_registry registry = open_root(SECUREREG_OPEN_WRITE | SECUREREG_OPEN_CREATE);
    kit_promote(registry, kit_sized("large", LARGE), "large");
    kit_promote(registry, kit_small("fits"), "fits");
    CHECK_OK(securereg_close(registry), NULL);
}

static void refused(void) {
    securereg_registry registry = open_root(0);
    securereg_error error = {0};
    securereg_sealed sealed = {7};
    CHECK_INT(securereg_open_sealed(registry, "large", NULL, NULL, &sealed, &error), SECUREREG_NO_MEMORY);
    const char *message = securereg_error_message(error);
    CHECK_HAS(message, LARGE_TEXT " for the file");
    CHECK_HAS(message, "control group");
    CHECK_HAS(message, getenv("SECUREREG_TEST_GROUP"));
    CHECK_TEXT(securereg_error_model(error), "large");
    CHECK_OK(securereg_error_free(error), NULL);
    error.id = 0;
    CHECK_INT(sealed.id, 7);
    CHECK(!kit_maps("memfd:securereg"));
    /* It can be read all the same, and what fits is sealed. */
    securereg_file file = {0};
    char *bytes = malloc(1 << 20);
    size_t read = 0;
    CHECK_OK(securereg_file_open(registry, "large", NULL, &file, &error), &error);
    CHECK_OK(securereg_read_at(file, bytes, 1 << 20, LARGE / 2, &read, &error), &error);
    CHECK_INT(read, 1 << 20);
    CHECK_OK(securereg_file_close(file), NULL);
    free(bytes);
    CHECK_OK(securereg_open_sealed(registry, "fits", NULL, NULL, &sealed, &error), &error);
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    CHECK_OK(securereg_close(registry), NULL);
}

static const struct test tests[] = {{"prepare", prepare}, {"refused", refused}};
TESTS(tests)
