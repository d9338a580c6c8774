/* An engine in small: it maps a model out of a registry, says what its header says, and sums up one tensor, so that
 * what it saw can be compared with the file that was promoted.
 *
 *   engine ROOT [MODEL [TENSOR]]     a model of the registry at ROOT: the first that is served, the first tensor
 *   engine --demo FILE               a registry in a temporary folder, with FILE promoted into it; removed at the end
 *
 * Every call of the library returns a status; `must` is what this program does with one. An interrupt (Ctrl-C) stops
 * long work through the progress callback. */

#define _XOPEN_SOURCE 700

#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "securereg.h"

static volatile sig_atomic_t interrupted;
static char demo_root[4096];

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

/* Says all that a failed call told, and ends the program. */
static void must(securereg_status status, const securereg_error *error, const char *doing, const char *what) {
  if (status == SECUREREG_OK) return;
  const char *word = securereg_status_name(status), *expected = securereg_error_expected(*error);
  fprintf(stderr, "engine: %s %s: %s: %s\n", doing, what, word, securereg_error_message(*error));
  if (*expected) {
    fprintf(stderr, "engine:   promoted %s\nengine:   found    %s\n", expected, securereg_error_actual(*error));
  }
  securereg_error_free(*error);
  exit(status == SECUREREG_CANCELLED ? 130 : 1);
}

/* Told how far long work is; anything but 0 stops it. */
static int32_t on_progress(void *user, uint32_t phase, uint64_t done, uint64_t total) {
  const char *doing = user;
  const char *did = phase == SECUREREG_PHASE_COPY ? "copied" : "checked";
  if (done == total) fprintf(stderr, "%s: %s %" PRIu64 " bytes\n", doing, did, done);
  return interrupted ? 1 : 0;
}

static securereg_task watched(char *doing) {
  securereg_task task = {sizeof task, on_progress, doing};
  return task;
}

/* CRC-32 as in gzip: of a file's piece `tail -c +OFFSET FILE | head -c SIZE | gzip -c` ends in the same. */
static uint32_t crc32(const unsigned char *bytes, size_t len) {
  uint32_t table[256], crc = 0xffffffffu;
  for (uint32_t n = 0; n < 256; n++) {
    uint32_t c = n;
    for (int bit = 0; bit < 8; bit++) c = (c & 1) ? 0xedb88320u ^ (c >> 1) : c >> 1;
    table[n] = c;
  }
  for (size_t i = 0; i < len; i++) crc = table[(crc ^ bytes[i]) & 0xff] ^ (crc >> 8);
  return crc ^ 0xffffffffu;
}

/* A model's text may be anything: what a terminal could obey is not shown to it. */
static void put_text(const char *data, size_t len) {
  const size_t shown = len < 48 ? len : 48;
  putchar('"');
  for (size_t i = 0; i < shown; i++) {
    const unsigned char c = (unsigned char)data[i];
    if (c < 0x20 || c > 0x7e || c == '"' || c == '\\') {
      printf("\\x%02x", c);
    } else {
      putchar(c);
    }
  }
  printf(shown < len ? "\"..." : "\"");
}

/* The size in bytes of one value of a gguf_type, 0 of strings and arrays. */
static size_t value_size(uint32_t type) {
  static const size_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < 13 ? sizes[type] : 0;
}

/* One value of a packed array: little-endian and not aligned. */
static void put_packed(const unsigned char *at, uint32_t type) {
  uint64_t bits = 0;
  for (size_t i = value_size(type); i > 0; i--) bits = bits << 8 | at[i - 1];
  const uint32_t half = (uint32_t)bits;
  float f32;
  double f64;
  memcpy(&f32, &half, sizeof f32);
  memcpy(&f64, &bits, sizeof f64);
  switch (type) {
    case 1: printf("%d", (int8_t)bits); break;
    case 3: printf("%d", (int16_t)bits); break;
    case 5: printf("%" PRId32, (int32_t)bits); break;
    case 11: printf("%" PRId64, (int64_t)bits); break;
    case 6: printf("%g", (double)f32); break;
    case 12: printf("%g", f64); break;
    default: printf("%" PRIu64, bits);
  }
}

