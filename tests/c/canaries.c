/* canaries.c: one mistake each, which a tool must see.
 *
 * Owns: mistakes of a caller of the library, so that what is shown is that the tool sees them here, with these options and
 * these suppressions. run.sh fails if one of them ends well.
 */
#include "check.h"
#include "kit.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile int sink;

static securereg_registry registry;

static void begin(void) {
    registry = kit_registry("root");
    kit_promote(registry, kit_data(TINY), "tiny");
}

/* A string of the library, read after it was freed. */
static void use_after_free(void) {
    begin();
    securereg_text text = {0};
    const char *data = NULL;
    securereg_describe(registry, "tiny", &text, NULL);
    securereg_text_data(text, &data, NULL, NULL);
    securereg_text_free(text);
    sink = data[10];
    securereg_close(registry);
}

/* A buffer that is shorter than was said: the library writes beyond its end. */
static void overflow(void) {
    begin();
    securereg_file file = {0};
    char *buffer = malloc(100);
    size_t read;
    securereg_file_open(registry, "tiny", NULL, &file, NULL);
    securereg_read_at(file, buffer, 101, 0, &read, NULL);
    sink = buffer[50];
    free(buffer);
    securereg_file_close(file);
    securereg_close(registry);
}

static void leak(void) {
    char *volatile lost = malloc(1000);
    lost[0] = 1;
    lost = NULL;
}

static void undefined(void) {
    volatile int shift = 40, one = 1;
    sink = one << shift;
}

/* A decision by memory that nobody wrote. */
static void uninitialised(void) {
    char *volatile memory = malloc(10);
    if (memory[5] > 3) puts("  more");
    free(memory);
}

static int shared;
static void *race_with_me(void *unused) {
    (void)unused;
    for (int i = 0; i < 1000; i++) {
        uint64_t generation;
        securereg_generation(registry, &generation, NULL);
        shared++;
    }
    return NULL;
}

static void race(void) {
    pthread_t threads[2];
    begin();
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, race_with_me, NULL);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    securereg_close(registry);
}

/* No mistake: what shows that the others fail because of theirs. */
static void none(void) {
    begin();
    securereg_close(registry);
}

static const struct test tests[] = {
    {"use_after_free", use_after_free}, {"overflow", overflow}, {"leak", leak}, {"undefined", undefined},
    {"uninitialised", uninitialised},   {"race", race},         {"none", none},
};
TESTS(tests)
