#!/usr/bin/env bash
# The long run, by hand before a release: each target for MINUTES, as many side by side as there are cores.
#   fuzz/long.sh [MINUTES] [TARGET...]     60 minutes and every target unless told otherwise
#   FUZZ_JOBS=12 fuzz/long.sh              so many side by side: sooner done, with fewer executions
# What was found is in fuzz/found/, the corpus is made smaller and kept, the figures go to docs/fuzzing.md.
set -euo pipefail
cd "$(dirname "$0")"
. ./limits.sh

minutes=${1:-60}
jobs=${FUZZ_JOBS:-$(nproc)}
shift || true
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(targets)
build
mkdir -p found "$cache/fuzz-corpus" "$cache/fuzz-log"

# one TARGET: runs it, restarted after each crash so that one defect does not hide the next; no more than 20 times.
one() {
  local name=$1 log="$cache/fuzz-log/$1.log" work="$cache/fuzz-corpus/$1" end left tries=0
  mkdir -p "$work" "corpus/$name"
  : >"$log"
  end=$((SECONDS + minutes * 60))
  while left=$((end - SECONDS)); [ $left -gt 0 ] && [ $tries -lt 20 ]; do
    tries=$((tries + 1))
    # shellcheck disable=SC2046
    "$bins/$name" "${limits[@]}" $(dictionary "$name") -timeout=60 -max_total_time=$left -artifact_prefix="found/$name-" \
      "$work" "corpus/$name" >>"$log" 2>&1 && break
  done
  # The smallest set of files that reaches all that was reached, without those over 4 KiB: it is committed.
  rm -rf "$work.small"
  mkdir "$work.small"
  "$bins/$name" -merge=1 -max_len=4096 -rss_limit_mb=1024 "$work.small" "$work" "corpus/$name" >>"$log" 2>&1 || true
  if [ -n "$(ls "$work.small")" ]; then
    find "corpus/$name" -type f -delete
    find "$work.small" -type f -printf '%s %p\n' | sort -n | awk '{ sum += $1; if (sum < 80000) print $2 }' | xargs cp -t "corpus/$name"
  fi
}
running=0
for name in "${names[@]}"; do
  one "$name" &
  running=$((running + 1))
  if [ $running -ge "$jobs" ]; then
    wait -n
    running=$((running - 1))
  fi
done
wait

table() {
  echo "| target | executions | exec/s | peak RSS | corpus | crashes |"
  echo "|---|---|---|---|---|---|"
  local name log ran speed rss files crashes
  for name in "${names[@]}"; do
    log="$cache/fuzz-log/$name.log"
    ran=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    speed=$((ran / (minutes * 60)))
    rss=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log" | sort -n | tail -1)
    files=$(find "corpus/$name" -type f | wc -l)
    crashes=$(find found -name "$name-*" | wc -l)
    echo "| $name | $ran | $speed | ${rss:-?} MiB | $files files | $crashes |"
    [ "$ran" -gt 0 ] || { echo "fuzz: $name executed nothing" >&2; return 1; }
  done
}
{
  echo "# Fuzzing"
  echo
  echo "\`fuzz/long.sh $minutes\`, $(date -u +%Y-%m-%d), $jobs targets side by side on $(nproc) cores, libFuzzer with AddressSanitizer: one allocation of at"
  echo "most 64 MiB, one second of a core an input, inputs of up to 64 KiB. Each execution inspects its input twice and compares (src/format/fuzzing.rs)."
  echo
  table
} >"$cache/fuzz-log/fuzzing.md"
mkdir -p ../docs
mv "$cache/fuzz-log/fuzzing.md" ../docs/fuzzing.md
cat ../docs/fuzzing.md
[ -z "$(ls found)" ] || { echo "fuzz: inputs that failed are in fuzz/found/"; exit 1; }
