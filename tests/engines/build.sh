#!/usr/bin/env bash
# Builds, once, what run.sh needs, under ${SECUREREG_CACHE:-$HOME/.cache/securereg}:
#
#   llama-cpp-python-<version>/   wheel/*.whl   the Python package, compiled from its source package
#                                 lib/*.so      the shared libraries out of that wheel: for our loader
#                                 include/*.h   llama.cpp's headers, from the same source package
#                                 models/       its vocabularies (ggml-vocab-*.gguf) and chat templates: what inspection must pass
#   engines-venv-<key>/           a Python environment with requirements.txt installed
#
# Each folder is made beside its place and renamed when complete, so a build that was killed leaves no
# half cache. Prints the two folders' paths, one a line; everything else goes to stderr.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/requirements.txt
cache=$(realpath -m "${SECUREREG_CACHE:-$HOME/.cache/securereg}")
version=$(sed -n 's/^llama-cpp-python==//p' "$requirements")
engine=$cache/llama-cpp-python-$version
key=$({ cat "$requirements"; python3 --version; } | sha256sum | cut -c1-16)
venv=$cache/engines-venv-$key

mkdir -p "$cache"
# One builder at a time; whatever an earlier one left half-made is then nobody's, and goes.
exec 9>"$cache/engines.lock"
flock 9
rm -rf "$cache"/engines-tmp.*
tmp=$(mktemp -d "$cache/engines-tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# make_env DIR FILE [PIP OPTION...]: a fresh Python environment in DIR with the packages that FILE pins
make_env() {
    python3 -m venv "$1"
    "$1/bin/python" -m pip install -q --no-deps --only-binary :all: "${@:3}" -r "$2"
}

# The source package, unpacked: $src, and the PATH to build it with: $path.
fetch_source() {
    [ -z "${src:-}" ] || return 0
    grep -v '^llama-cpp-python==' "$requirements" > "$tmp/build-requirements.txt"
    make_env "$tmp/build-env" "$tmp/build-requirements.txt"
    path=$tmp/build-env/bin:$PATH

    PATH=$path pip download -q --no-deps --no-build-isolation --no-binary llama-cpp-python \
        -d "$tmp/sdist" "llama-cpp-python==$version"
    tar -xzf "$tmp"/sdist/*.tar.gz -C "$tmp/sdist"
    src=$(echo "$tmp"/sdist/*/)
}

take_models() {
    fetch_source
    mkdir "$tmp/models"
    cp "$src"/vendor/llama.cpp/models/ggml-vocab-*.gguf "$tmp/models/"
    cp -r "$src/vendor/llama.cpp/models/templates" "$tmp/models/templates"
    mv "$tmp/models" "$engine/models"
}

build_engine() {
    local out=$tmp/engine
    fetch_source

    # llama.cpp's `common` (its command-line helpers) is compiled even when nothing needs it, and is half
    # of the build. The package forces it on, so a -D cannot turn it off.
    sed -i 's/LLAMA_BUILD_COMMON ON CACHE/LLAMA_BUILD_COMMON OFF CACHE/' "$src/CMakeLists.txt"

    # GGML_NATIVE=OFF: the cache may be carried to a machine with another processor.
    PATH=$path nice -n 10 env CMAKE_BUILD_PARALLEL_LEVEL="${SECUREREG_BUILD_JOBS:-2}" \
        CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF \
            -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF" \
        pip wheel -q --no-deps --no-build-isolation -w "$out/wheel" "$src"

    mkdir -p "$out/include"
    cp "$src"/vendor/llama.cpp/include/llama.h "$src"/vendor/llama.cpp/ggml/include/ggml*.h \
        "$src"/vendor/llama.cpp/ggml/include/gguf.h "$out/include/"
    python3 -m zipfile -e "$out"/wheel/*.whl "$tmp/unpacked"
    mv "$tmp/unpacked/llama_cpp/lib" "$out/lib"
    mv "$out" "$engine"
}

if [ ! -d "$engine" ]; then
    echo "compiling llama-cpp-python $version, once (about five minutes on two cores)" >&2
    build_engine >&2
fi
if [ ! -d "$engine/models" ]; then
    take_models >&2
fi
if [ ! -x "$venv/bin/python" ]; then  # a link to the Python it was made with, which may be gone
    rm -rf "$venv"
    make_env "$tmp/venv" "$requirements" --find-links "$engine/wheel" >&2
    mv "$tmp/venv" "$venv"   # only bin/python is used, which does not mind being moved
fi
echo "$engine"
echo "$venv"
