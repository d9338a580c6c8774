/* kit.h: what tests need around the library.
 *
 * Owns: a program's scratch folder, models to promote, damage, a second process, and what a process must look like again
 * when all is closed. Promises: nothing outside the scratch folder is written. Leaves out: checks (check.h).
 */
#ifndef KIT_H
#define KIT_H

#include "securereg.h"

#include <stddef.h>
#include <stdint.h>

/* By check_main, first and last. With "act" as its first argument a program is a second process: see kit_act. */
void kit_start(int argc, char **argv);
void kit_end(void);

/* A path like printf makes it; valid until this thread has asked for some more. */
const char *kit_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The scratch folder of this program. */
const char *kit_scratch(void);

/* The models under tests/data. */
#define TINY "tiny-llama.gguf"
#define TINY_SHA256 "d2961383529ca5b115ee07787f1f976fd3884116d124161a2989e4ed94ec5015"
#define TINY_SIZE 1451776
const char *kit_data(const char *name);

/* Files. What cannot be done ends the program. */
void kit_write(const char *path, const void *bytes, size_t len);
char *kit_read(const char *path, size_t *len);
unsigned kit_count(const char *folder);
int kit_exists(const char *path);

/* A GGUF of one tensor, whose bytes are the tail, which may not be empty: 64 bytes and the tail. Its path. */
const char *kit_small(const char *tail);
/* One of this size (more than 64), sparse. */
const char *kit_sized(const char *name, uint64_t size);

/* An empty registry at <scratch>/<name>, made by this. */
securereg_registry kit_registry(const char *name);
securereg_registry kit_open(const char *name, uint32_t flags);
const char *kit_root(const char *name);
/* Promotes, and requires that it worked. */
void kit_promote(securereg_registry registry, const char *path, const char *name);
/* The model's SHA-256. */
const char *kit_sha256(securereg_registry registry, const char *name);
uint32_t kit_status(securereg_registry registry, const char *name);
uint64_t kit_generation(securereg_registry registry);

/* Turns over one bit of the stored bytes; doing it again puts it right. */
void kit_flip(const char *root, const char *sha256, uint64_t offset);

/* Does `verb` (promote, quarantine, release, delete, lookup, close-by-mistake) to the model `name` in another process: the
 * status it ended with, or 1000 and the signal that ended it. */
int kit_act(const char *root, const char *verb, const char *name, const char *path);

/* This program's own file. */
const char *kit_self(void);

/* What this process has open, and runs. */
unsigned kit_descriptors(void);
unsigned kit_threads(void);
int kit_maps(const char *part);

/* Whether this runs under "plain", "asan", "tsan" or "valgrind". */
int kit_is(const char *tool);

#endif
