#!/usr/bin/env bash
# The short run, for CI: every target takes its committed corpus and goes on from there, SECONDS seconds in all.
#   fuzz/short.sh [SECONDS]      20 unless told otherwise
# Fails on a crash, a timeout, too much memory, a corpus that is not there, or when nothing was executed.
set -euo pipefail
cd "$(dirname "$0")"
. ./limits.sh

seconds=${1:-20}
mapfile -t names < <(targets)
[ ${#names[@]} -gt 0 ] || { echo "fuzz: no target in Cargo.toml"; exit 1; }
build
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
each=$(((seconds + ${#names[@]} - 1) / ${#names[@]}))
failed=0
for name in "${names[@]}"; do
  seeds=$(find "corpus/$name" -type f 2>/dev/null | wc -l)
  mkdir "$scratch/$name"
  # What an input may take of a core is checked in the run itself; this ends one that never comes back.
  # shellcheck disable=SC2046
  if ! "$bins/$name" "${limits[@]}" $(dictionary "$name") -timeout=60 -max_total_time="$each" \
    -artifact_prefix="$scratch/$name-" "$scratch/$name" "corpus/$name" >"$scratch/$name.log" 2>&1; then
    echo "fuzz: $name FAILED:"
    tail -40 "$scratch/$name.log"
    mkdir -p found
    cp "$scratch/$name"-* found/ 2>/dev/null && echo "fuzz: the input is in fuzz/found/"
    failed=1
    continue
  fi
  ran=$(statistic number_of_executed_units "$scratch/$name.log")
  if [ "$seeds" -eq 0 ] || [ "${ran:-0}" -lt "$seeds" ]; then
    echo "fuzz: $name FAILED: ${ran:-0} executions of a corpus of $seeds files"
    failed=1
    continue
  fi
  echo "fuzz: $name: $ran executions, $seeds files of corpus"
done
exit $failed
