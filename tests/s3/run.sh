#!/usr/bin/env bash
# The S3 back end against moto, a server of S3 from the Python index: the conformance suite of all back ends, and what two servers on
# one bucket promise. Against s3s-fs the same runs with `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/../.."

moto=5.2.5
venv="$HOME/.cache/securereg/moto-$moto"
if ! "$venv/bin/python3" -c "import moto.server" >/dev/null 2>&1; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "moto[server]==$moto"
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-s3.XXXXXX")
server=
clean_up() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$scratch"
}
trap clean_up EXIT

cargo test --locked -p securereg-server --no-run

# Port 0 is one that is free; the server says which.
TMPDIR="$scratch" "$venv/bin/python3" tests/s3/serve.py >"$scratch/moto.log" 2>&1 &
server=$!
endpoint=
for _ in $(seq 300); do
  endpoint=$(sed -n 's/^.*Running on \(http:\/\/127\.0\.0\.1:[0-9]*\).*$/\1/p' "$scratch/moto.log" | head -n 1)
  [ -n "$endpoint" ] && break
  kill -0 "$server" || { cat "$scratch/moto.log"; exit 1; }
  sleep 0.1
done
[ -n "$endpoint" ] || { cat "$scratch/moto.log"; echo "moto does not say where it listens"; exit 1; }

bucket=conformance
curl --silent --show-error --fail -X PUT "$endpoint/$bucket" >/dev/null
export SECUREREG_S3_ENDPOINT="$endpoint" SECUREREG_S3_BUCKET="$bucket"
# Few at once: moto keeps everything in memory, under one interpreter.
timeout -k 10 900 cargo test --locked -p securereg-server moto -- --test-threads 4 2>&1 | tee "$scratch/log"

ran=$(awk '/^test result: ok\. / { sum += $4 } END { print sum + 0 }' "$scratch/log")
echo "$ran tests passed against moto $moto"
[ "$ran" -ge 20 ]
