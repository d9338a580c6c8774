#!/usr/bin/env bash
# The C ABI tested from C: what is tested stands at the top of each file here, what it is tested under in the steps below.
# Ends with "N passed, M failed", and with 1 unless all passed. Runs as root and as a plain user; as root in more ways.
#
#   SECUREREG_LIB_DIR         where libsecurereg.so is; without it, it is built into $CARGO_TARGET_DIR
#   SECUREREG_PANIC_LIB_DIR   the same, built with RUSTFLAGS="--cfg securereg_test_panic --cfg rustix_use_libc"
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
header=$PWD/include/securereg.h
symbols=$PWD/include/securereg.symbols
programs=(abi promote registry reading sealed events gguf threads forked hosts)

# --- what it needs ---

missing=()
command -v gcc >/dev/null || missing+=(gcc)
command -v g++ >/dev/null || missing+=(g++)
command -v nm >/dev/null || missing+=(binutils)
command -v valgrind >/dev/null || missing+=(valgrind)
command -v setarch >/dev/null || missing+=(util-linux)
if [ ${#missing[@]} -gt 0 ]; then
  echo "run.sh: install these Debian packages first: ${missing[*]}" >&2
  exit 1
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-c.XXXXXX")
child="" group=""
clean_up() {
  local status=$?
  trap - EXIT
  if [ -n "$child" ]; then
    kill -TERM -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  if [ -n "$group" ]; then rmdir "$group" 2>/dev/null || true; fi
  chmod -R u+rwX "$scratch" 2>/dev/null || true
  rm -rf "$scratch"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --- steps ---

passed=0 failed=0
# step NAME COMMAND...: runs it in a shell of its own. It prints "pass X" or "FAIL X" for each test, and at least one, or
# "skipped: WHY". Its output is shown when something failed, and what it skipped always is.
step() {
  local name=$1 started=$SECONDS status=0 good bad log
  shift
  log="$scratch/log"
  # Not in the foreground, so that a signal to us is met at once; a process group, so that all of it can be ended.
  set -m
  (set -euo pipefail; "$@") >"$log" 2>&1 </dev/null &
  child=$!
  set +m
  wait "$child" || status=$?
  child=""
  good=$(grep -c '^pass ' "$log" || true)
  bad=$(grep -c '^FAIL ' "$log" || true)
  if [ "$status$good$bad" = 000 ] && grep '^ *skipped: ' "$log"; then
    printf 'skip  %s\n' "$name"
    return
  fi
  # One that died, or had nothing to run, has failed too.
  if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$good" -eq 0 ]; }; then bad=1; fi
  passed=$((passed + good)) failed=$((failed + bad))
  if [ "$bad" -eq 0 ]; then
    printf 'ok    %-34s %3d tests, %d s\n' "$name" "$good" $((SECONDS - started))
    grep '^ *skipped: ' "$log" || true
  else
    printf 'FAIL  %-34s %3d passed, %d failed, ended with %d, %d s\n' "$name" "$good" "$bad" "$status" $((SECONDS - started))
    # Not without end.
    awk '/^$|^pass / { next }
         ++shown <= 100 { print "      " $0 }' "$log"
  fi
}

# must_pass NAME COMMAND..., must_fail NAME COMMAND...: one test that is a command.
must_pass() {
  local name=$1
  shift
  if "$@"; then echo "pass $name"; else echo "FAIL $name"; return 1; fi
}
must_fail() {
  local name=$1
  shift
  if "$@" >/dev/null 2>&1; then echo "FAIL $name"; return 1; else echo "pass $name"; fi
}

# --- the library ---

# build plain|panic
build() {
  local target=${CARGO_TARGET_DIR:-target}
  case $1 in
    plain) cargo build --locked -p securereg --target-dir "$target" ;;
    # Also with libc's system calls, which valgrind needs: see openat2.c.
    panic) RUSTFLAGS="--cfg securereg_test_panic --cfg rustix_use_libc" \
             cargo build --locked -p securereg --target-dir "$target/test-panic" ;;
  esac
}
build_libraries() {
  [ -n "${SECUREREG_LIB_DIR:-}" ] || build plain
  [ -n "${SECUREREG_PANIC_LIB_DIR:-}" ] || build panic
  must_pass "there is a library" test -f "$lib/libsecurereg.so"
  must_pass "there is a library that panics" test -f "$panic_lib/libsecurereg.so"
}
lib=$(realpath -m "${SECUREREG_LIB_DIR:-${CARGO_TARGET_DIR:-target}/debug}")
panic_lib=$(realpath -m "${SECUREREG_PANIC_LIB_DIR:-${CARGO_TARGET_DIR:-target}/test-panic/debug}")

# --- 1: the header ---

header_alone() {
  local warn=(-Wall -Wextra -Werror -pedantic -fsyntax-only) std
  printf '#include "securereg.h"\n#include "securereg.h"\nint one_more_thing;\n' >"$scratch/twice.c"
  for std in c99 c11 c17; do
    must_pass "alone as $std" gcc -x c -std=$std "${warn[@]}" "$header"
    must_pass "twice as $std" gcc -x c -std=$std "${warn[@]}" -Iinclude "$scratch/twice.c"
  done
  for std in c++11 c++17 c++20; do
    must_pass "alone as $std" g++ -x c++ -std=$std "${warn[@]}" "$header"
    must_pass "twice as $std" g++ -x c++ -std=$std "${warn[@]}" -Iinclude "$scratch/twice.c"
  done
  local program='#include "securereg.h"
    int main(void) { securereg_text none = {0}; return securereg_text_free(none) == SECUREREG_OK ? 0 : 1; }'
  echo "$program" >"$scratch/none.c"
  must_pass "a program in C++ links" g++ -x c++ -std=c++17 -Iinclude "$scratch/none.c" -o "$scratch/cxx" -L"$lib" -lsecurereg
  must_pass "and runs" env LD_LIBRARY_PATH="$lib" "$scratch/cxx"
  must_pass "a program links the archive" gcc -Iinclude "$scratch/none.c" -o "$scratch/static" "$lib/libsecurereg.a" \
    -lgcc_s -lpthread -lm -ldl
  must_pass "and runs without the library" "$scratch/static"
  must_pass "numbers and layout are what they were" gcc -std=c11 "${warn[@]}" -Iinclude "$here/layout.c"
}

# --- 4: the symbols ---

exported() { nm -D --defined-only "$1" | awk '{ print $3 }' | LC_ALL=C sort; }
# exports_are LIST LIBRARY: no symbol more, none less, and all of them ours.
exports_are() {
  exported "$2" >"$scratch/exported"
  LC_ALL=C sort "$1" | diff -u --label "listed" --label "exported" - "$scratch/exported" &&
    [ -s "$scratch/exported" ] && ! grep -v '^securereg_[a-z_]*$' "$scratch/exported"
}
symbol_check() {
  must_pass "the exports are those of securereg.symbols" exports_are "$symbols" "$lib/libsecurereg.so"
  sed 1d "$symbols" >"$scratch/less"
  { cat "$symbols"; echo securereg_zzz; } >"$scratch/more"
  must_fail "a symbol that is not listed is seen" exports_are "$scratch/less" "$lib/libsecurereg.so"
  must_fail "a symbol that is not exported is seen" exports_are "$scratch/more" "$lib/libsecurereg.so"
  { cat "$symbols"; echo securereg_test_panic_next; } >"$scratch/panic"
  must_pass "the test build exports one more" exports_are "$scratch/panic" "$panic_lib/libsecurereg.so"
}

# --- compiling ---

compile() {
  local tool flags source
  for tool in plain asan tsan; do
    case $tool in
      plain) flags="" ;;
      asan) flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" ;;
      tsan) flags="-fsanitize=thread" ;;
    esac
    mkdir -p "$scratch/$tool"
    # shellcheck disable=SC2086
    for source in check kit calls "${programs[@]}" panics limits canaries; do
      printf '%s\0' "gcc -std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror $flags -Iinclude -c tests/c/$source.c \
        -o '$scratch/$tool/$source.o'"
    done | xargs -0 -n 1 -P 2 bash -c
    for source in "${programs[@]}" panics limits canaries; do
      local from=$lib
      [ "$source" != panics ] || from=$panic_lib
      printf '%s\0' "gcc $flags '$scratch/$tool'/{$source,calls,kit,check}.o -o '$scratch/$tool/$source' \
        -L'$from' -lsecurereg -pthread"
    done | xargs -0 -n 1 -P 2 bash -c
    echo "pass the programs for $tool"
  done
  gcc -std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -shared -fPIC tests/c/openat2.c -o "$scratch/openat2.so"
}

