#!/usr/bin/env bash
# The Go binding: gofmt, go vet, the tests with the race detector, and the program of README.md.
#   bindings/go/ci.sh PREFIX SCRATCH    PREFIX: where cargo cinstall put the library; SCRATCH: a folder to work in
set -euo pipefail
prefix=$(realpath "${1:?usage: ci.sh PREFIX SCRATCH}")
mkdir -p "${2:?usage: ci.sh PREFIX SCRATCH}"
scratch=$(mktemp -d "$(realpath "$2")/go.XXXXXX")
# The module cache of Go is read-only.
trap 'chmod -R u+rwX "$scratch"; rm -rf "$scratch"' EXIT
cd "$(dirname "$0")"
here=$PWD
pc=$(compgen -G "$prefix/lib*/pkgconfig/securereg.pc" || compgen -G "$prefix/lib/*/pkgconfig/securereg.pc" || true)
[ -f "$pc" ] || { echo "$prefix has no securereg.pc"; exit 1; }
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH CGO_ENABLED=1 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOWORK=off
LD_LIBRARY_PATH=$(pkg-config --variable=libdir securereg)
export LD_LIBRARY_PATH
SECUREREG_TEST_DATA=$(realpath ../../tests/data)
export SECUREREG_TEST_DATA
# Without a home of its own, as a service has none, Go has no cache either.
[ -w "${HOME:-/nonexistent}" ] || export HOME="$scratch/home" GOPATH="$scratch/go"
mkdir -p "$HOME" "$scratch/tmp"
export TMPDIR="$scratch/tmp"
# go does not notice that pkg-config answers otherwise than when something was cached, as for another prefix.
export GOCACHE="$scratch/cache"
go version

passed=0 failed=0
check() {
  local what=$1
  shift
  if "$@"; then passed=$((passed + 1)); else echo "not so: $what"; failed=$((failed + 1)); fi
}

# Nothing of the C ABI is forgotten, but for what the binding does by other means.
header=$prefix/include/securereg.h
for word in $(grep -oE '\bsecurereg_[a-z_]+\(' "$header" | tr -d '(' | sort -u) \
  $(sed -n '/^enum securereg_status/,/^};/s/^  \(SECUREREG_[A-Z_]*\) = .*/\1/p' "$header"); do
  case $word in securereg_map | securereg_gguf_find | securereg_error_status) continue ;; esac
  check "the package knows $word" grep -qw "$word" --exclude='*_test.go' -r --include='*.go' --include='*.c' .
done

check "gofmt has nothing to change" test -z "$(gofmt -l .)"
check "go vet is content" go vet ./...

timeout -k 10 900 go test -race -count=1 -v ./... 2>&1 | tee "$scratch/log" | grep -vE '^(=== |    --- PASS)' || true
ran=$(grep -cE '^ *--- PASS' "$scratch/log" || true)
broken=$(grep -cE '^ *--- (FAIL|SKIP)|^FAIL|^panic:|DATA RACE|^fatal error' "$scratch/log" || true)
check "the tests came to their end" grep -qE '^ok[[:space:]]' "$scratch/log"
echo "go test -race: $ran passed, $broken failed or skipped"
passed=$((passed + ran)) failed=$((failed + broken))

# The program of README.md, in a module of its own.
mkdir "$scratch/first"
awk '/^```go$/ { on = 1; next } /^```$/ { on = 0 } on' README.md >"$scratch/first/main.go"
first() (
  cd "$scratch/first"
  go mod init first 2>/dev/null
  go mod edit -replace "example.invalid/securereg/bindings/go=$here"
  go mod tidy 2>/dev/null
  go run . "$scratch/root" "$SECUREREG_TEST_DATA/tiny-llama.gguf" | tee out
  grep -qx "tiny-llama.gguf 1451776 bytes of $(sha256sum <"$SECUREREG_TEST_DATA/tiny-llama.gguf" | cut -d' ' -f1)" out
)
check "the program of README.md reads a model" first

echo "bindings/go: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$ran" -ge 20 ]
