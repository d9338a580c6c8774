#!/usr/bin/env bash
# The OCI's own conformance suite, at spec version 1.1 and at `dev`, each against a server of its own. Fails when a check failed,
# when one was skipped that the suite's defaults do not leave out, and when fewer ran than the suite has.
#   tests/conformance/run.sh [DIR]   the reports are kept in DIR (1.1/, dev/: report.html, junit.xml, results.yaml, output)
# See tests/clients/server.sh for SERVER and SECUREREG_BIN. tests/clients/install.sh builds the suite.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export PATH="${SECUREREG_CACHE:-$HOME/.cache/securereg}/tools/bin:$PATH"
. tests/clients/server.sh

scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-conformance.XXXXXX")
clean_up() {
  for version in 1.1 dev; do kill_server "$scratch/$version" 2>/dev/null || true; done
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
reports=${1:-$scratch/reports}
command -v conformance >/dev/null || { echo "no conformance suite: run tests/clients/install.sh"; exit 1; }

failed=0
# What the pinned suite has: fewer were not run, whatever its exit code.
for wanted in 1.1:850 dev:950; do
  version=${wanted%:*} least=${wanted#*:} code=0
  out=$reports/$version
  rm -rf "$out"
  mkdir -p "$out"
  start_server "$scratch/$version"
  # None of the caller's own settings.
  env -i PATH="$PATH" HOME="$scratch" OCI_VERSION="$version" OCI_REGISTRY="$HOST" OCI_TLS=disabled OCI_USERNAME="$USER_NAME" \
    OCI_PASSWORD="$PASSWORD" OCI_REPO1=conformance/repo1 OCI_REPO2=conformance/repo2 OCI_RESULTS_DIR="$out" \
    timeout -k 10 600 conformance >"$out/output" 2>&1 </dev/null || code=$?
  server_runs "$scratch/$version" || { echo "the server ended while it was tested"; code=1; }
  cp "$scratch/$version/log" "$out/server.log"
  stop_server "$scratch/$version"
  python3 "$here/count.py" "$out" "$version" "$least" "$code" || failed=$((failed + 1))
done
[ "$failed" -eq 0 ]
