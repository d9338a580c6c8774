#!/usr/bin/env bash
# Models pushed with oras under each family's types: judged, promoted, shown in the mount under <repository>/<tag>/<file>, byte for byte.
# Hostile ones: the push succeeds, nobody is given them, the mount never shows them. Needs a server that knows models.
. "$(dirname "$0")/lib.sh"
[ "$SERVER" = securereg ] || { echo "models.sh: $SERVER knows no models"; exit 1; }
begin models
BIN=$(realpath "${SECUREREG_BIN:-${CARGO_TARGET_DIR:-target}/release/securereg}")
DATA=$(pwd)/tests/data
M=$W/mnt
mkdir "$M" "$W/files"
cp "$DATA/tiny-llama.gguf" "$W/files/"
oras login --plain-http -u "$USER_NAME" -p "$PASSWORD" "$HOST" >/dev/null 2>&1
# Ended by clean_up: the mount goes with its process.
"$BIN" mount --root "$S/root" "$M" </dev/null >"$W/mount.log" 2>&1 &
MOUNT_PID=$!
trap 'kill "$MOUNT_PID" 2>/dev/null; wait "$MOUNT_PID" 2>/dev/null; clean_up' EXIT
for _ in $(seq 100); do grep -qF " $M " /proc/self/mounts && break; sleep 0.1; done
grep -qF " $M " /proc/self/mounts || { cat "$W/mount.log"; echo "models: the mount did not come up"; exit 1; }

# until COMMAND...: within ten seconds.
until_true() {
  for _ in $(seq 200); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.05; done
  "$@"
}
api() { curl -sS --max-time 30 -H "Authorization: Bearer $(cat "$S/root/tokens/read.token")" "http://$HOST/v1/$1"; }
status_of() { api "model?name=$1" | jq -r '.status // "none"'; }
is_status() { same "$2" "$(status_of "$1")"; }
is_listed() { api models | jq -e --arg n "$1" 'any(.[]; .name == $n and .status == "promoted")' >/dev/null; }
# As who may only pull.
pull() { DOCKER_CONFIG=$W/nobody oras pull --plain-http -u reader -p "$PULL_PASSWORD" "$HOST/$1" -o "$2"; }