static void put_pair(securereg_gguf gguf, uint64_t index) {
  securereg_gguf_pair pair = {.size = sizeof pair};
  securereg_error error = {0};
  must(securereg_gguf_pair_at(gguf, index, &pair, &error), &error, "reading", "the metadata");
  printf("  ");
  put_text(pair.key, strlen(pair.key));
  printf(" = ");
  switch (pair.value_type) {
    case 1: case 3: case 5: case 11: printf("%" PRId64, pair.i64_value); break;
    case 6: case 12: printf("%g", pair.f64_value); break;
    case 7: printf(pair.u64_value ? "true" : "false"); break;
    case 8: put_text(pair.data, (size_t)pair.data_size); break;
    case 9:
      printf("%" PRIu64 " of", pair.count);
      for (uint64_t i = 0; i < pair.count && i < 4; i++) {
        printf(" ");
        if (pair.array_type == 8) {
          const char *data;
          size_t len;
          must(securereg_gguf_string(gguf, index, i, &data, &len, &error), &error, "reading", pair.key);
          put_text(data, len);
        } else if (value_size(pair.array_type)) {
          put_packed((const unsigned char *)pair.data + i * value_size(pair.array_type), pair.array_type);
        } else {
          printf("[...]");
        }
      }
      if (pair.count > 4) printf(" ...");
      break;
    default: printf("%" PRIu64, pair.u64_value);
  }
  printf("\n");
}

/* The tensor of this name, or the first; whether the file has it. */
static int find_tensor(securereg_gguf gguf, uint64_t count, const char *name, securereg_gguf_tensor *out) {
  for (uint64_t i = 0; i < count; i++) {
    securereg_error error = {0};
    out->size = sizeof *out;
    must(securereg_gguf_tensor_at(gguf, i, out, &error), &error, "reading", "the tensors");
    if (name == NULL || strcmp(out->name, name) == 0) return 1;
  }
  return 0;
}

/* One file of a model; whether the tensor was in it. */
static int show_file(securereg_registry registry, const char *name, const char *path, const char *tensor_name) {
  securereg_error error = {0};
  securereg_sealed sealed;
  securereg_gguf gguf;
  const void *data;
  size_t len;
  const securereg_task task = watched("map");
  /* All of it is in memory and checked when this returns, and nobody can change it any more. */
  must(securereg_map(registry, name, path, &task, &sealed, &data, &len, &error), &error, "mapping", name);
  must(securereg_gguf_open(registry, name, path, &gguf, &error), &error, "reading the header of", name);
  securereg_gguf_info info = {.size = sizeof info};
  must(securereg_gguf_get(gguf, &info, &error), &error, "reading the header of", name);
  printf("%s: %zu bytes in sealed memory: GGUF version %" PRIu32 ", %" PRIu64 " tensors from byte %" PRIu64 "\n", path,
         len, info.version, info.tensor_count, info.data_offset);
  for (uint64_t i = 0; i < info.pair_count; i++) put_pair(gguf, i);

  securereg_gguf_tensor tensor;
  const int found = find_tensor(gguf, info.tensor_count, tensor_name, &tensor);
  if (found) {
    printf("tensor ");
    put_text(tensor.name, strlen(tensor.name));
    printf(" %s [%" PRIu64, tensor.type_name, tensor.dimensions[0]);
    for (uint32_t i = 1; i < tensor.dimension_count; i++) printf(" x %" PRIu64, tensor.dimensions[i]);
    printf("] offset %" PRIu64 " size %" PRIu64 " crc32 %08" PRIx32 "\n", tensor.offset, tensor.size_bytes,
           crc32((const unsigned char *)data + tensor.offset, (size_t)tensor.size_bytes));
  }
  securereg_gguf_free(gguf);
  securereg_sealed_close(sealed);
  return found;
}

