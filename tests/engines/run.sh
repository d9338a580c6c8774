#!/usr/bin/env bash
# Real engines on the real mount: llama.cpp in each of its load modes, and safetensors. What is checked is in
# check.py. Needs root, or fusermount3; installs and builds what else it needs (build.sh: minutes, once).
#
#   SECUREREG_BIN     the binary under test (default: the release build)
#   SECUREREG_CACHE   where the built engine is kept (default: ~/.cache/securereg)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
bin=$(realpath -m "${SECUREREG_BIN:-${CARGO_TARGET_DIR:-target}/release/securereg}")
if [ ! -x "$bin" ]; then
    echo "run.sh: no $bin: build it first (cargo build --release -p securereg-cli)" >&2
    exit 1
fi

# Models are pushed with oras, which tests/clients/install.sh builds.
export PATH="${SECUREREG_CACHE:-$HOME/.cache/securereg}/tools/bin:$PATH"
if [ -d crates/oci ] && ! command -v oras >/dev/null; then tests/clients/install.sh; fi

missing=()
command -v strace >/dev/null || missing+=(strace)
command -v cmake >/dev/null || missing+=(cmake)
command -v g++ >/dev/null || missing+=(g++)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "run.sh: please install: ${missing[*]}" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# Not `mapfile < <(build.sh)`: that would not see it fail.
built=$("$here/build.sh")
{ read -r engine; read -r venv; } <<<"$built"

work=$(realpath "$(mktemp -d)")  # as /proc/PID/maps will show it
daemon=
# By the shell's own list of its jobs: a pid that has ended may be another process's by now.
running() { jobs -pr | grep -qx "$daemon"; }
cleanup() {
    local status=$?
    if running; then kill -TERM "$daemon"; fi
    for _ in $(seq 50); do running || break; sleep 0.1; done
    if running; then kill -KILL "$daemon"; fi
    # A daemon that died leaves its mount; rm must not walk into one.
    if grep -q " $work/mnt " /proc/self/mountinfo; then
        umount -l "$work/mnt" 2>/dev/null || fusermount3 -uz "$work/mnt" || true
    fi
    if [ "$status" -ne 0 ] && [ -s "$work/up.log" ]; then
        echo "the last lines of securereg up:" >&2
        tail -n 40 "$work/up.log" >&2
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap cleanup EXIT

g++ -std=c++17 -O1 -Wall -Wextra -Werror -I"$engine/include" "$here/loader.cpp" -o "$work/loader" \
    -L"$engine/lib" -lllama -lggml -lggml-base -Wl,-rpath,"$engine/lib"

listen=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir "$work/mnt" "$work/files"
"$bin" up --root "$work/root" --mount "$work/mnt" --listen "$listen" </dev/null >"$work/up.log" 2>&1 &
daemon=$!

# -B: no __pycache__ in the source tree
"$venv/bin/python" -B "$here/check.py" --bin "$bin" --root "$work/root" --mount "$work/mnt" --listen "$listen" \
    --pid "$daemon" --loader "$work/loader" --work "$work/files"