# admitted REPOSITORY:TAG FILE SOURCE: promoted, listed, in the mount and to be pulled.
admitted() {
  local at=$M/${1%:*}/${1##*:}/$2
  until_true is_status "$1" promoted
  until_true is_listed "$1"
  until_true test -f "$at"
  cmp "$at" "$3"
  pull "$1" "$W/pulled-${1//[\/:]/-}"
}
# The gate: not promoted, not in the mount, not given; the reason is told.
refused_model() {
  until_true is_status "$1" quarantined
  [ ! -e "$M/${1%:*}/${1##*:}" ] || fail "the mount shows $1"
  if pull "$1" "$W/never" >"$W/refusal" 2>&1; then fail "$1 was given to who may only pull"; fi
  cat "$W/refusal"
  local digest
  digest=$(v2 "${1%:*}/manifests/${1##*:}" -u "any:$(cat "$S/root/tokens/admin.token")" "${ACCEPT[@]}" -f | sha256sum | cut -d' ' -f1)
  if pull "${1%:*}@sha256:$digest" "$W/never" >"$W/refusal" 2>&1; then fail "$1 was given by its digest"; fi
  [ -z "$(ls -A "$W/never" 2>/dev/null)" ] || fail "bytes of $1 were given: $(ls "$W/never")"
  # Whoever looks is told why, three ways.
  api "model?name=$1" | jq -e '.quarantine.reason // .reason // .findings | length > 0'
  "$BIN" audit --root "$S/root" | grep -F "$1" >/dev/null || fail "the audit log says nothing of $1"
  v2 "${1%:*}/referrers/sha256:$digest" -u "any:$(cat "$S/root/tokens/admin.token")" -f |
    jq -e '[.manifests[] | select(.artifactType | test("securereg"))] | length == 1' >/dev/null ||
    fail "no referrer says why $1 was refused"
}

push() { (cd "$W/files" && oras push --plain-http "$HOST/$1" "${@:2}"); }
hanzo_types() { push "$1" --artifact-type application/vnd.hanzo.model.v1 "$2:application/vnd.hanzo.gguf" "${@:3}"; }

hanzo() {
  echo '{"architectures":["LlamaForCausalLM"],"model_type":"llama"}' >"$W/files/config.json"
  hanzo_types models/hanzo:one tiny-llama.gguf config.json:application/json
  admitted models/hanzo:one tiny-llama.gguf "$DATA/tiny-llama.gguf"
  cmp "$M/models/hanzo/one/config.json" "$W/files/config.json"
}
modelpack() {
  echo '{"descriptor":{"name":"tiny"},"modelfs":{"type":"layers","diffIds":[]},"config":{"format":"gguf"}}' >"$W/files/pack.json"
  echo '{"tiny-llama.gguf":{"org.cncf.model.filepath":"tiny-llama.gguf"}}' >"$W/annotations.json"
  push models/pack:one --artifact-type application/vnd.cncf.model.manifest.v1+json --annotation-file "$W/annotations.json" \
    --config pack.json:application/vnd.cncf.model.config.v1+json tiny-llama.gguf:application/vnd.cncf.model.weight.v1.raw
  admitted models/pack:one tiny-llama.gguf "$DATA/tiny-llama.gguf"
}
modelpack_tar() {
  tar -C "$W/files" --owner=0 --group=0 -cf "$W/files/weights.tar" tiny-llama.gguf
  tar -C "$W/files" --owner=0 --group=0 -czf "$W/files/docs.tar.gz" config.json
  echo '{"weights.tar":{"org.cncf.model.filepath":"tiny-llama.gguf"},"docs.tar.gz":{"org.cncf.model.filepath":"config.json"}}' >"$W/annotations.json"
  push models/pack:tar --artifact-type application/vnd.cncf.model.manifest.v1+json --annotation-file "$W/annotations.json" \
    --config pack.json:application/vnd.cncf.model.config.v1+json weights.tar:application/vnd.cncf.model.weight.v1.tar \
    docs.tar.gz:application/vnd.cncf.model.weight.config.v1.tar+gzip
  admitted models/pack:tar tiny-llama.gguf "$DATA/tiny-llama.gguf"
  cmp "$M/models/pack/tar/config.json" "$W/files/config.json"
}
docker() {
  echo '{"config":{"format":"gguf","architecture":"llama"},"descriptor":{},"rootfs":{"type":"rootfs","diff_ids":[]}}' >"$W/files/docker.json"
  push models/docker:one --config docker.json:application/vnd.docker.ai.model.config.v0.1+json tiny-llama.gguf:application/vnd.docker.ai.gguf.v3
  admitted models/docker:one tiny-llama.gguf "$DATA/tiny-llama.gguf"
}
one_copy() {
  # Each of the models above holds the same bytes.
  local digest
  digest=$(sha256sum <"$DATA/tiny-llama.gguf" | cut -d' ' -f1)
  same 1 "$(find "$S/root" -type f -size +1000k -exec sha256sum {} + | awk -v d="$digest" '$1 == d' | wc -l)"
}
hostile() {
  local file name tried=0
  for file in g05_ver4 g10_nkv_max g25_dup_tensor g41_overlap g45_tpl_ssti x02_html; do
    cp "$DATA/hostile/$file.gguf" "$W/files/"
    name=models/${file//_/-}:one
    hanzo_types "$name" "$file.gguf"
    refused_model "$name"
    tried=$((tried + 1))
  done
  note "$tried pushed"
}
hostile_pickle() {
  cp "$DATA/hostile/p10_torch.pt" "$W/files/"
  push models/pickle:one --artifact-type application/vnd.hanzo.model.v1 p10_torch.pt:application/vnd.hanzo.pytorch
  refused_model models/pickle:one
  # What it claims to be changes nothing.
  push models/claims:one --artifact-type application/vnd.hanzo.model.v1 p10_torch.pt:application/vnd.hanzo.gguf
  refused_model models/claims:one
  # Nor that it is pushed once more, to another tag.
  push models/pickle:two --artifact-type application/vnd.hanzo.model.v1 p10_torch.pt:application/vnd.hanzo.gguf
  refused_model models/pickle:two
}
# A model that is put right is pushed to where the refused one is, most of its files the same.
put_right() {
  cp "$DATA/hostile/g41_overlap.gguf" "$W/files/model.gguf"
  hanzo_types models/righted:one model.gguf config.json:application/json
  refused_model models/righted:one
  cp "$DATA/tiny-llama.gguf" "$W/files/model.gguf"
  hanzo_types models/righted:two model.gguf config.json:application/json
  admitted models/righted:two model.gguf "$DATA/tiny-llama.gguf"
  hanzo_types models/righted:one model.gguf config.json:application/json
  admitted models/righted:one model.gguf "$DATA/tiny-llama.gguf"
}
hostile_names() {
  echo '{"tiny-llama.gguf":{"org.cncf.model.filepath":"../../../../escaped.gguf"}}' >"$W/annotations.json"
  push models/escape:one --artifact-type application/vnd.cncf.model.manifest.v1+json --annotation-file "$W/annotations.json" \
    --config pack.json:application/vnd.cncf.model.config.v1+json tiny-llama.gguf:application/vnd.cncf.model.weight.v1.raw
  refused_model models/escape:one
  same "" "$(find "$W" -name 'escaped.gguf')"
}
# A tag moves only to what was admitted; whoever has the old file open keeps it.
moved() {
  local at=$M/models/moved/one/tiny-llama.gguf new=$W/other.gguf
  hanzo_types models/moved:one tiny-llama.gguf
  admitted models/moved:one tiny-llama.gguf "$DATA/tiny-llama.gguf"
  exec 7<"$at"
  sed 's/tiny-random-llama/tiny-random-other/' "$DATA/tiny-llama.gguf" >"$new"
  (mkdir "$W/new" && cd "$W/new" && cp "$new" tiny-llama.gguf &&
    oras push --plain-http "$HOST/models/moved:one" --artifact-type application/vnd.hanzo.model.v1 tiny-llama.gguf:application/vnd.hanzo.gguf)
  until_true cmp "$at" "$new"
  # Not by its path, which would be an open.
  cat <&7 | cmp - "$DATA/tiny-llama.gguf"
  exec 7<&-
  # To a hostile one it does not move what is mounted.
  (cd "$W/new" && cp "$DATA/hostile/g41_overlap.gguf" tiny-llama.gguf &&
    oras push --plain-http "$HOST/models/moved:one" --artifact-type application/vnd.hanzo.model.v1 tiny-llama.gguf:application/vnd.hanzo.gguf)
  cmp "$at" "$new"
  if pull models/moved:one "$W/never" >"$W/refusal" 2>&1; then fail "the hostile one was given"; fi
}
no_models() {
  push models/plain:json --artifact-type application/vnd.test.settings config.json:application/json
  oras cp --to-plain-http --from-oci-layout "$W/layout:amd64" "$HOST/models/image:one"
  pull models/plain:json "$W/plain"
  api models | jq -e 'any(.[]; .name | test("models/(plain|image)")) | not' >/dev/null
}
restarted() {
  stop_server "$S"
  start_server "$S"
  admitted models/hanzo:one tiny-llama.gguf "$DATA/tiny-llama.gguf"
  refused_model models/g41-overlap:one
}
verified() { "$BIN" verify --all --root "$S/root"; "$BIN" audit --verify --root "$S/root"; }

check "Hanzo types: judged, promoted, mounted" hanzo
check "ModelPack types: the same" modelpack
check "ModelPack in tar layers: unpacked" modelpack_tar
check "Docker's types: the same" docker
check "all of them are one copy on the disk" one_copy
check "hostile GGUF: the push succeeds, nobody is given it, it is never mounted" hostile
check "hostile pickles: the same, whatever they claim to be" hostile_pickle
check "a refused model put right takes its place, with the files they share" put_right
check "a path that leads out of the model: the same" hostile_names
check "a tag moves what is mounted, for new opens, to admitted content only" moved
check "what is no model is served without a verdict" no_models
check "after a restart all of it stands" restarted
check "everything verifies, and so does the audit log" verified
finish
