/* forked.c: the library in a forked child.
 *
 * Owns: that every function answers there at once, whatever locks other threads of the parent held, that nothing is written,
 * that the child ends as it likes, and that exec makes all well. Each child has an alarm, so that one that hangs is seen.
 */
#include "calls.h"
#include "check.h"
#include "kit.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct world world;
static struct args args;

enum { SECONDS = 30 };

/* What became of a child: 0 when all was well, else the number of what was not. */
static int outcome(pid_t child) {
    int status;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status)) return 1000 + WTERMSIG(status);
    return WEXITSTATUS(status);
}

static int check_child(pid_t child) {
    int what = outcome(child);
    if (what == 1000 + SIGALRM) return CHECK(!"the child hung");
    if (what > 0 && what <= (int)CALL_COUNT) check_about(CALLS[what - 1].name);
    return CHECK_INT(what, 0);
}

/* In the child: calls everything; 0, or one more than the index of what was wrong. Allocates nothing, prints nothing. */
static int call_everything_in_a_child(void) {
    static struct outputs before;
    for (unsigned i = 0; i < CALL_COUNT; i++) {
        const struct call *c = &CALLS[i];
        securereg_error error = {0x5A5A5A5A};
        args_reset(&args);
        memcpy(&before, &args.out, sizeof before);
        args.token = world.token[c->takes];
        int32_t status = c->run(&args, &error);
        int32_t want = c->flags & TELLS        ? SECUREREG_CLOSED /* "" */
                       : c->takes == NONE && c->flags & NO_BOUNDARY ? SECUREREG_OK
                                               : SECUREREG_FORKED;
        int touched = memcmp(&before, &args.out, sizeof before) != 0 || error.id != 0x5A5A5A5A;
        if (status != want || touched) return (int)i + 1;
        /* None, and nobody who wants to know. */
        args.token = 0;
        args_reset(&args);
        status = c->run(&args, NULL);
        if (status == SECUREREG_OK && want == SECUREREG_FORKED && strcmp(c->name, "securereg_error_status") != 0)
            return (int)i + 1;
    }
    return 0;
}

/* As any program ends, unless the parent was in the middle of something, which a tool would take for leaks of the child:
 * then at once, and under valgrind, which looks even then, as another program. */
static _Noreturn void end_child(int outcome, int was_idle) {
    if (was_idle || kit_is("plain")) exit(outcome);
    char command[] = "exit 000";
    for (int i = 7, rest = outcome; i > 4; i--, rest /= 10) command[i] = (char)('0' + rest % 10);
    if (kit_is("valgrind")) execl("/bin/sh", "sh", "-c", command, NULL);
    _exit(outcome);
}

static void a_child_from_before_the_first_use_may_use_it(void) {
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        securereg_registry registry = kit_registry("of-the-child");
        CHECK_INT(kit_generation(registry), 0);
        CHECK_OK(securereg_close(registry), NULL);
        exit(check_failures() ? 1 : 0);
    }
    check_child(child);
}

/* In a container the parent may be process 1, and so may a child of its in a namespace of its own. */
static int same_number(void) {
    securereg_registry registry = kit_registry("numbered");
    uint64_t generation = 7;
    if (unshare(CLONE_NEWPID) != 0) return 77;
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        _exit(getpid() != 1 ? 77 : securereg_generation(registry, &generation, NULL) == SECUREREG_FORKED ? 0 : 1);
    }
    int what = outcome(child);
    securereg_close(registry);
    return what;
}

static void a_child_that_has_the_parents_number_is_forked_too(void) {
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        if (unshare(CLONE_NEWPID) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) _exit(77);
        pid_t first = fork();
        if (first == 0) {
            alarm(SECONDS);
            _exit(same_number());
        }
        _exit(outcome(first));
    }
    int what = outcome(child);
    if (what == 77) printf("  skipped: no namespace of process numbers may be made here\n");
    else CHECK_INT(what, 0);
}

static void begin(void) {
    world_open(&world, "world");
    args_begin(&args, &world, 0);
}