# --- 2 and 3: the tests, under each tool ---

# run TOOL PROGRAM [TEST...]
run() {
  local tool=$1 program=$2 how=() from=$lib seconds=200
  shift 2
  mkdir -p "$scratch/tmp"
  export TMPDIR="$scratch/tmp" SECUREREG_TEST_DATA=$PWD/tests/data SECUREREG_TEST_TOOL=$tool RUST_BACKTRACE=0
  case $tool in
    plain) export SECUREREG_TEST_COVERED="$scratch/covered" ;;
    asan)
      export ASAN_OPTIONS=detect_leaks=1:exitcode=99 UBSAN_OPTIONS=exitcode=99:print_stacktrace=1
      export SECUREREG_TEST_FORKS=50 ;;
    tsan)
      export TSAN_OPTIONS="exitcode=99:suppressions=$here/tsan.supp"
      # It wants memory where a kernel that lays it out at random may have put other things.
      if setarch "$(uname -m)" -R true 2>/dev/null; then how=(setarch "$(uname -m)" -R); fi ;;
    valgrind)
      export SECUREREG_TEST_THREADS=8 SECUREREG_TEST_ROUNDS=1 SECUREREG_TEST_FORKS=10 LD_PRELOAD="$scratch/openat2.so"
      # Of what a child forked in the middle of something leaves, nothing can be said.
      how=(valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
           --child-silent-after-fork=yes)
      from=$panic_lib tool=plain ;;
  esac
  if [ "$program" = panics ]; then
    from=$panic_lib
    export LSAN_OPTIONS="suppressions=$here/lsan.supp:print_suppressions=0"
    if [ "${how[0]:-}" = valgrind ]; then how+=("--suppressions=$here/valgrind.supp"); fi
  fi
  LD_LIBRARY_PATH="$from" timeout --foreground -k 5 "$seconds" ${how[@]+"${how[@]}"} "$scratch/$tool/$program" "$@"
}

