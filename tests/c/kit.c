/* kit.c: see kit.h. */
#include "kit.h"
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char scratch[400], self[4096];
static unsigned descriptors_before, threads_before;
static struct sigaction signals_before[65];

const char *kit_scratch(void) { return scratch; }
const char *kit_self(void) { return self; }

const char *kit_path(const char *format, ...) {
    static _Thread_local char ring[16][1024];
    static _Thread_local unsigned next;
    char *path = ring[next++ % 16];
    va_list values;
    va_start(values, format);
    int len = vsnprintf(path, sizeof ring[0], format, values);
    va_end(values);
    REQUIRE(len > 0 && (size_t)len < sizeof ring[0]);
    return path;
}

const char *kit_root(const char *name) { return kit_path("%s/%s", scratch, name); }

const char *kit_data(const char *name) {
    const char *data = getenv("SECUREREG_TEST_DATA");
    REQUIRE(data);
    return kit_path("%s/%s", data, name);
}

int kit_is(const char *tool) {
    const char *now = getenv("SECUREREG_TEST_TOOL");
    return strcmp(now && *now ? now : "plain", tool) == 0;
}

/* --- the process as it was and must be again --- */

unsigned kit_count(const char *folder) {
    DIR *dir = opendir(folder);
    REQUIRE(dir);
    unsigned count = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) count++;
    closedir(dir);
    return count;
}

unsigned kit_descriptors(void) { return kit_count("/proc/self/fd"); }

/* A thread that was joined may be listed for another moment. */
unsigned kit_threads(void) {
    unsigned allowed = threads_before + kit_is("tsan"), count = kit_count("/proc/self/task");
    for (int i = 0; i < 100 && count > allowed && threads_before; i++) {
        usleep(10000);
        count = kit_count("/proc/self/task");
    }
    return count;
}

int kit_maps(const char *part) {
    size_t len;
    char *maps = kit_read("/proc/self/maps", &len);
    int found = strstr(maps, part) != NULL;
    free(maps);
    return found;
}

static int second_process(char **argv);

void kit_start(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    REQUIRE(realpath(argv[0], self));
    if (argc == 6 && strcmp(argv[1], "act") == 0) _Exit(second_process(argv));
    const char *tmp = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/securereg-c.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    REQUIRE(mkdtemp(scratch));
    char *real = realpath(scratch, NULL);
    REQUIRE(real && strlen(real) < sizeof scratch);
    strcpy(scratch, real);
    free(real);
    /* Where a plain user's default registry would be. */
    setenv("XDG_DATA_HOME", scratch, 1);
    check_covered("", "", -1);
    for (int i = 1; i < 65; i++) sigaction(i, NULL, &signals_before[i]);
    threads_before = kit_threads();
    descriptors_before = kit_descriptors();
}

/* The header: no thread outlives a call, no signal handler is installed; and what was closed is closed. */
void kit_end(void) {
    /* TSan begins a thread of its own with the first of anybody's. */
    CHECK(kit_threads() <= threads_before + kit_is("tsan"));
    CHECK_INT(kit_descriptors(), descriptors_before);
    CHECK(!kit_maps("memfd:securereg"));
    for (int i = 1; i < 65; i++) {
        struct sigaction now;
        if (sigaction(i, NULL, &now) == 0) CHECK(now.sa_handler == signals_before[i].sa_handler);
    }
}

/* --- files --- */

void kit_write(const char *path, const void *bytes, size_t len) {
    FILE *file = fopen(path, "we");
    REQUIRE(file && fwrite(bytes, 1, len, file) == len && fclose(file) == 0);
}

char *kit_read(const char *path, size_t *len) {
    FILE *file = fopen(path, "re");
    REQUIRE(file);
    size_t room = 1 << 16;
    char *bytes = malloc(room);
    *len = 0;
    REQUIRE(bytes);
    for (size_t n; (n = fread(bytes + *len, 1, room - *len - 1, file)) > 0;) {
        *len += n;
        if (*len == room - 1) REQUIRE(bytes = realloc(bytes, room *= 2));
    }
    bytes[*len] = 0;
    REQUIRE(fclose(file) == 0);
    return bytes;
}

int kit_exists(const char *path) { return access(path, F_OK) == 0; }

/* "GGUF", version 3, one tensor and no pairs; the tensor "t" of one dimension, how many elements, type I8, at 0; padding. The
 * elements, a byte each, are all that follows. */
enum { GGUF_START = 64, GGUF_ELEMENTS = 37 };
static const char ONE_TENSOR[GGUF_START] =
    "GGUF\3\0\0\0" "\1\0\0\0\0\0\0\0" "\0\0\0\0\0\0\0\0" "\1\0\0\0\0\0\0\0t" "\1\0\0\0" "\0\0\0\0\0\0\0\0" "\30\0\0\0";

static void put_start(FILE *file, uint64_t elements) {
    unsigned char start[GGUF_START];
    memcpy(start, ONE_TENSOR, sizeof start);
    for (int i = 0; i < 8; i++) start[GGUF_ELEMENTS + i] = (unsigned char)(elements >> 8 * i);
    REQUIRE(elements > 0 && fwrite(start, 1, sizeof start, file) == sizeof start);
}

const char *kit_small(const char *tail) {
    const char *path = kit_path("%s/small-%.60s.gguf", scratch, tail);
    FILE *file = fopen(path, "we");
    REQUIRE(file);
    put_start(file, strlen(tail));
    REQUIRE(fputs(tail, file) >= 0 && fclose(file) == 0);
    return path;
}

