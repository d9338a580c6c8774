#!/usr/bin/env bash
# What tests/clients and tests/conformance are run with, each pinned where its registry lets us: Debian's clients, the others from
# their language's own registry, kept under ~/.cache/securereg. Quick when all of it is there. A client that cannot be installed
# is a failure here and in run.sh.
#   tests/clients/install.sh [peers]    with `peers`: the registries that benchmarks stand beside as well
set -euo pipefail
cd "$(dirname "$0")/../.."
CACHE=${SECUREREG_CACHE:-$HOME/.cache/securereg}
bin=$CACHE/tools/bin
mkdir -p "$bin"

missing=()
for package in skopeo buildah podman curl jq openssl; do
  command -v "$package" >/dev/null || missing+=("$package")
done
# What podman and buildah call, which Debian only recommends.
command -v crun >/dev/null || command -v runc >/dev/null || missing+=(crun)
command -v go >/dev/null || missing+=(golang-go)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
[ "${1:-}" != peers ] || command -v docker-registry >/dev/null || missing+=(docker-registry)
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" -eq 0 ] || { echo "install these packages first: ${missing[*]}"; exit 1; }
  DEBIAN_FRONTEND=noninteractive apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# from_go PROGRAM PACKAGE VERSION: kept when the program there was built from that version.
from_go() {
  local program=$1 package=$2 version=$3
  if ! { go version -m "$bin/$program" 2>/dev/null || true; } | grep -qE "^[[:space:]]mod[[:space:]].*[[:space:]]$version([[:space:]]|\$)"; then
    echo "building $program $version"
    GOBIN=$bin GOFLAGS='-mod=mod -buildvcs=false' CGO_ENABLED=0 nice -n 5 go install "$package@$version"
  fi
  [ -x "$bin/$program" ]
}
# The suite has no releases: this is its rewrite as a program.
from_go conformance github.com/opencontainers/distribution-spec/conformance v0.0.0-20260831232431-97274622c111
from_go crane github.com/google/go-containerregistry/cmd/crane v0.22.1
from_go oras oras.land/oras/cmd/oras v1.3.6
from_go regctl github.com/regclient/regclient/cmd/regctl v0.11.7
if [ "${1:-}" = peers ]; then
  from_go registry github.com/distribution/distribution/v3/cmd/registry v3.1.2
fi

# The Python client, in an environment of its own: made beside its place and renamed when complete.
key=$({ cat tests/clients/requirements.txt; python3 --version; } | sha256sum | cut -c1-16)
venv=$CACHE/clients-venv-$key
if [ ! -x "$venv/bin/python" ]; then
  new=$(mktemp -d "$CACHE/clients-venv-new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  rm -rf "$venv"
  python3 -m venv "$new/venv"
  "$new/venv/bin/python" -m pip install -q --no-deps --only-binary :all: -r tests/clients/requirements.txt
  mv "$new/venv" "$venv"
fi
# Not a link: through one, Python does not see that it is in an environment.
printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$venv" >"$bin/oras-python.new"
chmod +x "$bin/oras-python.new"
mv -f "$bin/oras-python.new" "$bin/oras-python"

# The Rust client. Its dependencies are its own: it is no part of the workspace.
CARGO_TARGET_DIR="$CACHE/clients-target" cargo build --quiet --locked --manifest-path tests/clients/oci-client/Cargo.toml
ln -sfn "$CACHE/clients-target/debug/oci-client-check" "$bin/oci-client-check"

for program in skopeo buildah podman crane oras regctl oras-python oci-client-check conformance; do
  command -v "$program" >/dev/null || [ -x "$bin/$program" ] || { echo "$program was not installed"; exit 1; }
done
