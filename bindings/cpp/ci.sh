#!/usr/bin/env bash
# The C++ binding: compiled as each standard this compiler has, run, run under sanitizers and without exceptions.
#   bindings/cpp/ci.sh PREFIX SCRATCH    PREFIX: where cargo cinstall put the library; SCRATCH: a folder to work in
set -euo pipefail
prefix=$(realpath "${1:?usage: ci.sh PREFIX SCRATCH}")
mkdir -p "${2:?usage: ci.sh PREFIX SCRATCH}"
scratch=$(mktemp -d "$(realpath "$2")/cpp.XXXXXX")
trap 'chmod -R u+rwX "$scratch"; rm -rf "$scratch"' EXIT
cd "$(dirname "$0")"
data=$(realpath ../../tests/data)
header=$prefix/include/securereg.h hpp=include/securereg.hpp
library=$(compgen -G "$prefix/lib*/libsecurereg.so" || compgen -G "$prefix/lib/*/libsecurereg.so" || true)
[ -f "$header" ] && [ -f "$library" ] || { echo "$prefix has no securereg.h or no libsecurereg.so"; exit 1; }

warnings=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
passed=0 failed=0

# build OUT FLAG... FILE...: with this folder's securereg.hpp and the installed securereg.h
build() {
  local out=$1
  shift
  g++ "$@" -pthread "${warnings[@]}" -Iinclude -isystem "$prefix/include" -o "$scratch/$out" \
    "$library" -Wl,-rpath,"$(dirname "$library")"
}

# run WHAT PROGRAM: its checks are added to ours; one that said nothing of them has failed.
run() {
  local what=$1 program=$2 line
  mkdir "$scratch/$program.d"
  (cd "$scratch" && timeout -k 10 300 "./$program" "$data" "$scratch/$program.d" | tee "$program.out") || true
  line=$(tail -n 1 "$scratch/$program.out")
  if [[ $line =~ ([0-9]+)\ checks\ passed,\ ([0-9]+)\ failed ]]; then
    echo "$what: ${BASH_REMATCH[1]} passed, ${BASH_REMATCH[2]} failed"
    passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
  else
    echo "$what: it did not come to its end"
    failed=$((failed + 1))
  fi
}

check() {
  local what=$1
  shift
  if "$@"; then passed=$((passed + 1)); else echo "not so: $what"; failed=$((failed + 1)); fi
}

has_standard() { echo 'int main() {}' | g++ "-std=c++$1" -x c++ -fsyntax-only - 2>/dev/null; }

# Nothing of the C ABI is forgotten, but for what the binding does by other means.
for word in $(grep -oE '\bsecurereg_[a-z_]+\(' "$header" | tr -d '(' | sort -u) \
  $(sed -n '/^enum securereg_status/,/^};/s/^  \(SECUREREG_[A-Z_]*\) = .*/\1/p' "$header"); do
  case $word in securereg_map | securereg_error_status) continue ;; esac
  check "securereg.hpp knows $word" grep -qw "$word" "$hpp"
done
if [ -f "$prefix/include/securereg.hpp" ]; then
  check "the installed securereg.hpp is this one" cmp "$prefix/include/securereg.hpp" "$hpp"
fi
first=../../examples/cpp/first.cpp
awk '/^```cpp$/ && !done { on = 1; next } /^```$/ && on { on = 0; done = 1 } on' README.md >"$scratch/first.cpp"
check "the program in README.md is examples/cpp/first.cpp" diff "$scratch/first.cpp" "$first"

newest=17
for standard in 17 20 23; do
  has_standard "$standard" || { echo "this compiler has no C++$standard"; continue; }
  newest=$standard
  build "test$standard" "-std=c++$standard" -O0 tests/test.cpp tests/second.cpp
  run "C++$standard" "test$standard"
done

sanitize=(-fsanitize=address,undefined -fno-sanitize-recover=all -g -O1)
build sanitized "-std=c++$newest" "${sanitize[@]}" tests/test.cpp tests/second.cpp
run "C++$newest under ASan and UBSan" sanitized
# The canary: what the sanitizers must see, or they saw nothing above either.
echo 'int main(int n, char**) { int* gone = new int(n); delete gone; return *gone; }' >"$scratch/canary.cpp"
g++ "${sanitize[@]}" -w "$scratch/canary.cpp" -o "$scratch/canary"
canary() { ! "$scratch/canary" 2>/dev/null; }
check "the sanitizer's canary dies" canary

if [ "$newest" = 23 ]; then
  build no_exceptions -std=c++23 -fno-exceptions tests/no_exceptions.cpp
  run "without exceptions" no_exceptions
fi

echo "bindings/cpp: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 300 ]
