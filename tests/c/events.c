/* events.c: what changes, for a program that wants to know.
 *
 * Owns: securereg_events_open, _fd, _next and _close with poll(2), also across processes. Leaves out: sealed memory in
 * events (sealed.c), many threads on one subscription (threads.c).
 */
#include "check.h"
#include "kit.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static securereg_registry registry;
static securereg_error error;
static securereg_events events;
static int descriptor;

/* Whether the descriptor becomes readable within this time. */
static int is_readable(int milliseconds) {
    struct pollfd poll_of = {.fd = descriptor, .events = POLLIN};
    return poll(&poll_of, 1, milliseconds) == 1 && poll_of.revents == POLLIN;
}

static securereg_event next(void) {
    securereg_event event;
    memset(&event, 0xA5, sizeof event);
    event.size = sizeof event;
    CHECK_OK(securereg_events_next(events, &event, &error), &error);
    return event;
}

static void check_next(uint32_t kind, const char *name) {
    securereg_event event = next();
    CHECK_INT(event.kind, kind);
    CHECK_TEXT(event.name, name);
    CHECK_INT(event.sealed, 0);
    CHECK_INT(event.generation, kind == SECUREREG_EVENT_NONE ? 0 : (long long)kit_generation(registry));
}

/* After NONE the descriptor waits again. */
static void check_none(void) {
    check_next(SECUREREG_EVENT_NONE, "");
    CHECK(!is_readable(0));
}

static void begin(void) {
    registry = kit_registry("root");
    kit_promote(registry, kit_small("before"), "before");
    CHECK_OK(securereg_events_open(registry, &events, &error), &error);
    CHECK_OK(securereg_events_fd(events, &descriptor, &error), &error);
    CHECK(fcntl(descriptor, F_GETFD) & FD_CLOEXEC);
    /* What was before is not told. */
    check_none();
}

static void what_this_process_does_is_told(void) {
    kit_promote(registry, kit_small("one"), "one:tag");
    CHECK(is_readable(10000));
    check_next(SECUREREG_EVENT_PROMOTED, "one:tag");
    check_none();
    kit_promote(registry, kit_small("two"), "one:tag");
    check_next(SECUREREG_EVENT_REPLACED, "one:tag");
    CHECK_OK(securereg_quarantine(registry, "one:tag", "a test", NULL, &error), &error);
    check_next(SECUREREG_EVENT_QUARANTINED, "one:tag");
    CHECK_OK(securereg_release(registry, "one:tag", "a test", NULL, &error), &error);
    check_next(SECUREREG_EVENT_RELEASED, "one:tag");
    CHECK_OK(securereg_delete(registry, "one:tag", &error), &error);
    check_next(SECUREREG_EVENT_DELETED, "one:tag");
    check_none();
}

static void what_another_process_does_wakes_the_poll(void) {
    const char *root = kit_root("root");
    CHECK_INT(kit_act(root, "promote", "other", kit_small("other")), 0);
    CHECK(is_readable(10000));
    check_next(SECUREREG_EVENT_PROMOTED, "other");
    check_none();
    CHECK_INT(kit_act(root, "quarantine", "other", NULL), 0);
    CHECK(is_readable(10000));
    check_next(SECUREREG_EVENT_QUARANTINED, "other");
    check_none();
    CHECK_INT(kit_act(root, "release", "other", NULL), 0);
    CHECK(is_readable(10000));
    check_next(SECUREREG_EVENT_RELEASED, "other");
    check_none();
    CHECK_INT(kit_act(root, "delete", "other", NULL), 0);
    CHECK(is_readable(10000));
    check_next(SECUREREG_EVENT_DELETED, "other");
    check_none();
}

static void a_quarantine_is_told_even_when_it_is_over(void) {
    CHECK_OK(securereg_quarantine(registry, "before", "a test", NULL, &error), &error);
    CHECK_OK(securereg_release(registry, "before", "a test", NULL, &error), &error);
    check_next(SECUREREG_EVENT_QUARANTINED, "before");
    check_next(SECUREREG_EVENT_RELEASED, "before");
    check_none();
    /* Of a model that came and went nobody needs to know. */
    kit_promote(registry, kit_small("short"), "short");
    CHECK_OK(securereg_delete(registry, "short", &error), &error);
    check_none();
    CHECK_OK(securereg_quarantine(registry, "before", "a test", NULL, &error), &error);
    CHECK_OK(securereg_delete(registry, "before", &error), &error);
    check_next(SECUREREG_EVENT_QUARANTINED, "before");
    check_next(SECUREREG_EVENT_DELETED, "before");
    check_none();
}

static void damage_is_told(void) {
    kit_promote(registry, kit_small("damaged"), "damaged");
    check_next(SECUREREG_EVENT_PROMOTED, "damaged");
    kit_flip(kit_root("root"), kit_sha256(registry, "damaged"), 26);
    CHECK_FAILS(securereg_verify(registry, "damaged", NULL, &error), SECUREREG_CORRUPT, &error, "damaged");
    CHECK(is_readable(10000));
    check_next(SECUREREG_EVENT_QUARANTINED, "damaged");
    check_none();
}

