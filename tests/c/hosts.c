/* hosts.c: programs that are not as kind as these tests.
 *
 * Owns: a program whose signals interrupt every call while others write to the registry, one that calls the library out of
 * its progress callback, one whose threads have small stacks, one that starts others. Leaves out: forks that go on without
 * exec (forked.c).
 */
#include "calls.h"
#include "check.h"
#include "kit.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct world world;

static void begin(void) { world_open(&world, "world"); }

static unsigned call_everything(unsigned number) {
    struct args args;
    args_begin(&args, &world, number);
    for (const struct call *c = CALLS; c < CALLS + CALL_COUNT; c++) {
        securereg_error error = {0};
        check_about(c->name);
        CHECK_OK(call_well(c, &world, &args, &error), &error);
    }
    return CALL_COUNT;
}

/* --- descriptors --- */

static void every_descriptor_closes_on_exec(void) {
    DIR *dir = opendir("/proc/self/fd");
    REQUIRE(dir);
    unsigned ours = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[PATH_MAX];
        const char *link = kit_path("/proc/self/fd/%s", entry->d_name);
        ssize_t len = readlink(link, path, sizeof path - 1);
        if (len < 0 || atoi(entry->d_name) == dirfd(dir)) continue;
        path[len] = 0;
        /* Files of the registry, sealed memory, watches; not what this program was started with. */
        if (!strstr(path, kit_root("world")) && !strstr(path, "memfd:securereg") && !strstr(path, "inotify")) continue;
        check_about(path);
        CHECK(fcntl(atoi(entry->d_name), F_GETFD) & FD_CLOEXEC);
        ours++;
    }
    closedir(dir);
    CHECK(ours > 5);
}

/* --- signals --- */

static atomic_uint ticks;
static void tick(int signal_number) {
    (void)signal_number;
    atomic_fetch_add(&ticks, 1);
}

/* Changes the registry from a process of its own until it is told to stop. */
static pid_t start_writer(int number, atomic_int *stop) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    int failures = 0;
    for (unsigned n = 0; !atomic_load(stop); n++) {
        const char *name = kit_path("writer-%d-%u", number, n), *path = kit_small(name), *root = kit_root("world");
        failures += kit_act(root, "promote", name, path) != 0;
        failures += kit_act(root, "delete", name, NULL) != 0;
    }
    _exit(failures != 0);
}

static void signals_interrupt_nothing(void) {
    enum { WRITERS = 3, SECONDS = 2 };
    if (kit_is("valgrind")) {
        printf("  skipped: too slow for a timer\n");
        return;
    }
    atomic_int *stop = mmap(NULL, sizeof *stop, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(stop != MAP_FAILED);
    fflush(NULL);
    pid_t writers[WRITERS];
    for (int i = 0; i < WRITERS; i++) REQUIRE((writers[i] = start_writer(i, stop)) > 0);

    /* Without SA_RESTART: a lock that is waited for is interrupted, again and again. */
    struct sigaction action = {.sa_handler = tick}, before;
    struct itimerval often = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
    REQUIRE(sigaction(SIGALRM, &action, &before) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    unsigned calls = 0;
    for (time_t end = time(NULL) + SECONDS; time(NULL) <= end;) calls += call_everything(1);
    REQUIRE(setitimer(ITIMER_REAL, &never, NULL) == 0 && sigaction(SIGALRM, &before, NULL) == 0);

    atomic_store(stop, 1);
    for (int i = 0, status; i < WRITERS; i++) {
        REQUIRE(waitpid(writers[i], &status, 0) == writers[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    munmap(stop, sizeof *stop);
    printf("  %u calls, %u signals\n", calls, atomic_load(&ticks));
    CHECK(ticks > 100);
}

/* --- progress callbacks --- */

static struct args mine;
static securereg_error refusals[200];
static unsigned refusal_count;
static atomic_int *asked;

/* Calls everything that a callback may not call: with the locks of the call it reports on, that would wait for ever. */
static int32_t call_the_library(void *user, uint32_t phase, uint64_t done, uint64_t total) {
    (void)user, (void)phase, (void)done, (void)total;
    if (atomic_fetch_add(asked, 1) > 0) return 0;
    for (const struct call *c = CALLS; c < CALLS + CALL_COUNT; c++) {
        if (c->flags & NO_BOUNDARY) continue;
        struct outputs before;
        check_about(c->name);
        mine.token = world.token[c->takes];
        args_reset(&mine);
        memcpy(&before, &mine.out, sizeof before);
        securereg_error *error = &refusals[refusal_count];
        CHECK_INT(c->run(&mine, c->flags & NO_ERROR ? NULL : error), SECUREREG_INVALID_INPUT);
        CHECK(memcmp(&before, &mine.out, sizeof before) == 0);
        if (error->id && refusal_count < sizeof refusals / sizeof *refusals - 1) refusal_count++;
    }
    return 0;
}

static void a_callback_that_calls_the_library_is_refused(void) {
    static atomic_int calls;
    asked = &calls;
    args_begin(&mine, &world, 3);
    securereg_task task = {.size = sizeof task, .progress = call_the_library};
    securereg_error error = {0};
    securereg_sealed sealed = {0};
    const char *path = kit_sized("large", 6 << 20);
    for (int work = 0; work < 5; work++) {
        calls = 0;
        refusal_count = 0;
        int32_t status = work == 0   ? securereg_promote(world.registry, path, "large", NULL, &task, NULL, NULL, &error)
                         : work == 1 ? securereg_verify(world.registry, "large", &task, &error)
                         : work == 2 ? securereg_verify_all(world.registry, &task, &error)
                         : work == 3 ? securereg_release(world.registry, "large", "a test", &task, &error)
                                     : securereg_open_sealed(world.registry, "large", NULL, &task, &sealed, &error);
        check_about(NULL);
        CHECK_OK(status, &error);
        CHECK(calls > 0 && refusal_count > 30);
        for (unsigned i = 0; i < refusal_count; i++) CHECK_FAILS(SECUREREG_INVALID_INPUT, SECUREREG_INVALID_INPUT, &refusals[i], "callback");
    }
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    call_everything(3);
}

/* --- stacks --- */

static void *on_a_small_stack(void *unused) {
    (void)unused;
    call_everything(2);
    return NULL;
}

static void a_small_stack_is_enough(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    if (!kit_is("plain")) {
        printf("  skipped: a tool takes more of it\n");
        return;
    }
    REQUIRE(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 128 << 10) == 0);
    REQUIRE(pthread_create(&thread, &attributes, on_a_small_stack, NULL) == 0 && pthread_join(thread, NULL) == 0);
    pthread_attr_destroy(&attributes);
}

static void end(void) { world_close(&world); }

static const struct test tests[] = {
    {"the_world_opens", begin},
    {"every_descriptor_closes_on_exec", every_descriptor_closes_on_exec},
    {"signals_interrupt_nothing", signals_interrupt_nothing},
    {"a_callback_that_calls_the_library_is_refused", a_callback_that_calls_the_library_is_refused},
    {"a_small_stack_is_enough", a_small_stack_is_enough},
    {"the_world_closes", end},
};
TESTS(tests)
