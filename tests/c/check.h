/* check.h: what a test is.
 *
 * Owns: the checks, and the list of a program's tests. Promises: a failed check says where, what was got and what was
 * wanted, and the program ends with 1; any thread may check. Leaves out: what is tested.
 */
#ifndef CHECK_H
#define CHECK_H

#include "securereg.h"

#include <stddef.h>
#include <stdint.h>

struct test {
    const char *name;
    void (*run)(void);
};

/* Runs the tests of a program, or those that are named on its command line. */
int check_main(int argc, char **argv, const struct test *tests, size_t count);
#define TESTS(list) \
    int main(int argc, char **argv) { return check_main(argc, argv, list, sizeof list / sizeof *list); }

#define CHECK(condition) check_that((condition) != 0, #condition, __FILE__, __LINE__)
#define CHECK_INT(got, want) check_int((long long)(got), (long long)(want), #got, __FILE__, __LINE__)
#define CHECK_TEXT(got, want) check_text(got, want, #got, __FILE__, __LINE__)
#define CHECK_HAS(text, part) check_has(text, part, #text, __FILE__, __LINE__)
/* The call must succeed, and leave `error` (which may be NULL) as it was. */
#define CHECK_OK(call, error) check_status(call, SECUREREG_OK, error, NULL, #call, __FILE__, __LINE__)
/* The call must fail like this, and tell an error whose message has `part` in it; the error is freed. */
#define CHECK_FAILS(call, want, error, part) check_status(call, want, error, part, #call, __FILE__, __LINE__)
/* Ends the program: nothing after this would make sense. */
#define REQUIRE(condition) ((condition) ? (void)0 : check_give_up(#condition, __FILE__, __LINE__))

int check_that(int good, const char *what, const char *file, int line);
int check_int(long long got, long long want, const char *what, const char *file, int line);
int check_text(const char *got, const char *want, const char *what, const char *file, int line);
int check_has(const char *text, const char *part, const char *what, const char *file, int line);
int check_status(int32_t got, int32_t want, securereg_error *error, const char *part, const char *what, const char *file,
                 int line);
_Noreturn void check_give_up(const char *what, const char *file, int line);

/* Says in every failed check from here on what it was about; NULL for nothing. Of this thread. */
void check_about(const char *what);

/* Failed checks so far. */
unsigned check_failures(void);

/* Writes down that this function was tested in this respect: run.sh compares that with the header. */
void check_covered(const char *symbol, const char *aspect, int parameter);

/* The number in this environment variable, or this one. */
unsigned check_number(const char *variable, unsigned otherwise);

#endif
