/* threads.c: many threads at once.
 *
 * Owns: every function called by all threads on one handle, on handles that are closed meanwhile, and the promises that only
 * hold or break with threads: one close wins, one memory a content, each event to one caller, one progress call at a time.
 * SECUREREG_TEST_THREADS (64) and SECUREREG_TEST_ROUNDS (10) make it bearable under a tool.
 */
#include "calls.h"
#include "check.h"
#include "kit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MOST = 256 };

static struct world world;
static unsigned threads, rounds;
static pthread_barrier_t gate;
static char *source;

/* Runs this in all threads at once. */
static void in_all_threads(void *(*run)(void *)) {
    static pthread_t ids[MOST];
    REQUIRE(pthread_barrier_init(&gate, NULL, threads) == 0);
    for (uintptr_t i = 0; i < threads; i++) REQUIRE(pthread_create(&ids[i], NULL, run, (void *)i) == 0);
    for (unsigned i = 0; i < threads; i++) REQUIRE(pthread_join(ids[i], NULL) == 0);
    pthread_barrier_destroy(&gate);
}

static void begin(void) {
    size_t len;
    threads = check_number("SECUREREG_TEST_THREADS", 64);
    rounds = check_number("SECUREREG_TEST_ROUNDS", 10);
    REQUIRE(threads >= 4 && threads <= MOST && rounds > 0);
    world_open(&world, "world");
    source = kit_read(kit_data(TINY), &len);
}

/* --- every function --- */

static void *call_everything(void *number) {
    struct args args;
    args_begin(&args, &world, (unsigned)(uintptr_t)number);
    pthread_barrier_wait(&gate);
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < CALL_COUNT; i++) {
            const struct call *c = &CALLS[(i + (uintptr_t)number * 7) % CALL_COUNT];
            /* The disk is slow: some of the threads change it, once, and those in the order of the table. */
            if (c->flags & CHANGES) continue;
            securereg_error error = {0};
            check_about(c->name);
            CHECK_OK(call_well(c, &world, &args, &error), &error);
        }
        if (round == 0 && (uintptr_t)number % 8 == 0) {
            for (const struct call *c = CALLS; c < CALLS + CALL_COUNT; c++) {
                securereg_error error = {0};
                check_about(c->name);
                if (c->flags & CHANGES) CHECK_OK(call_well(c, &world, &args, &error), &error);
            }
        }
    }
    return NULL;
}

static void every_function_works_in_all_threads_on_one_handle(void) {
    in_all_threads(call_everything);
    for (const struct call *c = CALLS; c < CALLS + CALL_COUNT; c++) check_covered(c->name, "threads", -1);
}

/* --- handles that are closed meanwhile --- */

static atomic_ullong slots[KINDS];
static atomic_uint served, refused;

/* One in four closes and opens anew, the others use what they find. */
static void *use_or_close(void *number) {
    struct args args;
    args_begin(&args, &world, (unsigned)(uintptr_t)number);
    pthread_barrier_wait(&gate);
    for (unsigned round = 0; round < rounds; round++) {
        for (enum kind kind = REGISTRY; kind < KINDS; kind++) {
            if ((uintptr_t)number % 4 == 0) {
                uint64_t old = atomic_exchange(&slots[kind], world_make(&world, kind));
                CHECK_OK(give_back(kind, old), NULL);
                continue;
            }
            for (const struct call *c = CALLS; c < CALLS + CALL_COUNT; c++) {
                /* What a string leads to is not for us to look at: its handle may be gone. */
                if (c->takes != kind || c->flags & (FREES | CHANGES | TELLS)) continue;
                securereg_error error = {0};
                args.token = atomic_load(&slots[kind]);
                args_reset(&args);
                check_about(c->name);
                int32_t status = c->run(&args, &error);
                if (status == SECUREREG_CLOSED) {
                    if (!(c->flags & NO_ERROR)) CHECK_FAILS(status, status, &error, "closed");
                    atomic_fetch_add(&refused, 1);
                    continue;
                }
                if (CHECK_OK(status, &error) && c->gives) CHECK_OK(give_back(c->gives, args.out.handle), NULL);
                atomic_fetch_add(&served, 1);
            }
            if (kind == ERROR) {
                securereg_error error = {atomic_load(&slots[kind])};
                CHECK(securereg_error_message(error) && securereg_error_model(error));
                CHECK(securereg_error_expected(error) && securereg_error_actual(error));
            }
        }
    }
    return NULL;
}

