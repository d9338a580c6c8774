/* sealed.c: model files in sealed memory.
 *
 * Owns: that nobody can change a byte of it, by whatever door; that one content is one memory; that it outlives a quarantine
 * and its registry; that it is refused where there is no room. A control group of its own is run.sh's to make: limits.c.
 */
#include "check.h"
#include "kit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static securereg_registry registry;
static securereg_error error;
static char *source;

static void begin(void) {
    size_t len;
    registry = kit_registry("root");
    kit_promote(registry, kit_data(TINY), "tiny");
    source = kit_read(kit_data(TINY), &len);
}

static securereg_sealed open_tiny(void) {
    securereg_sealed sealed = {0};
    REQUIRE(CHECK_OK(securereg_open_sealed(registry, "tiny", NULL, NULL, &sealed, &error), &error));
    return sealed;
}

static int descriptor_of(securereg_sealed sealed) {
    int fd = -1;
    REQUIRE(CHECK_OK(securereg_sealed_fd(sealed, &fd, &error), &error));
    return fd;
}

/* Each way to change what a descriptor leads to; all must fail with one of two errors. */
static void check_nothing_changes(int fd, int first, int second) {
    char byte = 'X';
#define CHECK_REFUSED(call) CHECK((call) == -1 && (errno == first || errno == second))
    CHECK_REFUSED(pwrite(fd, &byte, 1, 0));
    CHECK_REFUSED(pwrite(fd, &byte, 1, TINY_SIZE));
    CHECK_REFUSED(write(fd, &byte, 1));
    CHECK_REFUSED(ftruncate(fd, 0));
    CHECK_REFUSED(ftruncate(fd, TINY_SIZE + 1));
    CHECK_REFUSED(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    CHECK_REFUSED(fallocate(fd, 0, TINY_SIZE, 4096));
#undef CHECK_REFUSED
    errno = 0;
    void *map = mmap(NULL, TINY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map == MAP_FAILED && (errno == EACCES || errno == EPERM));
    /* A shared mapping for reading may not become one for writing. */
    map = mmap(NULL, TINY_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (CHECK(map != MAP_FAILED)) {
        CHECK(mprotect(map, TINY_SIZE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
        CHECK(memcmp(map, source, TINY_SIZE) == 0);
        CHECK(munmap(map, TINY_SIZE) == 0);
    }
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == -1 && errno == EPERM);
}

static void sealed_memory_cannot_be_changed_by_any_door(void) {
    securereg_sealed sealed = open_tiny();
    int fd = descriptor_of(sealed);
    int all = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    CHECK_INT(fcntl(fd, F_GET_SEALS) & all, all);
    CHECK_INT(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    check_nothing_changes(fd, EBADF, EINVAL);

    /* Opened anew for writing: the owner may ask, the seals answer. */
    const char *path = NULL;
    CHECK_OK(securereg_sealed_path(sealed, &path, &error), &error);
    CHECK_TEXT(path, kit_path("/proc/self/fd/%d", fd));
    int writable = open(path, O_RDWR | O_CLOEXEC);
    if (CHECK(writable >= 0)) {
        check_nothing_changes(writable, EPERM, EPERM);
        close(writable);
    }
    CHECK(open(path, O_RDWR | O_TRUNC | O_CLOEXEC) == -1 && errno == EPERM);

    /* A private mapping is the caller's own, and changes nothing of ours. */
    char *private = mmap(NULL, TINY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (CHECK(private != MAP_FAILED)) {
        private[0] = 'X';
        munmap(private, TINY_SIZE);
    }
    char first = 0;
    CHECK(pread(fd, &first, 1, 0) == 1 && first == 'G');
    CHECK_OK(securereg_sealed_close(sealed), NULL);
}

static void a_loader_reads_the_file_by_its_path(void) {
    securereg_sealed sealed = open_tiny();
    const char *path = NULL;
    size_t len;
    CHECK_OK(securereg_sealed_path(sealed, &path, &error), &error);
    char *bytes = kit_read(path, &len);
    CHECK_INT(len, TINY_SIZE);
    CHECK(memcmp(bytes, source, TINY_SIZE) == 0);
    free(bytes);
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    CHECK(!kit_maps("memfd:securereg"));
}

static void the_mapping_is_the_file(void) {
    securereg_sealed sealed = {0}, second = {0};
    const void *data = NULL, *again = NULL;
    size_t len = 0;
    CHECK_OK(securereg_map(registry, "tiny", TINY, NULL, &sealed, &data, &len, &error), &error);
    CHECK_INT(len, TINY_SIZE);
    CHECK(memcmp(data, source, TINY_SIZE) == 0);
    CHECK_OK(securereg_sealed_map(sealed, &again, &len, &error), &error);
    CHECK(again == data && len == TINY_SIZE);
    CHECK_OK(securereg_map(registry, "tiny", NULL, NULL, &second, &again, &len, &error), &error);
    CHECK(again == data && second.id != sealed.id);
    /* It may not be made writable. */
    CHECK(mprotect((void *)((uintptr_t)data & ~(uintptr_t)4095), 4096, PROT_READ | PROT_WRITE) == -1);
    /* It stays until the last handle is closed. */
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    CHECK(memcmp(again, source, TINY_SIZE) == 0);
    CHECK_OK(securereg_sealed_close(second), NULL);
    CHECK(!kit_maps("memfd:securereg"));
}

static void one_content_is_one_memory(void) {
    securereg_registry other = kit_open("root", 0);
    securereg_sealed first = open_tiny(), second = open_tiny(), third = {0};
    struct stat of[3];
    CHECK_OK(securereg_open_sealed(other, "tiny", NULL, NULL, &third, &error), &error);
    CHECK(fstat(descriptor_of(first), &of[0]) == 0 && fstat(descriptor_of(second), &of[1]) == 0);
    CHECK(fstat(descriptor_of(third), &of[2]) == 0);
    CHECK(of[0].st_ino == of[1].st_ino && of[0].st_dev == of[1].st_dev && of[0].st_ino == of[2].st_ino);
    CHECK_INT(of[0].st_size, TINY_SIZE);
    /* Each with a descriptor, and so a position, of its own. */
    CHECK(descriptor_of(first) != descriptor_of(second) && descriptor_of(first) != descriptor_of(third));
    CHECK(lseek(descriptor_of(first), 100, SEEK_SET) == 100 && lseek(descriptor_of(second), 0, SEEK_CUR) == 0);
    CHECK_OK(securereg_close(other), NULL);
    CHECK_OK(securereg_sealed_close(first), NULL);
    CHECK_OK(securereg_sealed_close(second), NULL);
    char byte;
    CHECK(pread(descriptor_of(third), &byte, 1, TINY_SIZE - 1) == 1 && byte == source[TINY_SIZE - 1]);
    CHECK_OK(securereg_sealed_close(third), NULL);
}

static void what_the_caller_made_of_it_is_the_callers(void) {
    securereg_sealed sealed = open_tiny();
    int own = fcntl(descriptor_of(sealed), F_DUPFD_CLOEXEC, 0);
    const char *map = mmap(NULL, TINY_SIZE, PROT_READ, MAP_SHARED, own, 0);
    CHECK(map != MAP_FAILED);
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    CHECK(memcmp(map, source, TINY_SIZE) == 0);
    CHECK(munmap((void *)map, TINY_SIZE) == 0 && close(own) == 0);
}

/* A program that closes a descriptor twice closes somebody else's. What stands at its number then is never given out. */
static void a_descriptor_that_was_closed_by_mistake_is_not_given_out(void) {
    securereg_sealed sealed = open_tiny();
    const char *path = "untouched";
    const void *data = NULL;
    size_t len = 0;
    int fd = descriptor_of(sealed), other = 7;
    REQUIRE(close(fd) == 0);
    CHECK_FAILS(securereg_sealed_fd(sealed, &other, &error), SECUREREG_IO, &error, "closed");
    CHECK_FAILS(securereg_sealed_path(sealed, &path, &error), SECUREREG_IO, &error, "closed");
    /* The number is another file's now; even a memory of the same length and content will not do. */
    int wrong = open(kit_data(TINY), O_RDONLY | O_CLOEXEC);
    REQUIRE(wrong >= 0 && (wrong == fd || dup2(wrong, fd) == fd));
    CHECK_FAILS(securereg_sealed_fd(sealed, &other, &error), SECUREREG_IO, &error, "replaced");
    CHECK_FAILS(securereg_sealed_path(sealed, &path, &error), SECUREREG_IO, &error, "replaced");
    CHECK_INT(other, 7);
    CHECK_TEXT(path, "untouched");
    /* The memory itself is behind another, which nobody is given. */
    CHECK_OK(securereg_sealed_map(sealed, &data, &len, &error), &error);
    CHECK(len == TINY_SIZE && memcmp(data, source, len) == 0);
    /* And whose it is now keeps it. */
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    CHECK(fcntl(fd, F_GETFD) != -1 && close(fd) == 0);
    if (wrong != fd) close(wrong);
}

static void closing_what_was_closed_by_mistake_does_not_end_the_program(void) {
    CHECK_INT(kit_act(kit_root("root"), "close-by-mistake", "tiny", NULL), 0);
}

static void sealed_memory_outlives_a_quarantine_and_events_tell(void) {
    securereg_events events = {0};
    securereg_event event = {.size = sizeof event};
    securereg_sealed sealed = open_tiny(), second = {7};
    const void *data;
    size_t len;
    CHECK_OK(securereg_events_open(registry, &events, &error), &error);
    CHECK_OK(securereg_quarantine(registry, "tiny", "a test", NULL, &error), &error);
    CHECK_OK(securereg_events_next(events, &event, &error), &error);
    CHECK_INT(event.kind, SECUREREG_EVENT_QUARANTINED);
    CHECK_INT(event.sealed, 1);
    CHECK_TEXT(event.name, "tiny");
    CHECK_OK(securereg_sealed_map(sealed, &data, &len, &error), &error);
    CHECK(len == TINY_SIZE && memcmp(data, source, len) == 0);
    /* But it is not given out anew. */
    CHECK_FAILS(securereg_open_sealed(registry, "tiny", NULL, NULL, &second, &error), SECUREREG_QUARANTINED, &error, "tiny");
    const void *untouched = &len;
    CHECK_FAILS(securereg_map(registry, "tiny", NULL, NULL, &second, &untouched, &len, &error), SECUREREG_QUARANTINED,
                &error, "tiny");
    CHECK(second.id == 7 && untouched == &len && len == TINY_SIZE);
    CHECK_OK(securereg_sealed_close(sealed), NULL);
    CHECK_OK(securereg_release(registry, "tiny", "a test", NULL, &error), &error);
    CHECK_OK(securereg_events_next(events, &event, &error), &error);
    CHECK_INT(event.kind, SECUREREG_EVENT_RELEASED);
    CHECK_INT(event.sealed, 0);
    CHECK_OK(securereg_events_close(events), NULL);
}

static void damaged_bytes_are_never_sealed(void) {
    securereg_sealed sealed = {7};
    kit_flip(kit_root("root"), TINY_SHA256, TINY_SIZE - 1);
    CHECK_FAILS(securereg_open_sealed(registry, "tiny", NULL, NULL, &sealed, &error), SECUREREG_CORRUPT, &error, NULL);
    CHECK_INT(sealed.id, 7);
    CHECK_INT(kit_status(registry, "tiny"), SECUREREG_MODEL_QUARANTINED);
    kit_flip(kit_root("root"), TINY_SHA256, TINY_SIZE - 1);
    CHECK_OK(securereg_verify(registry, "tiny", NULL, &error), &error);
}

static int32_t stop(void *user, uint32_t phase, uint64_t done, uint64_t total) {
    (void)done;
    (void)total;
    return phase == *(uint32_t *)user;
}

static void sealing_can_be_stopped_in_both_phases(void) {
    unsigned descriptors = kit_descriptors();
    for (uint32_t phase = SECUREREG_PHASE_COPY; phase <= SECUREREG_PHASE_VERIFY; phase++) {
        securereg_task task = {.size = sizeof task, .progress = stop, .user = &phase};
        securereg_sealed sealed = {7};
        CHECK_FAILS(securereg_open_sealed(registry, "tiny", NULL, &task, &sealed, &error), SECUREREG_CANCELLED, &error, NULL);
        CHECK_INT(sealed.id, 7);
    }
    CHECK_INT(kit_descriptors(), descriptors);
    CHECK_INT(kit_status(registry, "tiny"), SECUREREG_MODEL_PROMOTED);
    CHECK_OK(securereg_sealed_close(open_tiny()), NULL);
}

static void without_room_it_is_refused_and_nothing_is_taken(void) {
    struct rlimit before, low;
    securereg_sealed sealed = {7};
    unsigned descriptors = kit_descriptors();
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    low = before;
    low.rlim_cur = TINY_SIZE - 1;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &low) == 0);
    /* Without the check a signal (SIGXFSZ) would end this program here. */
    CHECK_INT(securereg_open_sealed(registry, "tiny", NULL, NULL, &sealed, &error), SECUREREG_NO_MEMORY);
    CHECK_HAS(securereg_error_message(error), "1451776");
    CHECK_HAS(securereg_error_message(error), "ulimit -f");
    CHECK_TEXT(securereg_error_model(error), "tiny");
    CHECK_OK(securereg_error_free(error), NULL);
    error.id = 0;
    CHECK_INT(sealed.id, 7);
    CHECK_INT(kit_descriptors(), descriptors);
    /* Just enough is enough. */
    low.rlim_cur = TINY_SIZE;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &low) == 0);
    CHECK_OK(securereg_sealed_close(open_tiny()), NULL);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
}

static void without_descriptors_it_is_an_error(void) {
    struct rlimit before, low;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    low = before;
    for (unsigned extra = 0; extra < 12; extra++) {
        securereg_sealed sealed = {0};
        low.rlim_cur = kit_descriptors() - 1 + extra;
        REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
        int32_t status = securereg_open_sealed(registry, "tiny", NULL, NULL, &sealed, &error);
        CHECK(status != SECUREREG_PANIC);
        REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
        if (status == SECUREREG_OK) CHECK_INT(fcntl(descriptor_of(sealed), F_GETFL) & O_ACCMODE, O_RDONLY);
        if (status != SECUREREG_OK) CHECK_FAILS(status, status, &error, NULL);
        CHECK_OK(securereg_sealed_close(sealed), NULL);
        CHECK_INT(kit_status(registry, "tiny"), SECUREREG_MODEL_PROMOTED);
    }
}

static void end(void) {
    CHECK_OK(securereg_close(registry), NULL);
    free(source);
}

static const struct test tests[] = {
    {"the_model_opens", begin},
    {"sealed_memory_cannot_be_changed_by_any_door", sealed_memory_cannot_be_changed_by_any_door},
    {"a_loader_reads_the_file_by_its_path", a_loader_reads_the_file_by_its_path},
    {"the_mapping_is_the_file", the_mapping_is_the_file},
    {"one_content_is_one_memory", one_content_is_one_memory},
    {"what_the_caller_made_of_it_is_the_callers", what_the_caller_made_of_it_is_the_callers},
    {"a_descriptor_that_was_closed_by_mistake_is_not_given_out",
     a_descriptor_that_was_closed_by_mistake_is_not_given_out},
    {"closing_what_was_closed_by_mistake_does_not_end_the_program",
     closing_what_was_closed_by_mistake_does_not_end_the_program},
    {"sealed_memory_outlives_a_quarantine_and_events_tell", sealed_memory_outlives_a_quarantine_and_events_tell},
    {"damaged_bytes_are_never_sealed", damaged_bytes_are_never_sealed},
    {"sealing_can_be_stopped_in_both_phases", sealing_can_be_stopped_in_both_phases},
    {"without_room_it_is_refused_and_nothing_is_taken", without_room_it_is_refused_and_nothing_is_taken},
    {"without_descriptors_it_is_an_error", without_descriptors_it_is_an_error},
    {"the_registry_closes", end},
};
TESTS(tests)