# The functions and their parameters as the header has them, and what the tests say they covered.
# covers_all HEADER SYMBOLS
covers_all() {
  gcc -E -P "$1" | awk -f "$here/aspects.awk" | LC_ALL=C sort -u >"$scratch/wanted"
  cut -d ' ' -f 1 "$scratch/wanted" | uniq | diff -u --label "header" --label "symbols" - <(LC_ALL=C sort "$2") || return 1
  LC_ALL=C sort -u "$scratch/covered" | LC_ALL=C comm -23 "$scratch/wanted" - >"$scratch/untested"
  sed 's/^/not tested: /' "$scratch/untested"
  [ -s "$scratch/wanted" ] && [ ! -s "$scratch/untested" ]
}
coverage() {
  must_pass "every function and parameter is tested in every respect" covers_all "$header" "$symbols"
  wc -l <"$scratch/wanted" | sed 's/^/  respects: /'
  nm -u "$scratch/plain/abi" | awk '$2 ~ /^securereg_/ { print $2 }' | LC_ALL=C sort >"$scratch/used"
  must_pass "the tests call every symbol" diff "$symbols" "$scratch/used"
  # The check itself.
  local extra='securereg_status securereg_zzz(struct securereg_list list, uint64_t *out, struct securereg_error *error);'
  sed "s/^securereg_status securereg_list_count(.*/$extra\n&/" "$header" >"$scratch/more.h"
  must_fail "a function that nobody tests is seen in the header" covers_all "$scratch/more.h" "$scratch/more"
  must_fail "a function that nobody tests is seen in the list" covers_all "$header" "$scratch/more"
  sed 's/^securereg_status securereg_list_count(struct securereg_list list,/& uint64_t *more,/' "$header" >"$scratch/wider.h"
  must_fail "a parameter that nobody tests is seen" covers_all "$scratch/wider.h" "$symbols"
  grep -v 'securereg_map fork' "$scratch/covered" >"$scratch/fewer"
  mv "$scratch/fewer" "$scratch/covered"
  must_fail "a respect that nobody tests is seen" covers_all "$header" "$symbols"
}

