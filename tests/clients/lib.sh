# Sourced by each NAME.sh: a server of its own, a home of its own, checks that are counted.
#   begin NAME            a scratch folder, an empty HOME, a server on $S
#   check WHAT COMMAND... runs it in a shell of its own in which a failing command ends it; prints ok or not ok, and goes on
#   finish                the counts; fails when a check failed or none ran
# Within checks: $HOST, $USER_NAME, $PASSWORD; `same`, `refused`, `v2`, `status`, `digest_of`, `kill_during`.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$HERE/../.."
CACHE=${SECUREREG_CACHE:-$HOME/.cache/securereg}
export PATH="$CACHE/tools/bin:$PATH"
. "$HERE/server.sh"

passed=0 failed=0

begin() {
  CLIENT=$1
  W=$(mktemp -d "${TMPDIR:-/tmp}/securereg-$CLIENT.XXXXXX")
  S=$W/server
  trap clean_up EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  # What the clients keep of logins, caches and images is this run's own.
  export HOME=$W/home XDG_RUNTIME_DIR=$W/run XDG_CONFIG_HOME=$W/home/.config TMPDIR=$W/tmp
  export DOCKER_CONFIG=$W/home/.docker REGISTRY_AUTH_FILE=$W/home/auth.json REGCTL_CONFIG=$W/home/regctl.json
  unset REGISTRY_DIR BIND_ADDR http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
  mkdir -p "$HOME" "$XDG_RUNTIME_DIR" "$TMPDIR" "$DOCKER_CONFIG"
  # buildah insists that the file it is told of is there.
  echo '{}' >"$REGISTRY_AUTH_FILE"
  start_server "$S"
  python3 "$HERE/images.py" "$W/layout" >"$W/images.env"
  # AMD64, ARM64, INDEX, LAYER_AMD64 and so on: digests, and FILE_AMD64: what is in the layer.
  . "$W/images.env"
}

clean_up() {
  local code=$?
  kill_server "$S" 2>/dev/null || true
  if [ "$code" -ne 0 ] && [ -s "$S/log" ]; then
    echo "the end of the server's log:"
    tail -n 6 "$S/log" | cut -c1-300
  fi
  # A storage driver may have left a mount behind.
  awk -v below="$W/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | while read -r dir; do umount -l "$dir" || true; done
  rm -rf --one-file-system "$W"
}

check() {
  local what=$1 code
  shift
  : >"$W/note"
  set +e
  (set -euo pipefail; "$@") >"$W/out" 2>&1 </dev/null
  code=$?
  set -e
  if [ $code -eq 0 ]; then
    passed=$((passed + 1))
    echo "ok - $CLIENT: $what$(sed 's/^/ (/; s/$/)/' "$W/note" | tr -d '\n')"
  else
    failed=$((failed + 1))
    echo "not ok - $CLIENT: $what (exit $code)"
    tail -n 30 "$W/out" | sed 's/^/  | /'
  fi
}

# For the report's line.
note() { echo "$*" >>"$W/note"; }

finish() {
  echo "$CLIENT: $passed passed, $failed failed"
  [ $failed -eq 0 ] && [ $passed -gt 0 ]
}

fail() { echo "$*"; return 1; }

# same WANTED FOUND
same() { [ "$1" = "$2" ] || fail "wanted: $1"$'\n'"found:  $2"; }

# refused COMMAND...: it fails, and says that it is for want of the right to.
refused() {
  local code=0
  "$@" >"$W/refusal" 2>&1 || code=$?
  cat "$W/refusal"
  [ $code -ne 0 ] || fail "was not refused: $1 ended with 0"
  grep -qiE '401|unauthori[sz]ed|authentication required|invalid username/password|credential not found|denied' "$W/refusal" ||
    fail "it failed ($code), but not for its password"
}

# The raw protocol: v2 PATH [CURL OPTION...], the path with its /v2/ left out.
v2() {
  local path=$1
  shift
  curl -sS --max-time 60 -u "$USER_NAME:$PASSWORD" "$@" "http://$HOST/v2/$path"
}

# status PATH [CURL OPTION...]: the status code alone.
status() {
  local path=$1
  shift
  v2 "$path" -o /dev/null -w '%{http_code}' "$@"
}

ACCEPT=(-H 'Accept: application/vnd.oci.image.manifest.v1+json' -H 'Accept: application/vnd.oci.image.index.v1+json'
  -H 'Accept: application/vnd.docker.distribution.manifest.v2+json'
  -H 'Accept: application/vnd.docker.distribution.manifest.list.v2+json')

# digest_of REPOSITORY:TAG: what the registry says, held against the bytes that it gives.
digest_of() {
  local repo=${1%:*} tag=${1##*:} told bytes
  told=$(v2 "$repo/manifests/$tag" "${ACCEPT[@]}" -I | tr -d '\r' | sed -n 's/^docker-content-digest: *//Ip')
  bytes=sha256:$(v2 "$repo/manifests/$tag" "${ACCEPT[@]}" -f | sha256sum | cut -d' ' -f1)
  [ "$told" = "$bytes" ] || { echo "$1: the header says $told, the bytes are $bytes" >&2; return 1; }
  echo "$told"
}

# header NAME: of the response whose headers were dumped to $W/headers.
header() { tr -d '\r' <"$W/headers" | sed -n "s/^$1: *//Ip" | tail -n 1; }

# A tar layer in a layout of its own that takes long enough to be interrupted: made once for each use.
big_file() { head -c "${2:-268435456}" /dev/urandom >"$1"; }

# Kills the server, from the background, once it has written 8 MB: started before what is to be interrupted. Sets `watcher`.
watch_and_kill() {
  rm -f "$W/ready"
  python3 "$HERE/watch.py" "$S/pid" 8000000 "$W/ready" >"$W/watched" 2>&1 &
  watcher=$!
  while [ ! -e "$W/ready" ] && kill -0 "$watcher" 2>/dev/null; do sleep 0.01; done
}

# kill_during COMMAND...: runs it, kills the server once it has taken some of what it is sent, and starts it again on the
# same root. A client that tries again by itself may succeed; one that gives up is run once more, and must. Says which.
kill_during() {
  local client watcher code=0 outcome
  watch_and_kill
  "$@" &
  client=$!
  # A client that has ended will not write any more.
  while kill -0 "$watcher" 2>/dev/null && kill -0 "$client" 2>/dev/null; do sleep 0.05; done
  for _ in $(seq 40); do kill -0 "$watcher" 2>/dev/null || break; sleep 0.05; done
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" || { cat "$W/watched"; wait "$client" || true; fail "the server was not caught in mid-upload"; return 1; }
  # Whether the client was still at it.
  kill -0 "$client" 2>/dev/null && outcome=running || outcome=ended
  start_server "$S"
  wait "$client" || code=$?
  note "killed after the server wrote $(cat "$W/watched") bytes"
  if [ $code -eq 0 ]; then
    [ "$outcome" = running ] || fail "the client was done before the kill" || return 1
    note "it went on by itself"
  else
    note "it gave up, and succeeded when run again"
    "$@"
  fi
}
