/* The other side of a benchmark: reads a file the way an inference engine does. A program of its own because a mapping
 * needs code that the product does not contain.
 *
 *   mapread read FILE         read(2) in 1 MiB pieces                 prints seconds
 *   mapread map FILE          mmap(MAP_SHARED), every page touched     prints seconds
 *   mapread random FILE N     N touches at random, MADV_RANDOM         prints microseconds, one a line
 *   mapread open FILE N       N times open and close                   prints microseconds, one a line
 *   mapread refused FILE      opens until it is refused                prints the CLOCK_MONOTONIC nanoseconds of the first refusal
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "mapread read|map|random|open|refused FILE [N]\n");
        return 2;
    }
    const char *how = argv[1], *path = argv[2];
    long n = argc > 3 ? atol(argv[3]) : 0;
    if (!strcmp(how, "refused")) {
        printf("ready\n");
        fflush(stdout);
        for (;;) {
            int fd = open(path, O_RDONLY);
            if (fd < 0) {
                printf("%.0f\n", now() * 1e9);
                return 0;
            }
            close(fd);
        }
    }
    if (!strcmp(how, "open")) {
        for (long i = 0; i < n; i++) {
            double start = now();
            int fd = open(path, O_RDONLY);
            if (fd < 0) return fail("open");
            close(fd);
            printf("%.3f\n", (now() - start) * 1e6);
        }
        return 0;
    }
    double start = now();
    int fd = open(path, O_RDONLY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) return fail("open");
    size_t size = (size_t)st.st_size;
    if (!strcmp(how, "read")) {
        char *buf = malloc(1 << 20);
        size_t total = 0;
        for (;;) {
            ssize_t got = read(fd, buf, 1 << 20);
            if (got < 0) return fail("read");
            if (got == 0) break;
            total += (size_t)got;
        }
        if (total != size) {
            fprintf(stderr, "short: %zu of %zu\n", total, size);
            return 1;
        }
        printf("%.6f\n", now() - start);
        return 0;
    }
    volatile unsigned char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if ((void *)map == MAP_FAILED) return fail("mmap");
    unsigned sum = 0;
    if (!strcmp(how, "map")) {
        for (size_t at = 0; at < size; at += 4096) sum += map[at];
        printf("%.6f\n", now() - start);
    } else if (!strcmp(how, "random")) {
        madvise((void *)map, size, MADV_RANDOM);
        uint64_t state = 88172645463325252u ^ (uint64_t)getpid();
        for (long i = 0; i < n; i++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            size_t at = state % (size / 4096) * 4096;
            double before = now();
            sum += map[at];
            printf("%.3f\n", (now() - before) * 1e6);
        }
    } else {
        return 2;
    }
    return sum == 0xffffffffu;
}
