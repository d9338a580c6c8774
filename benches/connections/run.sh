#!/usr/bin/env bash
# /health beside a thousand idle and slow connections: issue 6, point 5.
#   benches/connections/run.sh [CONNECTIONS [ASKS [SECONDS]]]      1000 2000 40
# Needs the release builds of securereg-cli and securereg-registry-bench: `.ci/long connections` makes them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
bin=${SECUREREG_BIN:-$target/release/securereg} bench=${CONNECTIONS_BENCH:-$target/release/connections-bench}
for program in "$bin" "$bench"; do [ -x "$program" ] || { echo "no $program"; exit 1; }; done

scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-connections.XXXXXX")
pid=
clean_up() {
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; } || true
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
ulimit -n "$(ulimit -Hn)"

"$bin" --root "$scratch/root" --json serve --listen 127.0.0.1:0 >"$scratch/ready" &
pid=$!
for _ in $(seq 300); do
  grep -q listen "$scratch/ready" && break
  kill -0 "$pid" || { echo "the server did not start"; exit 1; }
  sleep 0.1
done
address=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["listen"])' "$scratch/ready")
echo "load before: $(cut -d' ' -f1-3 /proc/loadavg) on $(nproc) cores"
for kept in 0 "${1:-1000}"; do
  "$bench" "$address" "$kept" "${2:-2000}" "${3:-40}"
done