# Sealed memory where a control group leaves too little; what there is of groups decides whether it can be shown.
small_group() {
  local top=""
  if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
    top=/sys/fs/cgroup/memory
  elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
    top=/sys/fs/cgroup
  fi
  if [ -z "$top" ] || ! mkdir "$group" 2>/dev/null; then
    echo "  skipped: no control group for memory can be made here${top:+ in $top}"
    return
  fi
  if [ -e "$group/memory.max" ]; then echo 64M >"$group/memory.max"; else echo 64M >"$group/memory.limit_in_bytes"; fi
  mkdir -p -m 700 "$scratch/tmp/limited"
  export SECUREREG_TEST_ROOT="$scratch/tmp/limited" SECUREREG_TEST_GROUP="$group"
  run plain limits prepare
  (echo "$BASHPID" >"$group/cgroup.procs"; run plain limits refused)
}
group_name() {
  [ "$(id -u)" -eq 0 ] || return 0
  if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then echo "/sys/fs/cgroup/memory/securereg-c.$$"
  else echo "/sys/fs/cgroup/securereg-c.$$"; fi
}

# canary TOOL NAME WORDS: a mistake that must be seen, by its exit code and by name.
canary() {
  local status=0
  run "$1" canaries "$2" >"$scratch/canary" 2>&1 || status=$?
  if [ "$status" -eq 99 ] && grep -qF -- "$3" "$scratch/canary"; then
    echo "pass $1 sees $2"
  else
    echo "FAIL $1 does not see $2 (it ended with $status, and should have said: $3)"
    tail -n 20 "$scratch/canary"
    return 1
  fi
}
canaries() {
  local bad=0
  # No mistake is none: else what follows would show nothing.
  if ! run "$1" canaries none; then
    echo "FAIL $1 cannot run the library"
    [ "$1" != valgrind ] || echo "(was it built with --cfg rustix_use_libc? see openat2.c)"
    return 1
  fi
  case $1 in
    asan)
      canary asan use_after_free heap-use-after-free || bad=1
      canary asan overflow heap-buffer-overflow || bad=1
      canary asan leak "detected memory leaks" || bad=1
      canary asan undefined "runtime error: shift exponent" || bad=1 ;;
    valgrind)
      canary valgrind use_after_free "Invalid read" || bad=1
      canary valgrind overflow "Invalid write" || bad=1
      canary valgrind leak "definitely lost" || bad=1
      canary valgrind uninitialised "uninitialised value" || bad=1 ;;
    tsan) canary tsan race "data race" || bad=1 ;;
  esac
  return $bad
}

step "the library" build_libraries
[ "$failed" -eq 0 ] || { echo "$passed passed, $failed failed"; exit 1; }
step "the header alone" header_alone
step "the symbols" symbol_check
step "compiling" compile
[ -e "$scratch/openat2.so" ] || { echo "$passed passed, $failed failed"; exit 1; }
for program in "${programs[@]}" panics; do step "$program" run plain "$program"; done
step "coverage" coverage
group=$(group_name)
step "a small control group" small_group
if [ -n "$group" ]; then rmdir "$group" 2>/dev/null || true; group=""; fi
for program in "${programs[@]}" panics; do step "$program, ASan and UBSan" run asan "$program"; done
step "canaries, ASan and UBSan" canaries asan
step "canaries, valgrind" canaries valgrind
for program in "${programs[@]}" panics; do step "$program, valgrind" run valgrind "$program"; done
step "threads, TSan" run tsan threads
step "canaries, TSan" canaries tsan

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 100 ]
