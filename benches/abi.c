/* What the C ABI costs, timed from C: `abi COMMAND ...` prints one number a line. The other half of benches/abi.rs.
 *
 *   abi read ROOT NAME FILE PIECE ORDER   seconds of securereg_read_at, then of pread(2), over all of FILE in pieces of PIECE
 *                                         bytes; ORDER is `front` to back or `random`
 *   abi seal ROOT NAME                    seconds of securereg_open_sealed
 *   abi lookup ROOT NAME COUNT            nanoseconds a call of securereg_lookup and securereg_model_free, of
 *                                         securereg_generation, of securereg_file_size, and of stat(2) on ROOT/manifest.yaml
 */
#include <fcntl.h>
#include <securereg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void need(securereg_status status, securereg_error error) {
  if (status != SECUREREG_OK) {
    fprintf(stderr, "%s: %s\n", securereg_status_name((int32_t)status), securereg_error_message(error));
    exit(1);
  }
}

static void expect(int good, const char *what) {
  if (!good) {
    perror(what);
    exit(1);
  }
}

/* The offset of piece i of n: every piece once, in an order that no read-ahead guesses. */
static uint64_t piece_at(uint64_t i, uint64_t n, int random) {
  return random ? (i * 2654435761u + 12345u) % n : i;
}

static void read_all(securereg_registry registry, const char *name, const char *path, size_t piece, int random) {
  securereg_error error = {0};
  securereg_file file = {0};
  need(securereg_file_open(registry, name, NULL, &file, &error), error);
  uint64_t size = 0;
  need(securereg_file_size(file, &size, &error), error);
  uint64_t pieces = size / piece;
  unsigned char *buffer = malloc(piece);
  expect(buffer != NULL, "malloc");
  memset(buffer, 1, piece);
  double start = now();
  for (uint64_t i = 0; i < pieces; i++) {
    size_t got = 0;
    need(securereg_read_at(file, buffer, piece, piece_at(i, pieces, random) * piece, &got, &error), error);
    expect(got == piece, "read_at");
  }
  printf("%.9f\n", now() - start);
  int fd = open(path, O_RDONLY);
  expect(fd >= 0, path);
  start = now();
  for (uint64_t i = 0; i < pieces; i++) {
    ssize_t got = pread(fd, buffer, piece, (off_t)(piece_at(i, pieces, random) * piece));
    expect(got == (ssize_t)piece, "pread");
  }
  printf("%.9f\n", now() - start);
  close(fd);
  free(buffer);
  securereg_file_close(file);
}

static void lookup(securereg_registry registry, const char *root, const char *name, long count) {
  securereg_error error = {0};
  securereg_model model = {0};
  double start = now();
  for (long i = 0; i < count; i++) {
    need(securereg_lookup(registry, name, &model, &error), error);
    securereg_model_free(model);
  }
  printf("%.3f\n", (now() - start) / (double)count * 1e9);
  uint64_t generation = 0;
  start = now();
  for (long i = 0; i < count; i++) need(securereg_generation(registry, &generation, &error), error);
  printf("%.3f\n", (now() - start) / (double)count * 1e9);
  securereg_file file = {0};
  need(securereg_file_open(registry, name, NULL, &file, &error), error);
  start = now();
  for (long i = 0; i < count; i++) need(securereg_file_size(file, &generation, &error), error);
  printf("%.3f\n", (now() - start) / (double)count * 1e9);
  securereg_file_close(file);
  char path[4096];
  expect(snprintf(path, sizeof path, "%s/manifest.yaml", root) < (int)sizeof path, "root");
  struct stat s;
  start = now();
  for (long i = 0; i < count; i++) expect(stat(path, &s) == 0, path);
  printf("%.3f\n", (now() - start) / (double)count * 1e9);
}

int main(int argc, char **argv) {
  if (argc < 4) return 64;
  securereg_registry registry = {0};
  securereg_error error = {0};
  need(securereg_open(argv[2], NULL, &registry, &error), error);
  if (strcmp(argv[1], "read") == 0 && argc == 7) {
    read_all(registry, argv[3], argv[4], strtoul(argv[5], NULL, 10), strcmp(argv[6], "random") == 0);
  } else if (strcmp(argv[1], "lookup") == 0 && argc == 5) {
    lookup(registry, argv[2], argv[3], strtol(argv[4], NULL, 10));
  } else if (strcmp(argv[1], "seal") == 0) {
    securereg_sealed sealed = {0};
    double start = now();
    need(securereg_open_sealed(registry, argv[3], NULL, NULL, &sealed, &error), error);
    printf("%.9f\n", now() - start);
    securereg_sealed_close(sealed);
  } else {
    return 64;
  }
  securereg_close(registry);
  return 0;
}
