#!/usr/bin/env bash
# The Python binding in a virtual environment of its own: installs it, then its tests, mypy --strict and the example.
#   ci.sh DIR           DIR is a scratch folder: everything is made below it, nothing in the clone
#   SECUREREG_LIBRARY   a libsecurereg.so to bundle, instead of one that cargo builds
#   PYTHON              the Python to use (default: python3)
# Runs as root or as a plain user, also one that may only read the clone. It fails when nothing ran.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
scratch=${1:?usage: ci.sh DIR}
mkdir -p "$scratch"
scratch=$(cd "$scratch" && pwd)
python=${PYTHON:-python3}
venv="$scratch/venv"

# Whoever runs this may have neither a home nor a configuration of pip's to write to.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_CACHE_DIR="${PIP_CACHE_DIR:-$scratch/pip}"
export PYTHONDONTWRITEBYTECODE=1 TMPDIR="$scratch/tmp"
unset PYTHONPATH PYTHONHOME PYTHONWARNINGS PYTEST_ADDOPTS MYPYPATH REGISTRY_DIR
mkdir -p "$TMPDIR"

passed=0 failed=0
# step NAME COMMAND...
step() {
  local name=$1 started=$SECONDS status=0
  shift
  printf '\n=== python: %s\n' "$name"
  "$@" || status=$?
  if [ $status -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  printf -- '--- python: %s: %s in %d s\n' "$name" "$([ $status -eq 0 ] && echo passed || echo "FAILED ($status)")" $((SECONDS - started))
}

environment() {
  rm -rf "$venv"
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    # Debian has it in a package of its own, for its own Python.
    [ "$(id -u)" -eq 0 ] || { echo "$python cannot make virtual environments: install python3-venv first"; return 1; }
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv || return
  fi
  "$python" -m venv "$venv" &&
    "$venv/bin/pip" install --quiet --no-deps --requirement "$here/requirements-ci.txt"
}

# As a user does it: with the build tools that pyproject.toml names, in an environment that pip makes.
install() {
  "$venv/bin/pip" install --quiet --no-deps --force-reinstall "$here" &&
    (cd "$scratch" && "$venv/bin/python" -c 'import securereg; print("securereg", securereg.__version__, "from", securereg.__file__)')
}

tests() {
  "$venv/bin/python" -m pytest --rootdir "$here" -c "$here/pyproject.toml" -p no:cacheprovider -q \
    --junitxml "$scratch/tests.xml" "$here/tests" || return
  local ran
  ran=$("$venv/bin/python" - "$scratch/tests.xml" <<'PY'
import sys, xml.etree.ElementTree as tree
suite = tree.parse(sys.argv[1]).getroot().find("testsuite")
print(int(suite.get("tests")) - int(suite.get("skipped")))
PY
  ) || return
  echo "$ran tests ran"
  [ "$ran" -ge 100 ] || { echo "too few"; return 1; }
}

types() {
  # From its folder: the files are named in pyproject.toml. The installed package is what the tests and the example see.
  local shown
  shown=$(cd "$here" && "$venv/bin/mypy" --strict --cache-dir "$scratch/mypy" 2>&1) || { echo "$shown"; return 1; }
  echo "$shown"
  grep -Eq 'no issues found in [0-9]{2,} source files' <<<"$shown"
}

example() {
  local shown
  shown=$(cd "$scratch" && "$venv/bin/python" -W error "$here/../../examples/python/safetensors_numpy.py") || return
  echo "$shown"
  grep -q '^checksum ' <<<"$shown"
}

step "environment" environment
[ $failed -eq 0 ] && step "install" install
if [ $failed -eq 0 ]; then
  step "tests" tests
  step "mypy --strict" types
  step "example" example
fi
printf '\npython: %d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -eq 5 ]
