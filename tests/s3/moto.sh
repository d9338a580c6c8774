# Sourced, not run: moto, a server of S3 from the Python index, of its pinned version.
#   start_moto DIR BUCKET   starts it with a bucket; its log is in DIR. Sets MOTO (http://127.0.0.1:PORT) and MOTO_PID.
#   stop_moto               and it has ended; nothing when it was not started
MOTO_VERSION=5.2.5
MOTO_PID=

start_moto() {
  local dir=$1 bucket=$2 venv
  venv="${SECUREREG_CACHE:-$HOME/.cache/securereg}/moto-$MOTO_VERSION"
  if ! "$venv/bin/python3" -c "import moto.server" >/dev/null 2>&1; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "moto[server]==$MOTO_VERSION"
  fi
  # Port 0 is one that is free; the server says which.
  TMPDIR="$dir" "$venv/bin/python3" tests/s3/serve.py >"$dir/moto.log" 2>&1 &
  MOTO_PID=$!
  MOTO=
  for _ in $(seq 300); do
    MOTO=$(sed -n 's/^.*Running on \(http:\/\/127\.0\.0\.1:[0-9]*\).*$/\1/p' "$dir/moto.log" | head -n 1)
    [ -z "$MOTO" ] || break
    kill -0 "$MOTO_PID" 2>/dev/null || break
    sleep 0.1
  done
  [ -n "$MOTO" ] || { cat "$dir/moto.log"; echo "moto does not say where it listens"; return 1; }
  curl --silent --show-error --fail -X PUT "$MOTO/$bucket" >/dev/null
}

stop_moto() {
  [ -n "$MOTO_PID" ] || return 0
  kill "$MOTO_PID" 2>/dev/null || true
  wait "$MOTO_PID" 2>/dev/null || true
  MOTO_PID=
}
