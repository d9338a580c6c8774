#!/usr/bin/env bash
# Signatures between this project and others: the Python package model_signing, pinned, both ways and on each curve it knows, and openssl,
# whose signatures over a file are those of `cosign sign-blob`. What must be refused is refused on both sides.
#   tests/signing/run.sh [SECUREREG]     the program to test [default: cargo's debug build]
set -euo pipefail
cd "$(dirname "$0")/../.."
CACHE=${SECUREREG_CACHE:-$HOME/.cache/securereg}
target=${CARGO_TARGET_DIR:-$PWD/target}
securereg=${1:-$target/debug/securereg}
[ $# -gt 0 ] || cargo build --locked -p securereg-cli
command -v openssl >/dev/null || { echo "openssl is not installed"; exit 1; }

# An environment of its own: made beside its place and renamed when complete.
key=$({ cat tests/signing/requirements.txt; python3 --version; } | sha256sum | cut -c1-16)
venv=$CACHE/signing-venv-$key
scratch=$(mktemp -d "${TMPDIR:-/tmp}/securereg-signing.XXXXXX")
new=
clean_up() { rm -rf "$scratch" ${new:+"$new"}; }
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
if [ ! -x "$venv/bin/python" ]; then
  mkdir -p "$CACHE"
  new=$(mktemp -d "$CACHE/signing-venv-new.XXXXXX")
  rm -rf "$venv"
  python3 -m venv "$new/venv"
  "$new/venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: -r tests/signing/requirements.txt
  mv "$new/venv" "$venv"
fi
model_signing() { "$venv/bin/python" -m model_signing "$@"; }
version=$("$venv/bin/python" -c 'import model_signing; print(model_signing.__version__)')
grep -qx "model-signing==$version" tests/signing/requirements.txt

good=0 refused=0
# good WHAT COMMAND...: it succeeds.
good() {
  local what=$1
  shift
  "$@" >"$scratch/out" 2>&1 || { cat "$scratch/out"; echo "FAILED: $what"; exit 1; }
  good=$((good + 1))
}
# refused CODE WORDS WHAT COMMAND...: it ends with this code and says this.
refused() {
  local code=$1 words=$2 what=$3 ended=0
  shift 3
  "$@" >"$scratch/out" 2>&1 || ended=$?
  if [ "$ended" -ne "$code" ] || ! grep -qF -- "$words" "$scratch/out"; then
    cat "$scratch/out"
    echo "FAILED: $what: ended with $ended, and should with $code, saying: $words"
    exit 1
  fi
  refused=$((refused + 1))
}
ours_verify() { "$securereg" verify-signature "$1" --key "$2" --signature "$3"; }
theirs_verify() { model_signing verify key "$1" --public_key "$2" --signature "$3"; }
promote() { "$securereg" --root "$root" promote "$1" --name "$2" "${@:3}"; }

# A folder as a hub's download leaves it, with the model of the tests, and the model alone.
model=$scratch/model
mkdir -p "$model/sub-dir/deep" "$model/.git" "$model/.cache/huggingface" "$scratch/single"
cp tests/data/tiny-llama.gguf "$model/tiny.gguf"
cp tests/data/tiny-llama.gguf "$scratch/single/tiny.gguf"
printf '{"model_type": "llama"}\n' >"$model/config.json"
printf '{"a": 1}\n' >"$model/sub-dir/generation_config.json"
printf '{"b": 1}\n' >"$model/sub-dir/deep/generation_config.json"
printf 'words\n' >"$model/README.md"
printf 'ref\n' >"$model/.git/HEAD"
printf '*.gguf filter=lfs\n' >"$model/.gitattributes"
printf 'x\n' >"$model/.cache/huggingface/tiny.lock"

for curve in P-256 P-384 P-521 other; do
  openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:"${curve/other/P-256}" -out "$scratch/$curve.pem" 2>/dev/null ||
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:"${curve/other/P-256}" -out "$scratch/$curve.pem"
  openssl pkey -in "$scratch/$curve.pem" -pubout -out "$scratch/$curve.pub"
done

for curve in P-256 P-384 P-521; do
  key=$scratch/$curve.pem public=$scratch/$curve.pub other=$scratch/other.pub
  # A registry that takes nothing but what this key signed.
  root=$scratch/root-$curve
  "$securereg" --root "$root" promote "$scratch/single/tiny.gguf" --name first >/dev/null
  cp "$public" "$root/release.pem"
  printf 'version: 1\nsigners:\n  - {name: "**", keys: [release.pem], require: true}\nrules: {"folder.hidden": warn}\n' >"$root/policy.yaml"
  chmod 600 "$root/policy.yaml" "$root/release.pem"
  refused 2 signature.required "$curve: unsigned, a folder" promote "$model" unsigned
  refused 2 signature.required "$curve: unsigned, a file" promote "$scratch/single/tiny.gguf" unsigned:v1

  # Python signs, we verify and promote.
  good "$curve: Python signs the folder" model_signing sign key "$model" --private_key "$key" --signature "$model/model.sig"
  good "$curve: we verify it" ours_verify "$model" "$public" "$model/model.sig"
  good "$curve: we promote it" promote "$model" "folder:$curve"
  "$securereg" --root "$root" show "folder:$curve" --json >"$scratch/shown"
  good "$curve: it is shown" "$venv/bin/python" - "$scratch/shown" "$public" <<'PY'
import hashlib, json, sys
shown = json.load(open(sys.argv[1]))
assert shown["signature"]["signer"] == "release.pem" and shown["signature"]["kind"] == "oms", shown["signature"]
assert shown["signature"]["key"] == hashlib.sha256(open(sys.argv[2], "rb").read()).hexdigest()
assert [f["path"] for f in shown["files"]] == ["README.md", "config.json", "sub-dir/deep/generation_config.json", "sub-dir/generation_config.json", "tiny.gguf"]
PY
  cp -r "$model" "$scratch/python-signed"
  good "$curve: Python signs the file" model_signing sign key "$scratch/single/tiny.gguf" --private_key "$key" --signature "$scratch/single/tiny.gguf.sig"
  good "$curve: we verify it" ours_verify "$scratch/single/tiny.gguf" "$public" "$scratch/single/tiny.gguf.sig"
  good "$curve: we promote it" promote "$scratch/single/tiny.gguf" "file:$curve"
  rm "$model/model.sig" "$scratch/single/tiny.gguf.sig"
  # By BLAKE3 as well, which a promotion computes anyway.
  good "$curve: Python signs by BLAKE3" "$venv/bin/python" - "$model" "$key" "$scratch/blake3.sig" <<'PY'
import sys, model_signing
config = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake3")
model_signing.signing.Config().use_elliptic_key_signer(private_key=sys.argv[2]).set_hashing_config(config).sign(sys.argv[1], sys.argv[3])
PY
  good "$curve: we promote it" promote "$model" "blake3:$curve" --signature "$scratch/blake3.sig"

  # We sign, Python verifies.
  good "$curve: we sign the folder" "$securereg" sign "$model" --key "$key"
  good "$curve: Python verifies it" theirs_verify "$model" "$public" "$model/model.sig"
  good "$curve: we verify it" ours_verify "$model" "$public" "$model/model.sig"
  refused 5 "--force" "$curve: a signature is not written over" "$securereg" sign "$model" --key "$key"
  good "$curve: unless that is asked for" "$securereg" sign "$model" --key "$key" --force
  good "$curve: we sign the file" "$securereg" sign "$scratch/single/tiny.gguf" --key "$key"
  good "$curve: Python verifies it" theirs_verify "$scratch/single/tiny.gguf" "$public" "$scratch/single/tiny.gguf.sig"
  good "$curve: we promote it" promote "$scratch/single/tiny.gguf" "ours:$curve"

  # What must be refused: of what each side signed, by each side.
  for signed in "$scratch/python-signed" "$model"; do
    sig=$signed/model.sig whose="$curve, ${signed##*/}"
    refused 3 signature.untrusted "$whose: another key, we" ours_verify "$signed" "$other" "$sig"
    refused 1 "Key mismatch" "$whose: another key, Python" theirs_verify "$signed" "$other" "$sig"
    # The other key's signature, under a hint of the trusted one.
    good "$whose: another key signs" "$securereg" sign "$signed" --key "$scratch/other.pem" --out "$scratch/untrusted.sig" --force
    refused 2 signature.untrusted "$whose: another key, a promotion" promote "$signed" untrusted --signature "$scratch/untrusted.sig"
    sed "s/$(sha256sum "$other" | cut -c1-64)/$(sha256sum "$public" | cut -c1-64)/" "$scratch/untrusted.sig" >"$scratch/forged.sig"
    if cmp -s "$scratch/untrusted.sig" "$scratch/forged.sig"; then echo "nothing was forged"; exit 1; fi
    refused 3 signature.invalid "$whose: a forged hint, we" ours_verify "$signed" "$public" "$scratch/forged.sig"
    refused 1 "" "$whose: a forged hint, Python" theirs_verify "$signed" "$public" "$scratch/forged.sig"
    refused 2 signature.invalid "$whose: a forged hint, a promotion" promote "$signed" forged --signature "$scratch/forged.sig"

    cp "$signed/config.json" "$scratch/kept"
    printf ' ' >>"$signed/config.json"
    refused 3 "config.json has other bytes" "$whose: other bytes, we" ours_verify "$signed" "$public" "$sig"
    refused 1 "config.json" "$whose: other bytes, Python" theirs_verify "$signed" "$public" "$sig"
    refused 2 "config.json has other bytes" "$whose: other bytes, a promotion" promote "$signed" other
    rm "$signed/config.json"
    refused 3 '"config.json" is signed and not here' "$whose: a file is missing, we" ours_verify "$signed" "$public" "$sig"
    refused 1 "config.json" "$whose: a file is missing, Python" theirs_verify "$signed" "$public" "$sig"
    refused 2 '"config.json" is signed and not here' "$whose: a file is missing, a promotion" promote "$signed" missing
    cp "$scratch/kept" "$signed/config.json"

    printf '{}\n' >"$signed/extra.json"
    refused 3 "extra.json is here and not signed" "$whose: an extra file, we" ours_verify "$signed" "$public" "$sig"
    refused 1 "extra.json" "$whose: an extra file, Python" theirs_verify "$signed" "$public" "$sig"
    refused 2 "extra.json is here and not signed" "$whose: an extra file, a promotion" promote "$signed" extra
    rm "$signed/extra.json"
    good "$whose: as it was" ours_verify "$signed" "$public" "$sig"
  done

  # What the signer's program was told to pass over is an extra file here; to Python it is not.
  rm "$model/model.sig"
  good "$curve: Python passes a file over" model_signing sign key "$model" --private_key "$key" --signature "$model/model.sig" --ignore-paths "$model/config.json"
  good "$curve: Python takes it" theirs_verify "$model" "$public" "$model/model.sig"
  refused 3 "config.json is here and not signed" "$curve: we do not" ours_verify "$model" "$public" "$model/model.sig"
  refused 2 "config.json is here and not signed" "$curve: nor does a promotion" promote "$model" ignored
  rm -r "$model/model.sig" "$scratch/single/tiny.gguf.sig" "$scratch/python-signed"

  # cosign's signature over a file; P-521 has none over a SHA-256.
  if [ "$curve" != P-521 ]; then
    sig=$scratch/single/tiny.gguf.sig
    openssl dgst -sha256 -sign "$key" "$scratch/single/tiny.gguf" | base64 -w0 >"$sig"
    good "$curve: we verify a blob's signature" ours_verify "$scratch/single/tiny.gguf" "$public" "$sig"
    good "$curve: we promote it" promote "$scratch/single/tiny.gguf" "blob:$curve"
    refused 3 signature.invalid "$curve: a blob's signature, another key" ours_verify "$scratch/single/tiny.gguf" "$other" "$sig"
    refused 3 signature.invalid "$curve: a blob's signature, other bytes" ours_verify "$model/config.json" "$public" "$sig"
    rm "$sig"
  fi
done

# Python's keys of the older form, and by shards, which is refused by its name.
openssl ecparam -name prime256v1 -genkey -out "$scratch/sec1.pem"
openssl pkey -in "$scratch/sec1.pem" -pubout -out "$scratch/sec1.pub"
good "we sign with an older key" "$securereg" sign "$model" --key "$scratch/sec1.pem" --out "$scratch/sec1.sig"
good "Python verifies it" theirs_verify "$model" "$scratch/sec1.pub" "$scratch/sec1.sig"
"$venv/bin/python" - "$model" "$scratch/P-256.pem" "$scratch/shards.sig" <<'PY'
import sys, model_signing
config = model_signing.hashing.Config().use_shard_serialization()
model_signing.signing.Config().use_elliptic_key_signer(private_key=sys.argv[2]).set_hashing_config(config).sign(sys.argv[1], sys.argv[3])
PY
refused 3 "over shards of files" "shards" ours_verify "$model" "$scratch/P-256.pub" "$scratch/shards.sig"

echo "$good good, $refused refused, with model_signing $version and $(openssl version | cut -d' ' -f1,2)"
[ "$good" -ge 72 ] && [ "$refused" -ge 110 ]
