#!/usr/bin/env bash
# The examples: built against an installed library as a stranger's project would be, and run; and the CMake package itself.
#   LLAMA_DIR=DIR examples/ci.sh PREFIX SCRATCH
#     PREFIX: where cargo cinstall put the library; SCRATCH: a folder to work in
#     DIR: llama.cpp's include/ and lib/, such as the first line that tests/engines/build.sh prints
set -euo pipefail
prefix=$(realpath "${1:?usage: ci.sh PREFIX SCRATCH}")
mkdir -p "${2:?usage: ci.sh PREFIX SCRATCH}"
scratch=$(mktemp -d "$(realpath "$2")/examples.XXXXXX")
trap 'chmod -R u+rwX "$scratch"; rm -rf "$scratch"' EXIT
llama=$(realpath "${LLAMA_DIR:?where llama.cpp is built}")
cd "$(dirname "$0")"
data=$(realpath ../tests/data)
mkdir "$scratch/tmp"
export TMPDIR="$scratch/tmp"
export CXXFLAGS="-Wall -Wextra -Wpedantic -Werror"
unset CMAKE_PREFIX_PATH securereg_DIR

pc=$(compgen -G "$prefix/lib*/pkgconfig/securereg.pc" || compgen -G "$prefix/lib/*/pkgconfig/securereg.pc" || true)
package=$(compgen -G "$prefix/share/cmake/securereg" || compgen -G "$prefix/lib*/cmake/securereg" ||
  compgen -G "$prefix/lib/*/cmake/securereg" || true)
[ -f "$pc" ] || { echo "$prefix has no securereg.pc"; exit 1; }
[ -d "$package" ] || { echo "$prefix has no cmake/securereg"; exit 1; }
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH

passed=0 failed=0
check() {
  local what=$1
  shift
  if "$@"; then passed=$((passed + 1)); else echo "not so: $what"; failed=$((failed + 1)); fi
}
# fails CODE PATTERN COMMAND...: it ends with this code and says this on stderr.
fails() {
  local code=$1 pattern=$2 status=0
  shift 2
  "$@" >/dev/null 2>"$scratch/err" || status=$?
  if [ "$status" -eq "$code" ] && grep -qE "$pattern" "$scratch/err"; then return 0; fi
  echo "ended with $status:"
  cat "$scratch/err"
  return 1
}

# --- C, by pkg-config ---

make -s -C c OUT="$scratch"
engine=$scratch/engine

# The checksum of a tensor as engine prints it, against gzip's of the same piece of the file that was promoted.
same_sum() {
  local line=$1 file=$2 offset size sum
  [[ $line =~ offset\ ([0-9]+)\ size\ ([0-9]+)\ crc32\ ([0-9a-f]{8})$ ]] || { echo "no checksum: $line"; return 1; }
  offset=${BASH_REMATCH[1]} size=${BASH_REMATCH[2]} sum=${BASH_REMATCH[3]}
  [ "$(dd if="$file" iflag=skip_bytes,count_bytes skip="$offset" count="$size" status=none | gzip -1c | tail -c 8 |
    od -An -tx4 --endian=little -N4 | tr -d ' ')" = "$sum" ]
}
for file in tiny-llama.gguf gguf/e-alltypes.gguf gguf/a-llama-2l.gguf; do
  "$engine" --demo "$data/$file" >"$scratch/out" 2>"$scratch/err"
  check "engine sums up the first tensor of $file" same_sum "$(grep '^tensor' "$scratch/out")" "$data/$file"
  check "engine shows the metadata of $file" grep -q '"general.architecture" = "llama"' "$scratch/out"
done
"$engine" --demo "$data/split/tiny-00001-of-00002.gguf" >"$scratch/out" 2>"$scratch/err"
for shard in 1 2; do
  check "engine sums up shard $shard" same_sum "$(grep '^tensor' "$scratch/out" | sed -n "${shard}p")" \
    "$data/split/tiny-0000$shard-of-00002.gguf"
done
check "engine leaves no demo behind" test -z "$(ls -A "$TMPDIR")"
check "engine says where there is no registry" fails 1 'not_found: no registry at' "$engine" "$scratch/none"
check "engine says what is refused" fails 1 'refused: .*GGUF version 4' "$engine" --demo "$data/hostile/g05_ver4.gguf"
check "engine says how it is used" fails 2 '^usage' "$engine"

# --- C++, by CMake ---

cmake -S cpp -B "$scratch/build" -DCMAKE_PREFIX_PATH="$prefix" -DLLAMA_DIR="$llama" >"$scratch/log" ||
  { cat "$scratch/log"; exit 1; }
cmake --build "$scratch/build"
build=$scratch/build root=$scratch/root

