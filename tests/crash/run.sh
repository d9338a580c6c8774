#!/usr/bin/env bash
# The crash rigs: docs/crash.md says what each simulates.
#   tests/crash/run.sh short    what CI runs: some hundred points of each rig, spread evenly, in about a minute
#   tests/crash/run.sh long     every point, more states by lot, 40 copies of disks: half an hour
# Each rig ends with an error when it finds something lost, when it ran nowhere, and when its canary was not caught.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/securereg/target}"

case ${1:-} in
  short) strace=(--points 240) replay=(--samples 2 --states 500) images=(--snapshots 6 --only ext4-through --only ext4-volatile --only xfs-through) ;;
  long) strace=() replay=(--samples 20) images=(--snapshots 40) ;;
  *) sed -n '2,5p' "$0"; exit 64 ;;
esac

(cd ../.. && cargo build --release --locked -p securereg-cli -p securereg-crash-check)
failed=0
rig() {
  printf -- '--- %s\n' "$*"
  timeout -k 10 3600 python3 "$@" || { echo "$1 failed ($?)"; failed=1; }
}
rig strace.py "${strace[@]}"
rig replay.py "${replay[@]}"
if [ "$(id -u)" -eq 0 ]; then
  rig images.py "${images[@]}"
else
  echo "images.py needs root: left out"
fi
exit $failed
