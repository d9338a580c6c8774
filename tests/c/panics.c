/* panics.c: a panic inside each function ends at the boundary.
 *
 * Owns: that it is a status and an error, that nothing is written (not to the terminal either) and nothing is lost. Needs the library that is built with
 * --cfg securereg_test_panic.
 */
#include "calls.h"
#include "check.h"
#include "kit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The next call panics. */
void securereg_test_panic_next(void);

static struct world world;
static struct args args;

/* Where a panic would be told: the terminal is the host's, and may be a pipe that nobody reads. */
static int standard_error;
static const char *said;

static void begin(void) {
    world_open(&world, "world");
    args_begin(&args, &world, 0);
    said = strdup(kit_path("%s/said", kit_scratch()));
    standard_error = dup(2);
    int file = open(said, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(said && standard_error >= 0 && file >= 0 && dup2(file, 2) == 2 && close(file) == 0);
}

static void a_panic_is_a_status_and_nothing_is_written_or_lost(void) {
    for (const struct call *c = CALLS; c < CALLS + CALL_COUNT; c++) {
        if (c->flags & NO_BOUNDARY) continue;
        check_about(c->name);
        args.token = world.token[c->takes];
        call_prepare(c, &world, &args);
        args_reset(&args);
        struct outputs before;
        memcpy(&before, &args.out, sizeof before);
        securereg_error error = {0};
        securereg_test_panic_next();
        int32_t status = c->run(&args, &error);
        CHECK_FAILS(status, SECUREREG_PANIC, c->flags & NO_ERROR ? NULL : &error, ": forced for a test");
        CHECK(memcmp(&before, &args.out, sizeof before) == 0);
        if (!(c->flags & NO_ERROR)) {
            securereg_test_panic_next();
            CHECK_INT(c->run(&args, NULL), SECUREREG_PANIC);
        }
        /* What was to be freed still is there, and everything works. */
        if (c->flags & FREES) CHECK_OK(c->run(&args, NULL), NULL);
        CHECK_OK(call_well(c, &world, &args, &error), &error);
        check_covered(c->name, "panic", -1);
    }
}

/* These pass no boundary, for they do nothing that could panic: a panic that waits does not meet them. */
static void functions_without_a_boundary_do_not_panic(void) {
    for (const struct call *c = CALLS; c < CALLS + CALL_COUNT; c++) {
        if (!(c->flags & NO_BOUNDARY)) continue;
        check_about(c->name);
        securereg_test_panic_next();
        CHECK_OK(call_well(c, &world, &args, NULL), NULL);
        args.token = UINT64_MAX;
        int32_t status = c->run(&args, NULL);
        CHECK(status == (c->takes == NONE ? SECUREREG_OK : SECUREREG_CLOSED));
        CHECK_INT(securereg_text_free((securereg_text){0}), SECUREREG_PANIC);
        CHECK_OK(securereg_text_free((securereg_text){0}), NULL);
        check_covered(c->name, "panic", -1);
    }
}

enum { THREADS = 16, ROUNDS = 20 };
static atomic_uint panics;
static pthread_barrier_t gate;

static void *panic_and_work(void *number) {
    (void)number;
    securereg_error error = {0};
    for (int i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&gate);
        if (number == NULL) securereg_test_panic_next();
        for (int n = 0; n < 5; n++) {
            uint64_t generation;
            int32_t status = securereg_generation((securereg_registry){world.token[REGISTRY]}, &generation, &error);
            if (status == SECUREREG_PANIC) {
                atomic_fetch_add(&panics, 1);
                CHECK_FAILS(status, SECUREREG_PANIC, &error, "forced");
            } else {
                CHECK_OK(status, &error);
            }
        }
        pthread_barrier_wait(&gate);
    }
    return NULL;
}

static void a_panic_in_one_thread_is_that_threads_alone(void) {
    pthread_t threads[THREADS];
    REQUIRE(pthread_barrier_init(&gate, NULL, THREADS) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) REQUIRE(pthread_create(&threads[i], NULL, panic_and_work, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) REQUIRE(pthread_join(threads[i], NULL) == 0);
    pthread_barrier_destroy(&gate);
    CHECK_INT(panics, ROUNDS);
}

static void no_panic_is_told_to_the_terminal(void) {
    size_t len;
    REQUIRE(dup2(standard_error, 2) == 2 && close(standard_error) == 0);
    char *text = kit_read(said, &len);
    CHECK_TEXT(text, "");
    free(text);
    free((void *)said);
}

static void end(void) { world_close(&world); }

static const struct test tests[] = {
    {"the_world_opens", begin},
    {"a_panic_is_a_status_and_nothing_is_written_or_lost", a_panic_is_a_status_and_nothing_is_written_or_lost},
    {"functions_without_a_boundary_do_not_panic", functions_without_a_boundary_do_not_panic},
    {"a_panic_in_one_thread_is_that_threads_alone", a_panic_in_one_thread_is_that_threads_alone},
    {"no_panic_is_told_to_the_terminal", no_panic_is_told_to_the_terminal},
    {"the_world_closes", end},
};
TESTS(tests)
