#!/usr/bin/env bash
# Pushes and pulls beside other registries on this machine, in the shape of zot's benchmark, and the table of it.
#   benches/registry/run.sh [ROUNDS [SECTION...]]
#     ROUNDS    3: the figures are medians of so many, the registries taking turns
#     SECTION   as registry-bench names them, with `/N` for other than 4 connections
#   PEERS       "distribution debian": which to stand beside (zot's module is not to be had from the module proxy)
#   RESULTS     a file for the figures of each run, a line of JSON each
# Each section of each registry starts on an empty root, so that nothing is left of the one before; the disk is idle when it starts. The
# peers ask for no password and do not sync what they acknowledge; securereg does both.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export PATH="${SECUREREG_CACHE:-$HOME/.cache/securereg}/tools/bin:$PATH" PEER_OPEN=1
. tests/clients/server.sh
bench=${REGISTRY_BENCH:-${CARGO_TARGET_DIR:-target}/release/registry-bench}
[ -x "$bench" ] || { echo "no $bench: cargo build --release -p securereg-registry-bench"; exit 1; }

rounds=${1:-3}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- push-monolithic:1MB push-streamed:1MB pull:1MB push-monolithic:10MB push-streamed:10MB pull:10MB \
  push-monolithic:100MB push-streamed:100MB pull:100MB push-monolithic:1GiB push-streamed:1GiB push-streamed:1GiB/1 pull:1GiB pull:1GiB/1 mixed
read -ra servers <<<"securereg ${PEERS-distribution debian}"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-bench.XXXXXX")
# ext4 without a journal gives no inode out again for minutes, and looks at each that was deleted before it finds another: each root
# in a block group of its own, or whoever comes later pays for what was deleted before.
chattr +T "$scratch" 2>/dev/null || true
results=${RESULTS:-$scratch/results}
: >"$results"
clean_up() {
  [ -z "${root:-}" ] || kill_server "$root" 2>/dev/null || true
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

for round in $(seq "$rounds"); do
  for section in "$@"; do
    for SERVER in "${servers[@]}"; do
      connections=4 credentials=()
      [ "${section%/*}" = "$section" ] || connections=${section##*/}
      root=$scratch/$SERVER-$round-${section//[^a-zA-Z0-9]/-}
      start_server "$root"
      [ "$SERVER" != securereg ] || credentials=("$USER_NAME:$PASSWORD")
      sync -f "$scratch"
      line=$("$bench" --connections "$connections" "${section%/*}" "$HOST" "${credentials[@]}")
      line="${line%\}},\"server\":\"$SERVER\",\"round\":$round,\"peak_kib\":$(server_peak)}"
      echo "$line" | tee -a "$results" >&2
      stop_server "$root"
      rm -rf "$root"
    done
  done
done
python3 "$here/table.py" "$results"
