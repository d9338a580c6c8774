#!/usr/bin/env bash
# Every client against a server of its own; each must be there and each must pass.
#   tests/clients/run.sh [NAME...]     all of them, or those named
# See server.sh for SERVER and SECUREREG_BIN; install.sh installs the clients.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
all=(curl skopeo buildah podman crane oras oras-python regctl oci-client models)
[ $# -gt 0 ] || set -- "${all[@]}"

# Not ended by the first client that fails.
passed=0 failed=0 log=$(mktemp "${TMPDIR:-/tmp}/securereg-clients.XXXXXX")
trap 'rm -f "$log"' EXIT
for name in "$@"; do
  started=$SECONDS code=0
  timeout -k 10 300 bash "$here/$name.sh" 2>&1 | tee "$log" || code=$?
  counts=$(sed -n "s/^$name: \([0-9]*\) passed, \([0-9]*\) failed\$/\1 \2/p" "$log" | tail -n 1)
  read -r good bad <<<"${counts:-0 0}"
  passed=$((passed + good)) failed=$((failed + bad))
  # One that ended before it could count, or that had nothing to count, has failed.
  if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ] || [ "$good" -eq 0 ]; then
    echo "not ok - $name: ended with $code after $good checks"
    failed=$((failed + 1))
  fi
  echo "$name: $((SECONDS - started)) s"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