static void handles_may_be_closed_while_others_use_them(void) {
    for (enum kind kind = REGISTRY; kind < KINDS; kind++) slots[kind] = world_make(&world, kind);
    in_all_threads(use_or_close);
    for (enum kind kind = REGISTRY; kind < KINDS; kind++) CHECK_OK(give_back(kind, slots[kind]), NULL);
    printf("  %u calls were served, %u came too late\n", served, refused);
    CHECK(served > 0);
}

/* --- one close wins --- */

static uint64_t contested[KINDS];
static atomic_uint winners[KINDS];

static void *close_all(void *number) {
    (void)number;
    for (enum kind kind = REGISTRY; kind < KINDS; kind++) {
        pthread_barrier_wait(&gate);
        int32_t status = give_back(kind, contested[kind]);
        CHECK(status == SECUREREG_OK || status == SECUREREG_CLOSED);
        if (status == SECUREREG_OK) atomic_fetch_add(&winners[kind], 1);
    }
    return NULL;
}

static void of_many_closes_one_wins(void) {
    for (unsigned round = 0; round < 3; round++) {
        for (enum kind kind = REGISTRY; kind < KINDS; kind++) {
            contested[kind] = world_make(&world, kind);
            winners[kind] = 0;
        }
        in_all_threads(close_all);
        for (enum kind kind = REGISTRY; kind < KINDS; kind++) CHECK_INT(winners[kind], 1);
    }
}

/* --- reads --- */

static void *read_everywhere(void *number) {
    securereg_file file = {world.token[FILE_]};
    unsigned random = (unsigned)(uintptr_t)number * 2654435761u + 1;
    char *bytes = malloc(200000);
    pthread_barrier_wait(&gate);
    for (unsigned i = 0; i < rounds * 10; i++) {
        random = random * 1103515245u + 12345;
        uint64_t offset = (random >> 8) % TINY_SIZE;
        size_t len = i % 3 ? (random >> 4) % 100 : (random >> 4) % 200000, read = 0;
        securereg_error error = {0};
        CHECK_OK(securereg_read_at(file, bytes, len, offset, &read, &error), &error);
        CHECK_INT(read, len < TINY_SIZE - offset ? len : TINY_SIZE - offset);
        CHECK(memcmp(bytes, source + offset, read) == 0);
    }
    free(bytes);
    return NULL;
}

static void reads_of_one_file_give_each_thread_its_bytes(void) { in_all_threads(read_everywhere); }

/* --- sealed memory --- */

static atomic_ullong inode;

static void *seal(void *number) {
    (void)number;
    pthread_barrier_wait(&gate);
    securereg_error error = {0};
    securereg_sealed sealed = {0};
    const void *data = NULL;
    size_t len = 0;
    int fd = -1;
    struct stat stat_of;
    CHECK_OK(securereg_map(world.registry, "tiny", NULL, NULL, &sealed, &data, &len, &error), &error);
    CHECK(len == TINY_SIZE && memcmp(data, source, len) == 0);
    CHECK_OK(securereg_sealed_fd(sealed, &fd, &error), &error);
    CHECK(fstat(fd, &stat_of) == 0);
    unsigned long long none = 0;
    if (!atomic_compare_exchange_strong(&inode, &none, stat_of.st_ino)) CHECK_INT(none, stat_of.st_ino);
    pthread_barrier_wait(&gate);
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    return NULL;
}

static void all_threads_share_one_sealed_memory(void) {
    in_all_threads(seal);
    CHECK(inode != 0);
}

/* --- events --- */

enum { PROMOTED = 12 };
static securereg_events events;
static atomic_uint told[PROMOTED];

static void *take_events(void *number) {
    (void)number;
    pthread_barrier_wait(&gate);
    for (;;) {
        securereg_event event = {.size = sizeof event};
        securereg_error error = {0};
        if (!CHECK_OK(securereg_events_next(events, &event, &error), &error) || event.kind == SECUREREG_EVENT_NONE)
            return NULL;
        unsigned which = PROMOTED;
        CHECK_INT(event.kind, SECUREREG_EVENT_PROMOTED);
        if (CHECK(sscanf(event.name, "event-%u", &which) == 1 && which < PROMOTED)) atomic_fetch_add(&told[which], 1);
    }
}

