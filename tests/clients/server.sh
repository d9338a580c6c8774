# Sourced, not run: the one place that knows how a registry is started. What it gives, to whoever judges one from outside:
#   start_server DIR      starts it on the root below DIR, made when it is not there: again after a stop or a kill, on the same
#                         port, with what it kept. Sets HOST (127.0.0.1:PORT), USER_NAME and PASSWORD (may pull, push and
#                         delete), PULL_PASSWORD (may only pull; empty where the server knows no such thing), SERVER_PID.
#   stop_server DIR       SIGTERM, and it has ended
#   kill_server DIR       SIGKILL, and it has ended
# SERVER says which: securereg (the default), or one to try the scripts against, and to stand beside it in benchmarks: distribution,
# debian. With PEER_OPEN=1 those two ask for no password: theirs costs them more time than most requests take.
# Needs SECUREREG_BIN (default: the release build). What the file SERVER_CONFIG says is added to registry.yaml: another storage, say.

SERVER=${SERVER:-securereg}
USER_NAME=tester
# What the peers' password file below was made of.
PEER_PASSWORD=correct-horse
PEER_HTPASSWD='tester:$2y$05$sBZAsaJ6Kd6vIm7XNkzYquvALoNOU6GB4DXoixaLCn3SLZtSZTLTi'

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# When the process started, so that a number that was given to another one meanwhile is not taken for it; empty when it is gone.
started_at() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  stat=${stat##*) }
  [ "${stat%% *}" = Z ] || awk '{ print $20 }' <<<"$stat"
}

server_runs() {
  local pid started
  { read -r pid started <"$1/pid"; } 2>/dev/null || return 1
  [ -n "$started" ] && [ "$(started_at "$pid")" = "$started" ]
}

# The files that a first start finds.
server_setup() {
  local dir=$1 token
  mkdir -p "$dir/root" "$dir/config"
  free_port >"$dir/port"
  case $SERVER in
    securereg)
      for token in all pull; do
        (umask 077 && head -c 32 /dev/urandom | base64 | tr -d '/+=\n' >"$dir/config/$token.token")
      done
      cat >"$dir/config/registry.yaml" <<YAML
access:
  - { name: tester, token_file: "$dir/config/all.token", repositories: ["**"], rights: [pull, push, delete] }
  - { name: reader, token_file: "$dir/config/pull.token", repositories: ["**"], rights: [pull] }
YAML
      [ -z "${SERVER_CONFIG:-}" ] || cat "$SERVER_CONFIG" >>"$dir/config/registry.yaml"
      ;;
    distribution | debian)
      echo "$PEER_HTPASSWD" >"$dir/config/htpasswd"
      cat >"$dir/config/config.yml" <<YAML
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: "$dir/root" }, delete: { enabled: true } }
http: { addr: "127.0.0.1:$(cat "$dir/port")", secret: for-resumed-uploads }
YAML
      [ -n "${PEER_OPEN:-}" ] || echo "auth: { htpasswd: { realm: test, path: \"$dir/config/htpasswd\" } }" >>"$dir/config/config.yml"
      ;;
    *) echo "SERVER=$SERVER: securereg, distribution or debian" >&2; return 1 ;;
  esac
}

start_server() {
  local dir=$1 port command
  [ -f "$dir/port" ] || server_setup "$dir" || return 1
  port=$(cat "$dir/port")
  HOST=127.0.0.1:$port
  case $SERVER in
    securereg)
      PASSWORD=$(cat "$dir/config/all.token")
      PULL_PASSWORD=$(cat "$dir/config/pull.token")
      command=("${SECUREREG_BIN:-${CARGO_TARGET_DIR:-target}/release/securereg}" serve --root "$dir/root" --listen "$HOST"
        --config "$dir/config/registry.yaml")
      ;;
    distribution) PASSWORD=$PEER_PASSWORD PULL_PASSWORD="" command=(registry serve "$dir/config/config.yml") ;;
    debian) PASSWORD=$PEER_PASSWORD PULL_PASSWORD="" command=(docker-registry serve "$dir/config/config.yml") ;;
  esac
  # It outlives the shell that starts it, and holds none of that shell's files: a check in a subshell may restart it.
  # Distribution takes REGISTRY_* for its own settings, and exports traces unless told not to.
  env -u REGISTRY_AUTH_FILE OTEL_TRACES_EXPORTER=none "${command[@]}" </dev/null >>"$dir/log" 2>&1 8>&- 9>&- &
  SERVER_PID=$!
  disown "$SERVER_PID"
  echo "$SERVER_PID $(started_at "$SERVER_PID")" >"$dir/pid"
  local tries
  for tries in $(seq 200); do
    if curl -s -o /dev/null --max-time 5 "http://$HOST/v2/"; then return 0; fi
    server_runs "$dir" || break
    sleep 0.05
  done
  echo "$SERVER does not answer on $HOST after $tries tries; the end of its log:" >&2
  tail -n 20 "$dir/log" >&2
  return 1
}

end_server() {
  local dir=$1 signal=$2 pid started
  server_runs "$dir" || { rm -f "$dir/pid"; return 0; }
  read -r pid started <"$dir/pid"
  kill -s "$signal" "$pid"
  for _ in $(seq 500); do
    server_runs "$dir" || { rm -f "$dir/pid"; return 0; }
    sleep 0.02
  done
  echo "the server (process $pid) did not end on SIG$signal; killed" >&2
  kill -s KILL "$pid"
  rm -f "$dir/pid"
  return 1
}

stop_server() { end_server "$1" TERM; }
kill_server() { end_server "$1" KILL; }

# The most memory that it has had resident, in KiB.
server_peak() { awk '/^VmHWM:/ { print $2 }' "/proc/$SERVER_PID/status"; }
