#!/usr/bin/env bash
# The S3 back end against moto, a server of S3 from the Python index: the conformance suite of all back ends, and what two servers on
# one bucket promise. Against s3s-fs the same runs with `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/s3/moto.sh

scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-s3.XXXXXX")
clean_up() {
  stop_moto
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

cargo test --locked -p securereg-server --no-run

start_moto "$scratch" conformance
export SECUREREG_S3_ENDPOINT="$MOTO" SECUREREG_S3_BUCKET=conformance
# Few at once: moto keeps everything in memory, under one interpreter.
timeout -k 10 900 cargo test --locked -p securereg-server moto -- --test-threads 4 2>&1 | tee "$scratch/log"

ran=$(awk '/^test result: ok\. / { sum += $4 } END { print sum + 0 }' "$scratch/log")
echo "$ran tests passed against moto $MOTO_VERSION"
[ "$ran" -ge 20 ]

bash tests/s3/confined.sh "${MOTO##*:}" conformance