static void every_function_is_refused_in_a_child_which_then_exits(void) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        int what = call_everything_in_a_child();
        /* And a child of that child. */
        pid_t second = fork();
        if (second == 0) _exit(call_everything_in_a_child());
        if (what == 0) what = outcome(second);
        end_child(what, 1);
    }
    check_child(child);
    for (unsigned i = 0; i < CALL_COUNT; i++) {
        securereg_error error = {0};
        check_about(CALLS[i].name);
        CHECK_OK(call_well(&CALLS[i], &world, &args, &error), &error);
        check_covered(CALLS[i].name, "fork", -1);
    }
}

static void exec_makes_all_well(void) {
    const char *root = kit_root("world");
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        if (call_everything_in_a_child() != 0) _exit(1);
        execl(kit_self(), kit_self(), "act", root, "lookup", "tiny", "", NULL);
        _exit(2);
    }
    check_child(child);
}

/* --- with locks held --- */

static atomic_int stop;
static atomic_ullong calls;

static void *hammer(void *number) {
    struct args mine;
    args_begin(&mine, &world, 1 + (unsigned)(uintptr_t)number);
    for (unsigned n = 0; !atomic_load(&stop); n++) {
        for (unsigned i = 0; i < CALL_COUNT && !atomic_load(&stop); i++) {
            const struct call *c = &CALLS[(i + (uintptr_t)number * 5) % CALL_COUNT];
            /* One thread writes to the disk, the others hold the short locks. */
            if (c->flags & CHANGES && number != 0) continue;
            securereg_error error = {0};
            check_about(c->name);
            CHECK_OK(call_well(c, &world, &mine, &error), &error);
            atomic_fetch_add(&calls, 1);
        }
    }
    return NULL;
}

static void a_child_never_waits_for_a_lock_of_its_parent(void) {
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    unsigned forks = check_number("SECUREREG_TEST_FORKS", 200);
    for (uintptr_t i = 0; i < THREADS; i++) REQUIRE(pthread_create(&threads[i], NULL, hammer, (void *)i) == 0);
    while (atomic_load(&calls) < 100) sched_yield();
    for (unsigned i = 0, good = 1; i < forks && good; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(SECONDS);
            end_child(call_everything_in_a_child(), 0);
        }
        good = (unsigned)check_child(child);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++) REQUIRE(pthread_join(threads[i], NULL) == 0);
    printf("  %u children, %llu calls meanwhile\n", forks, atomic_load(&calls));
}

/* A lock that is held for certain, by the very thread that forks. */
static int32_t fork_now(void *user, uint32_t phase, uint64_t done, uint64_t total) {
    (void)phase, (void)done, (void)total;
    int *children = user;
    if ((*children)++ > 0) return 0;
    pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        end_child(call_everything_in_a_child(), 0);
    }
    check_child(child);
    return 0;
}

static void a_child_of_the_progress_callback_is_refused_too(void) {
    int children = 0;
    securereg_task task = {.size = sizeof task, .progress = fork_now, .user = &children};
    securereg_error error = {0};
    securereg_sealed sealed = {0};
    const char *path = kit_sized("large", 1 << 20);
    CHECK_OK(securereg_promote(world.registry, path, "large", NULL, &task, NULL, NULL, &error), &error);
    CHECK(children > 0);
    children = 0;
    CHECK_OK(securereg_verify(world.registry, "large", &task, &error), &error);
    CHECK(children > 0);
    children = 0;
    CHECK_OK(securereg_open_sealed(world.registry, "large", NULL, &task, &sealed, &error), &error);
    CHECK(children > 0);
    CHECK_OK(securereg_sealed_close(sealed), NULL);
}

static void end(void) { world_close(&world); }

static const struct test tests[] = {
    {"a_child_from_before_the_first_use_may_use_it", a_child_from_before_the_first_use_may_use_it},
    {"a_child_that_has_the_parents_number_is_forked_too", a_child_that_has_the_parents_number_is_forked_too},
    {"the_world_opens", begin},
    {"every_function_is_refused_in_a_child_which_then_exits", every_function_is_refused_in_a_child_which_then_exits},
    {"exec_makes_all_well", exec_makes_all_well},
    {"a_child_never_waits_for_a_lock_of_its_parent", a_child_never_waits_for_a_lock_of_its_parent},
    {"a_child_of_the_progress_callback_is_refused_too", a_child_of_the_progress_callback_is_refused_too},
    {"the_world_closes", end},
};
TESTS(tests)