static void show_model(securereg_registry registry, securereg_model model, const char *tensor) {
  securereg_error error = {0};
  securereg_model_info info = {.size = sizeof info};
  must(securereg_model_get(model, &info, &error), &error, "asking", "the model");
  printf("model %s: %s, %s, %" PRIu64 " bytes, sha256 %s, promoted %s\n", info.name, info.format, info.layout,
         info.size_bytes, info.sha256, info.promoted_at);
  int found = 0;
  for (uint64_t i = 0; i < info.file_count; i++) {
    securereg_file_info file = {.size = sizeof file};
    must(securereg_model_file(model, i, &file, &error), &error, "asking for the files of", info.name);
    found |= show_file(registry, info.name, file.path, tensor);
  }
  if (!found) {
    fprintf(stderr, "engine: %s has no tensor %s\n", info.name, tensor ? tensor : "at all");
    exit(1);
  }
}

/* The model of this name, or the first GGUF that is served. */
static securereg_model pick(securereg_registry registry, const char *name) {
  securereg_error error = {0};
  securereg_model model;
  if (name != NULL) {
    must(securereg_lookup(registry, name, &model, &error), &error, "looking for", name);
    return model;
  }
  securereg_list list;
  uint64_t count;
  must(securereg_list_models(registry, &list, &error), &error, "listing", "the models");
  must(securereg_list_count(list, &count, &error), &error, "listing", "the models");
  for (uint64_t i = 0; i < count; i++) {
    securereg_model_info info = {.size = sizeof info};
    must(securereg_list_at(list, i, &model, &error), &error, "listing", "the models");
    must(securereg_model_get(model, &info, &error), &error, "listing", "the models");
    if (info.status == SECUREREG_MODEL_PROMOTED && strcmp(info.format, "gguf") == 0) {
      securereg_list_free(list);
      return model;
    }
    securereg_model_free(model);
  }
  fprintf(stderr, "engine: no GGUF model is served here: promote one, or try --demo FILE\n");
  exit(1);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at) {
  (void)st, (void)kind, (void)at;
  return remove(path);
}

static void remove_demo(void) { nftw(demo_root, remove_entry, 16, FTW_DEPTH | FTW_PHYS); }

int main(int argc, char **argv) {
  const int demo = argc == 3 && strcmp(argv[1], "--demo") == 0;
  if (argc < 2 || argc > 4 || (!demo && argv[1][0] == '-')) {
    fprintf(stderr, "usage: engine ROOT [MODEL [TENSOR]]\n       engine --demo FILE\n");
    return 2;
  }
  if (strcmp(securereg_version(), SECUREREG_VERSION) != 0)
    fprintf(stderr, "engine: compiled with securereg " SECUREREG_VERSION ", running with %s\n", securereg_version());
  signal(SIGINT, on_interrupt);

  const char *root = argv[1];
  securereg_open_options options = {.size = sizeof options}; /* to read only */
  if (demo) {
    const char *temporary = getenv("TMPDIR");
    const int len = snprintf(demo_root, sizeof demo_root, "%s/engine-demo.XXXXXX", temporary ? temporary : "/tmp");
    root = len > 0 && (size_t)len < sizeof demo_root ? mkdtemp(demo_root) : NULL;
    if (root == NULL) {
      perror("engine: a temporary folder");
      return 1;
    }
    atexit(remove_demo);
    options.flags = SECUREREG_OPEN_WRITE | SECUREREG_OPEN_CREATE;
  }
  securereg_error error = {0};
  securereg_registry registry;
  must(securereg_open(root, &options, &registry, &error), &error, "opening", root);
  if (demo) {
    const securereg_task task = watched("promote");
    must(securereg_promote(registry, argv[2], "demo", NULL, &task, NULL, NULL, &error), &error, "promoting", argv[2]);
  }
  const securereg_model model = pick(registry, argc > 2 && !demo ? argv[2] : NULL);
  show_model(registry, model, argc > 3 ? argv[3] : NULL);
  securereg_model_free(model);
  securereg_close(registry);
  return 0;
}
