/* check.c: see check.h.
 *
 * Owns: counting, printing, and the file of what was covered. A test is one line: "pass NAME", "FAIL NAME".
 */
#include "check.h"
#include "kit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint failures;
static _Thread_local const char *about;

/* A program with a broken loop must not fill the disk. */
enum { MAX_TOLD = 40 };

static int failed(const char *what, const char *file, int line, const char *got, const char *want) {
    unsigned before = atomic_fetch_add(&failures, 1);
    if (before < MAX_TOLD) {
        printf("  %s:%d: %s%s%s: got %s, want %s\n", file, line, about ? about : "", about ? ": " : "", what, got, want);
        fflush(stdout);
    }
    return 0;
}

void check_about(const char *what) { about = what; }

unsigned check_failures(void) { return atomic_load(&failures); }

int check_that(int good, const char *what, const char *file, int line) {
    return good || failed(what, file, line, "false", "true");
}

int check_int(long long got, long long want, const char *what, const char *file, int line) {
    if (got == want) return 1;
    char shown[2][32];
    snprintf(shown[0], sizeof shown[0], "%lld", got);
    snprintf(shown[1], sizeof shown[1], "%lld", want);
    return failed(what, file, line, shown[0], shown[1]);
}

int check_text(const char *got, const char *want, const char *what, const char *file, int line) {
    if (got == want || (got && want && strcmp(got, want) == 0)) return 1;
    return failed(what, file, line, got ? got : "NULL", want ? want : "NULL");
}

int check_has(const char *text, const char *part, const char *what, const char *file, int line) {
    return (text && strstr(text, part)) || failed(what, file, line, text ? text : "NULL", part);
}

int check_status(int32_t got, int32_t want, securereg_error *error, const char *part, const char *what, const char *file,
                 int line) {
    static const securereg_error none;
    int good = got == want;
    if (!good) {
        char shown[2000];
        const char *message = error && error->id ? securereg_error_message(*error) : "";
        snprintf(shown, sizeof shown, "%s (%s)", securereg_status_name(got), message);
        failed(what, file, line, shown, securereg_status_name(want));
    } else if (error && want == SECUREREG_OK) {
        good = check_that(error->id == 0, "a success leaves the error as it was", file, line);
    } else if (error) {
        const char *message = securereg_error_message(*error);
        good = check_that(error->id != 0, "a failure tells an error", file, line) &
               check_int(securereg_error_status(*error), want, "securereg_error_status", file, line) &
               check_that(message[0] != 0, "an error has a message", file, line) &
               check_that(strlen(message) <= 4096, "a message has an end", file, line);
        if (part) good &= check_has(message, part, what, file, line);
    }
    if (error && error->id) {
        check_int(securereg_error_free(*error), SECUREREG_OK, "securereg_error_free", file, line);
        *error = none;
    }
    return good;
}

void check_give_up(const char *what, const char *file, int line) {
    int why = errno;
    printf("  %s:%d: %s%s%s: does not hold (errno: %s); given up\nFAIL %s\n", file, line, about ? about : "",
           about ? ": " : "", what, strerror(why), what);
    fflush(stdout);
    _Exit(1);
}

void check_covered(const char *symbol, const char *aspect, int parameter) {
    static FILE *marks;
    const char *path = getenv("SECUREREG_TEST_COVERED");
    if (!marks && path) REQUIRE(marks = fopen(path, "ae"));
    if (!marks) return;
    fprintf(marks, parameter < 0 ? "%s %s\n" : "%s %s:%d\n", symbol, aspect, parameter);
    fflush(marks);
}

unsigned check_number(const char *variable, unsigned otherwise) {
    const char *text = getenv(variable);
    return text && *text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

static int is_wanted(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0) return 1;
    return argc < 2;
}

static void run(const struct test *test) {
    unsigned before = check_failures();
    test->run();
    about = NULL;
    printf("%s %s\n", check_failures() == before ? "pass" : "FAIL", test->name);
    fflush(stdout);
}

int check_main(int argc, char **argv, const struct test *tests, size_t count) {
    kit_start(argc, argv);
    unsigned ran = 0;
    for (size_t i = 0; i < count; i++)
        if (is_wanted(argc, argv, tests[i].name)) run(&tests[i]), ran++;
    if (ran > 0) run(&(struct test){"nothing_is_left_when_all_is_closed", kit_end});
    return check_failures() == 0 && ran > 0 ? 0 : 1;
}
