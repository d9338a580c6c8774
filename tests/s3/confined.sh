#!/usr/bin/env bash
# `securereg serve` on a bucket, confined as it always is: it looks up a name, reaches the bucket's port, and no other.
#   tests/s3/confined.sh ENDPOINT-PORT BUCKET     a store of S3 that listens there; called by tests/s3/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
port=$1 bucket=$2

cargo build --locked -p securereg-cli
binary="${CARGO_TARGET_DIR:-target}/debug/securereg"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-s3-confined.XXXXXX")
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$scratch"' EXIT

# serve PORT: on a bucket at that port of this machine, by name; sets url, or fails.
serve() {
  local root="$scratch/root-$1"
  mkdir -m 700 "$root"
  (umask 077; echo testing123 >"$scratch/id"; echo testing123secret >"$scratch/key"; echo 0123456789abcdef0123456789abcdef >"$scratch/user")
  cat >"$root/registry.yaml" <<Y
storage:
  s3: {bucket: $bucket, endpoint: "http://localhost:$1", region: us-east-1, allow_http: true, access_key_file: $scratch/id, secret_key_file: $scratch/key}
access:
  - {name: u, token_file: $scratch/user, repositories: ["**"], rights: [pull, push]}
Y
  "$binary" --root "$root" serve --listen 127.0.0.1:0 --json >"$scratch/out" 2>"$scratch/err" &
  pid=$!
  for _ in $(seq 100); do
    url=$(sed -n 's/.*"listen":"\([^"]*\)".*/http:\/\/\1/p' "$scratch/out")
    [ -z "$url" ] || return 0
    sleep 0.1
  done
  cat "$scratch/err"
  return 1
}
ask() { curl --silent --show-error --user u:0123456789abcdef0123456789abcdef "$@"; }

serve "$port"
grep -q '"seccomp":true' "$scratch/out" || { cat "$scratch/out"; echo "it is not confined"; exit 1; }
echo hello >"$scratch/blob"
digest="sha256:$(sha256sum <"$scratch/blob" | cut -d' ' -f1)"
upload=$(ask --include --request POST "$url/v2/a/b/blobs/uploads/" | tr -d '\r' | sed -n 's/^location: //p')
case $upload in http*) ;; *) upload="$url$upload" ;; esac
code=$(ask --output /dev/null --write-out '%{http_code}' --request PUT --data-binary "@$scratch/blob" --header 'Content-Type: application/octet-stream' "$upload?digest=$digest")
[ "$code" = 201 ] || { cat "$scratch/err"; echo "a push is answered with $code"; exit 1; }
ask "$url/v2/a/b/blobs/$digest" | cmp - "$scratch/blob"
kill "$pid"
wait "$pid"
pid=
echo "a confined server keeps what is pushed in the bucket, and gives it back"