const char *kit_sized(const char *name, uint64_t size) {
    const char *path = kit_path("%s/%s.gguf", scratch, name);
    FILE *file = fopen(path, "we");
    REQUIRE(file);
    put_start(file, size - GGUF_START);
    REQUIRE(fclose(file) == 0);
    REQUIRE(truncate(path, (off_t)size) == 0);
    return path;
}

/* --- registries --- */

securereg_registry kit_open(const char *name, uint32_t flags) {
    securereg_error error = {0};
    securereg_registry registry = {0};
    securereg_open_options options = {.size = sizeof options, .flags = flags};
    REQUIRE(CHECK_OK(securereg_open(kit_root(name), &options, &registry, &error), &error));
    return registry;
}

securereg_registry kit_registry(const char *name) {
    return kit_open(name, SECUREREG_OPEN_WRITE | SECUREREG_OPEN_CREATE);
}

void kit_promote(securereg_registry registry, const char *path, const char *name) {
    securereg_error error = {0};
    REQUIRE(CHECK_OK(securereg_promote(registry, path, name, NULL, NULL, NULL, NULL, &error), &error));
}

static securereg_model_info info_of(securereg_registry registry, const char *name, securereg_model *model) {
    securereg_error error = {0};
    securereg_model_info info = {.size = sizeof info};
    REQUIRE(CHECK_OK(securereg_lookup(registry, name, model, &error), &error));
    REQUIRE(CHECK_OK(securereg_model_get(*model, &info, &error), &error));
    return info;
}

const char *kit_sha256(securereg_registry registry, const char *name) {
    securereg_model model = {0};
    const char *hex = kit_path("%s", info_of(registry, name, &model).sha256);
    CHECK_OK(securereg_model_free(model), NULL);
    return hex;
}

uint32_t kit_status(securereg_registry registry, const char *name) {
    securereg_model model = {0};
    uint32_t status = info_of(registry, name, &model).status;
    CHECK_OK(securereg_model_free(model), NULL);
    return status;
}

uint64_t kit_generation(securereg_registry registry) {
    securereg_error error = {0};
    uint64_t generation = 0;
    REQUIRE(CHECK_OK(securereg_generation(registry, &generation, &error), &error));
    return generation;
}

void kit_flip(const char *root, const char *sha256, uint64_t offset) {
    const char *path = kit_path("%s/blobs/sha256/%s", root, sha256);
    REQUIRE(chmod(path, 0644) == 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;
    REQUIRE(fd >= 0 && pread(fd, &byte, 1, (off_t)offset) == 1);
    byte ^= 1;
    REQUIRE(pwrite(fd, &byte, 1, (off_t)offset) == 1 && close(fd) == 0);
    REQUIRE(chmod(path, 0444) == 0);
}

/* --- the second process --- */

/* What a program does that closes descriptors twice. Whatever else it breaks: the library must not end it for that. */
static int32_t close_by_mistake(securereg_registry registry, const char *name, securereg_error *error) {
    securereg_sealed sealed = {0};
    securereg_events events = {0};
    int fds[2] = {-1, -1};
    int32_t status = securereg_open_sealed(registry, name, NULL, NULL, &sealed, error);
    if (status == SECUREREG_OK) status = securereg_events_open(registry, &events, error);
    if (status == SECUREREG_OK) status = securereg_sealed_fd(sealed, &fds[0], error);
    if (status == SECUREREG_OK) status = securereg_events_fd(events, &fds[1], error);
    close(fds[0]);
    close(fds[1]);
    if (status == SECUREREG_OK) status = securereg_sealed_close(sealed);
    if (status == SECUREREG_OK) status = securereg_events_close(events);
    return status;
}

static int second_process(char **argv) {
    const char *root = argv[2], *verb = argv[3], *name = argv[4], *path = argv[5];
    securereg_error error = {0};
    securereg_registry registry = {0};
    securereg_model model = {0};
    securereg_open_options options = {.size = sizeof options, .flags = SECUREREG_OPEN_WRITE};
    int32_t status = securereg_open(root, &options, &registry, &error);
    if (status == SECUREREG_OK) {
        if (strcmp(verb, "promote") == 0)
            status = securereg_promote(registry, path, name, NULL, NULL, NULL, NULL, &error);
        else if (strcmp(verb, "quarantine") == 0)
            status = securereg_quarantine(registry, name, "a test", NULL, &error);
        else if (strcmp(verb, "release") == 0)
            status = securereg_release(registry, name, "a test", NULL, &error);
        else if (strcmp(verb, "delete") == 0)
            status = securereg_delete(registry, name, &error);
        else if (strcmp(verb, "close-by-mistake") == 0)
            status = close_by_mistake(registry, name, &error);
        else
            status = securereg_lookup(registry, name, &model, &error);
    }
    if (error.id) fprintf(stderr, "  second process: %s %s: %s\n", verb, name, securereg_error_message(error));
    securereg_model_free(model);
    securereg_error_free(error);
    securereg_close(registry);
    return status;
}

int kit_act(const char *root, const char *verb, const char *name, const char *path) {
    pid_t pid;
    int status;
    char *arguments[] = {self, "act", (char *)root, (char *)verb, (char *)name, (char *)(path ? path : ""), NULL};
    fflush(NULL);
    REQUIRE(posix_spawn(&pid, self, NULL, NULL, arguments, environ) == 0);
    REQUIRE(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