static void each_event_is_given_to_one_thread(void) {
    securereg_error error = {0};
    char name[32];
    CHECK_OK(securereg_events_open(world.registry, &events, &error), &error);
    for (unsigned i = 0; i < PROMOTED; i++) {
        snprintf(name, sizeof name, "event-%u", i);
        kit_promote(world.registry, kit_small(name), name);
    }
    in_all_threads(take_events);
    for (unsigned i = 0; i < PROMOTED; i++) CHECK_INT(told[i], 1);
    CHECK_OK(securereg_events_close(events), NULL);
}

/* --- promotions --- */

static char same[512];
static atomic_uint outcomes[3];

static void *promote_the_same(void *number) {
    pthread_barrier_wait(&gate);
    if ((uintptr_t)number >= 16) return NULL;
    securereg_promotion result = {.size = sizeof result};
    securereg_model model = {0};
    securereg_error error = {0};
    if (CHECK_OK(securereg_promote(world.registry, same, "same", NULL, NULL, &result, &model, &error), &error) &&
        CHECK(result.outcome < 3))
        atomic_fetch_add(&outcomes[result.outcome], 1);
    CHECK_OK(securereg_model_free(model), NULL);
    return NULL;
}

static void of_many_promotions_of_the_same_one_is_new(void) {
    snprintf(same, sizeof same, "%s", kit_small("same"));
    in_all_threads(promote_the_same);
    CHECK_INT(outcomes[SECUREREG_OUTCOME_PROMOTED], 1);
    CHECK_INT(outcomes[SECUREREG_OUTCOME_ALREADY_THERE], (threads < 16 ? threads : 16) - 1);
    CHECK_INT(kit_count(kit_path("%s/tmp", kit_root("world"))), 0);
}

/* --- progress --- */

struct watcher {
    atomic_int inside, calls;
};

static int32_t one_at_a_time(void *user, uint32_t phase, uint64_t done, uint64_t total) {
    struct watcher *watcher = user;
    CHECK_INT(atomic_fetch_add(&watcher->inside, 1), 0);
    CHECK(phase <= SECUREREG_PHASE_VERIFY && done <= total);
    atomic_fetch_add(&watcher->calls, 1);
    atomic_fetch_sub(&watcher->inside, 1);
    return 0;
}

static void *watch_a_verification(void *number) {
    struct watcher watcher = {0};
    securereg_task task = {.size = sizeof task, .progress = one_at_a_time, .user = &watcher};
    securereg_error error = {0};
    pthread_barrier_wait(&gate);
    if ((uintptr_t)number >= 8) return NULL;
    CHECK_OK(securereg_verify(world.registry, "large", &task, &error), &error);
    CHECK(watcher.calls > 1);
    return NULL;
}

static void the_progress_of_a_call_comes_one_at_a_time(void) {
    kit_promote(world.registry, kit_sized("large", kit_is("plain") ? 48 << 20 : 9 << 20), "large");
    in_all_threads(watch_a_verification);
}

static void end(void) {
    free(source);
    world_close(&world);
}

static const struct test tests[] = {
    {"the_world_opens", begin},
    {"every_function_works_in_all_threads_on_one_handle", every_function_works_in_all_threads_on_one_handle},
    {"handles_may_be_closed_while_others_use_them", handles_may_be_closed_while_others_use_them},
    {"of_many_closes_one_wins", of_many_closes_one_wins},
    {"reads_of_one_file_give_each_thread_its_bytes", reads_of_one_file_give_each_thread_its_bytes},
    {"all_threads_share_one_sealed_memory", all_threads_share_one_sealed_memory},
    {"each_event_is_given_to_one_thread", each_event_is_given_to_one_thread},
    {"of_many_promotions_of_the_same_one_is_new", of_many_promotions_of_the_same_one_is_new},
    {"the_progress_of_a_call_comes_one_at_a_time", the_progress_of_a_call_comes_one_at_a_time},
    {"the_world_closes", end},
};
TESTS(tests)
