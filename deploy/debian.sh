#!/usr/bin/env bash
# Makes the Debian packages: libsecurereg0.1, libsecurereg-dev and securereg.
#   deploy/debian.sh OUT      they are put into the folder OUT
# Needs cargo-c 0.10.24 and cargo-deb 3.8.0 (cargo install --locked cargo-c@0.10.24 cargo-deb@3.8.0).
set -euo pipefail
out=$(realpath -m "${1:?usage: deploy/debian.sh OUT}")
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
stage="$target/release/stage"
rm -rf "$stage"
mkdir -p "$out" "$stage/completions"

cargo cinstall --locked --release -p securereg --prefix /usr --libdir /usr/lib --destdir "$stage"
cargo build --locked --release -p securereg-cli
"$target/release/securereg" man --out "$stage/man" >/dev/null
"$target/release/securereg" completions bash >"$stage/completions/securereg.bash"
"$target/release/securereg" completions zsh >"$stage/completions/_securereg"
"$target/release/securereg" completions fish >"$stage/completions/securereg.fish"

cargo deb --locked --no-build -p securereg -o "$out"
cargo deb --locked --no-build -p securereg --variant dev -o "$out"
cargo deb --locked --no-build -p securereg-cli -o "$out"