"$build/first" "$root" "$data/tiny-llama.gguf" tiny >"$scratch/out"
check "first reads what it promoted" grep -qx '  tiny-llama.gguf begins with 71 71 85 70' "$scratch/out"
"$build/first" "$root" "$data/split/tiny-00001-of-00002.gguf" split >"$scratch/out"
check "first reads each shard" test "$(grep -c 'begins with 71 71 85 70' "$scratch/out")" -eq 3
check "first_static sees the same" diff <("$build/first_static" "$root") "$scratch/out"
# Not through a pipe: ldd would take the early end of grep for a failure.
linked() { ldd "$1" >"$scratch/linked" && grep -q libsecurereg "$scratch/linked"; }
check "first has the shared library" linked "$build/first"
check "first_static has none" eval '! linked "$build/first_static"'

ids="ids 257 71 192 172 20 192 35 322 219 313 149 314"
for mode in mmap none; do
  for model in tiny split; do
    "$build/llama" "$root" "$model" "$mode" | tee "$scratch/out"
    check "llama.cpp generates from $model with $mode" grep -qx "$ids" "$scratch/out"
    if [ $mode = mmap ]; then
      check "llama.cpp has mapped sealed memory" grep -qxE 'mapped [1-9][0-9]*' "$scratch/out"
    else
      check "llama.cpp has mapped nothing" grep -qx 'mapped 0' "$scratch/out"
    fi
    check "no write went through" grep -qx 'write to the descriptor: Bad file descriptor' "$scratch/out"
    check "no writable map was made" grep -qx 'writable map of the descriptor: Permission denied' "$scratch/out"
    check "the seals were tried" grep -qE '^(truncation: Operation not permitted|open to write: .*)$' "$scratch/out"
  done
done
"$build/llama" --demo "$data/tiny-llama.gguf" | tee "$scratch/out"
check "llama.cpp generates in its demo" grep -qx "$ids" "$scratch/out"
check "llama leaves no demo behind" test -z "$(ls -A "$TMPDIR")"

# One byte of the stored file is changed: nobody gets it.
blob=$root/blobs/sha256/$(sha256sum <"$data/tiny-llama.gguf" | cut -d' ' -f1)
chmod u+w "$blob"
printf '\001' | dd of="$blob" bs=1 seek=700000 conv=notrunc status=none
check "engine refuses a changed byte" fails 1 'tiny: (corrupt|quarantined): ' "$engine" "$root" tiny
check "llama refuses it too" fails 1 'llama: (corrupt|quarantined): ' "$build/llama" "$root" tiny

# --- the CMake package ---

# asked VERSION: whether the package is what find_package(securereg VERSION) takes.
asked() {
  mkdir -p "$scratch/asked"
  printf '%s\n' 'cmake_minimum_required(VERSION 3.16)' 'project(asked LANGUAGES C)' "find_package(securereg $1 QUIET)" \
    'if(NOT securereg_FOUND)' '  message(FATAL_ERROR "none")' 'endif()' >"$scratch/asked/CMakeLists.txt"
  cmake -S "$scratch/asked" -B "$scratch/asked/build" -DCMAKE_PREFIX_PATH="$prefix" >/dev/null 2>&1
}
version=$(sed -n 's/^#define SECUREREG_VERSION "\(.*\)"/\1/p' "$prefix/include/securereg.h")
for good in "" "$version" "$version EXACT" "${version%.*}" "${version%.*}...<9" "COMPONENTS shared static cpp"; do
  check "find_package(securereg $good) takes $version" asked "$good"
done
for bad in 9 "${version%.*}.999" "8...9" "0.0...<${version%.*}" "COMPONENTS nothing"; do
  check "find_package(securereg $bad) does not take $version" eval '! asked "$bad"'
done

# What Rust needs of the system is what pkg-config says it needs.
for library in $(sed -n 's/^Libs.private: *//p' "$pc"); do
  if [[ $library == -l* && $library != -lsecurereg ]]; then
    check "securereg::static links $library" grep -qE "[\";]${library#-l}[\";]" "$package/securereg-config.cmake"
  fi
done

# The whole prefix elsewhere, and the package in the other folder that CMake looks into.
mkdir -p "$scratch/moved/lib/cmake"
cp -a "$prefix/include" "$prefix/lib" "$scratch/moved/"
rm -rf "$scratch"/moved/lib*/cmake "$scratch"/moved/lib/*/cmake
mkdir -p "$scratch/moved/lib/cmake/securereg"
cp "$package"/*.cmake "$scratch/moved/lib/cmake/securereg/"
cmake -S cpp -B "$scratch/again" -DCMAKE_PREFIX_PATH="$scratch/moved" >"$scratch/log" || { cat "$scratch/log"; exit 1; }
cmake --build "$scratch/again" --target first
check "a prefix that was moved is used where it is" grep -q "$scratch/moved/lib" <(ldd "$scratch/again/first")

echo "examples: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 40 ]
