#!/usr/bin/env bash
# The OCI's own conformance suite, at spec version 1.1 and at `dev`, on the local store and on S3 (moto), each against a server of
# its own. Fails when a check failed, when one was skipped that the suite's defaults do not leave out, and when fewer ran than the
# suite has.
#   tests/conformance/run.sh [DIR]   the reports are kept in DIR (local-1.1/, s3-dev/, ...: report.html, junit.xml, results.yaml,
#                                    output, server.log)
#   STORAGES                         "local s3"; another SERVER has its own store only
# See tests/clients/server.sh for SERVER and SECUREREG_BIN. tests/clients/install.sh builds the suite.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export PATH="${SECUREREG_CACHE:-$HOME/.cache/securereg}/tools/bin:$PATH"
. tests/clients/server.sh
. tests/s3/moto.sh

scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-conformance.XXXXXX")
clean_up() {
  local dir
  for dir in "$scratch"/*/pid; do [ ! -e "$dir" ] || kill_server "${dir%/pid}" 2>/dev/null || true; done
  stop_moto
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
reports=${1:-$scratch/reports}
command -v conformance >/dev/null || { echo "no conformance suite: run tests/clients/install.sh"; exit 1; }

[ "$SERVER" = securereg ] || STORAGES=local

# judge STORAGE VERSION LEAST: one run of the suite.
judge() {
  local storage=$1 version=$2 least=$3 code=0 out dir
  out=$reports/$storage-$version dir=$scratch/$storage-$version
  rm -rf "$out"
  mkdir -p "$out"
  start_server "$dir" || return 1
  # None of the caller's own settings.
  env -i PATH="$PATH" HOME="$scratch" OCI_VERSION="$version" OCI_REGISTRY="$HOST" OCI_TLS=disabled OCI_USERNAME="$USER_NAME" \
    OCI_PASSWORD="$PASSWORD" OCI_REPO1=conformance/repo1 OCI_REPO2=conformance/repo2 OCI_RESULTS_DIR="$out" \
    timeout -k 10 600 conformance >"$out/output" 2>&1 </dev/null || code=$?
  server_runs "$dir" || { echo "the server ended while it was tested"; code=1; }
  cp "$dir/log" "$out/server.log"
  stop_server "$dir"
  if [ "$storage" = s3 ] && [ -n "$(find "$dir/root/oci" -type f | head -n 3 | tee /dev/stderr)" ]; then
    echo "with S3, repositories were kept in the root"
    return 1
  fi
  python3 "$here/count.py" "$out" "$storage $version" "$least" "$code"
}

failed=0
for storage in ${STORAGES-local s3}; do
  unset SERVER_CONFIG
  if [ "$storage" = s3 ]; then
    start_moto "$scratch" conformance
    printf moto >"$scratch/key"
    chmod 600 "$scratch/key"
    export SERVER_CONFIG=$scratch/s3.yaml
    cat >"$SERVER_CONFIG" <<YAML
storage:
  s3: { bucket: conformance, region: us-east-1, endpoint: "$MOTO", allow_http: true,
        access_key_file: "$scratch/key", secret_key_file: "$scratch/key", prefix: "PREFIX" }
YAML
  fi
  # What the pinned suite has: fewer were not run, whatever its exit code.
  for wanted in 1.1:850 dev:950; do
    [ -z "${SERVER_CONFIG:-}" ] || sed -i "s/prefix: \"[^\"]*\"/prefix: \"${wanted%:*}\"/" "$SERVER_CONFIG"
    judge "$storage" "${wanted%:*}" "${wanted#*:}" || failed=$((failed + 1))
  done
  stop_moto
done
[ "$failed" -eq 0 ]