static void the_longest_name_fits(void) {
    char name[SECUREREG_NAME_MAX + 1];
    memset(name, 'n', sizeof name);
    name[SECUREREG_NAME_MAX] = 0;
    securereg_model model = {7};
    CHECK_FAILS(securereg_lookup(registry, name, &model, &error), SECUREREG_INVALID_INPUT, &error, "255 bytes");
    name[SECUREREG_NAME_MAX - 1] = 0;
    kit_promote(registry, kit_small("longest"), name);
    securereg_event event = next();
    CHECK_INT(event.kind, SECUREREG_EVENT_PROMOTED);
    CHECK_INT(strlen(event.name), SECUREREG_NAME_MAX - 1);
    CHECK_TEXT(event.name, name);
}

static void each_subscription_is_told_everything(void) {
    securereg_events first = events, second = {0};
    CHECK_OK(securereg_events_open(registry, &second, &error), &error);
    char name[32];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "many-%d", i);
        kit_promote(registry, kit_small(name), name);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "many-%d", i);
            check_next(SECUREREG_EVENT_PROMOTED, name);
        }
        check_next(SECUREREG_EVENT_NONE, "");
        events = second;
    }
    events = first;
    CHECK_OK(securereg_events_close(second), NULL);
}

static void without_its_manifest_it_says_so_and_catches_up(void) {
    const char *manifest = kit_path("%s/manifest.yaml", kit_root("root")), *away = kit_path("%s.away", manifest);
    securereg_event event;
    memset(&event, 0xA5, sizeof event);
    event.size = sizeof event;
    securereg_event before = event;
    CHECK(rename(manifest, away) == 0);
    CHECK(is_readable(10000));
    CHECK_FAILS(securereg_events_next(events, &event, &error), SECUREREG_MANIFEST, &error, "manifest.yaml");
    CHECK(memcmp(&event, &before, sizeof event) == 0);
    CHECK(rename(away, manifest) == 0);
    check_next(SECUREREG_EVENT_NONE, "");
    CHECK_OK(securereg_delete(registry, "many-0", &error), &error);
    check_next(SECUREREG_EVENT_DELETED, "many-0");
    check_none();
}

/* A program that closes a descriptor twice closes somebody else's. */
static void a_descriptor_that_was_closed_by_mistake_is_not_given_out(void) {
    securereg_events lost = {0};
    int fd = -1, other = 7;
    CHECK_OK(securereg_events_open(registry, &lost, &error), &error);
    CHECK_OK(securereg_events_fd(lost, &fd, &error), &error);
    REQUIRE(close(fd) == 0);
    CHECK_FAILS(securereg_events_fd(lost, &other, &error), SECUREREG_IO, &error, "closed");
    int file = open(kit_data(TINY), O_RDONLY | O_CLOEXEC);
    REQUIRE(file >= 0 && (file == fd || dup2(file, fd) == fd));
    CHECK_FAILS(securereg_events_fd(lost, &other, &error), SECUREREG_IO, &error, "closed");
    CHECK_INT(other, 7);
    /* What happens is told all the same, and whose number it is now keeps it. */
    securereg_event event = {.size = sizeof event};
    kit_promote(registry, kit_small("lost"), "lost");
    CHECK_OK(securereg_events_next(lost, &event, &error), &error);
    CHECK_INT(event.kind, SECUREREG_EVENT_PROMOTED);
    CHECK_OK(securereg_events_close(lost), NULL);
    CHECK(fcntl(fd, F_GETFD) != -1 && close(fd) == 0);
    if (file != fd) close(file);
    check_next(SECUREREG_EVENT_PROMOTED, "lost");
    check_none();
}

static void a_subscription_outlives_the_handle_of_its_registry(void) {
    CHECK_OK(securereg_close(registry), NULL);
    CHECK_INT(kit_act(kit_root("root"), "delete", "many-1", NULL), 0);
    CHECK(is_readable(10000));
    CHECK_INT(next().kind, SECUREREG_EVENT_DELETED);
    CHECK_OK(securereg_events_close(events), NULL);
    CHECK(fcntl(descriptor, F_GETFD) == -1);
}

static const struct test tests[] = {
    {"the_subscription_opens", begin},
    {"what_this_process_does_is_told", what_this_process_does_is_told},
    {"what_another_process_does_wakes_the_poll", what_another_process_does_wakes_the_poll},
    {"a_quarantine_is_told_even_when_it_is_over", a_quarantine_is_told_even_when_it_is_over},
    {"damage_is_told", damage_is_told},
    {"the_longest_name_fits", the_longest_name_fits},
    {"each_subscription_is_told_everything", each_subscription_is_told_everything},
    {"without_its_manifest_it_says_so_and_catches_up", without_its_manifest_it_says_so_and_catches_up},
    {"a_descriptor_that_was_closed_by_mistake_is_not_given_out",
     a_descriptor_that_was_closed_by_mistake_is_not_given_out},
    {"a_subscription_outlives_the_handle_of_its_registry", a_subscription_outlives_the_handle_of_its_registry},
};
TESTS(tests)
