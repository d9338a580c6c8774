#!/usr/bin/env bash
# One very large layer pushed as a stream and pulled again, and how much memory the server had resident at its highest.
#   tests/clients/layer.sh [GIB [MIB]]     20 GiB, and at most 64 MiB; run by hand, see .ci/long layer
. "$(dirname "$0")/lib.sh"
gib=${1:-20} most=${2:-64}
begin layer

# The same bytes each time, faster than any server takes them.
bytes() { openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 00 2>/dev/null </dev/zero | head -c $((gib << 30)) || true; }
rate() { echo "$(((gib << 10) / ($1 > 0 ? $1 : 1))) MiB/s"; }
peak() { note "the server's peak: $(($(server_peak) / 1024)) MiB"; }
location() { header location | sed 's#^https\?://[^/]*##'; }

push() {
  local where started=$SECONDS
  v2 layer/blobs/uploads/ -X POST -D "$W/headers" -o /dev/null
  where=$(location)
  # The digest of what is sent, while it is sent.
  mkfifo "$W/copy"
  openssl dgst -sha256 -r <"$W/copy" >"$W/sum" &
  local sum=$!
  same 202 "$(bytes | tee "$W/copy" | curl -sS -u "$USER_NAME:$PASSWORD" -D "$W/headers" -o /dev/null -w '%{http_code}' -X PATCH -T - \
    -H 'Expect:' -H 'Content-Type: application/octet-stream' "http://$HOST$where")"
  wait "$sum"
  where=$(location)
  same 201 "$(curl -sS -u "$USER_NAME:$PASSWORD" -o /dev/null -w '%{http_code}' -X PUT -H 'Content-Length: 0' \
    "http://$HOST$where$(case $where in *\?*) printf '&' ;; *) printf '?' ;; esac)digest=sha256:$(cut -d' ' -f1 "$W/sum")")"
  note "$gib GiB in $((SECONDS - started)) s, $(rate $((SECONDS - started)))"
  peak
}
manifest() {
  local digest config
  digest=sha256:$(cut -d' ' -f1 "$W/sum")
  printf '{}' >"$W/config"
  config=sha256:$(sha256sum <"$W/config" | cut -d' ' -f1)
  v2 layer/blobs/uploads/ -X POST -D "$W/headers" -o /dev/null
  local where
  where=$(location)
  curl -sSf -u "$USER_NAME:$PASSWORD" -o /dev/null -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$W/config" \
    "http://$HOST$where$(case $where in *\?*) printf '&' ;; *) printf '?' ;; esac)digest=$config"
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}' \
    "$config" "$digest" $((gib << 30)) >"$W/manifest"
  same 201 "$(status layer/manifests/large -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$W/manifest")"
}
pull() {
  local started=$SECONDS digest
  digest=$(cut -d' ' -f1 "$W/sum")
  same "$digest" "$(curl -sSf -u "$USER_NAME:$PASSWORD" "http://$HOST/v2/layer/blobs/sha256:$digest" | openssl dgst -sha256 -r | cut -d' ' -f1)"
  note "in $((SECONDS - started)) s, $(rate $((SECONDS - started)))"
  peak
}
# From the middle on, as a pull that was interrupted goes on.
rest() {
  local digest half=$((gib << 29))
  digest=$(cut -d' ' -f1 "$W/sum")
  same "$(bytes | tail -c "$half" | openssl dgst -sha256 -r)" \
    "$(curl -sSf -u "$USER_NAME:$PASSWORD" -r "$half-" "http://$HOST/v2/layer/blobs/sha256:$digest" | openssl dgst -sha256 -r)"
}
memory() {
  local peak
  peak=$(server_peak)
  note "$((peak / 1024)) MiB of $most MiB"
  [ "$peak" -le $((most * 1024)) ]
}

check "a layer of $gib GiB is pushed as one stream" push
check "and is part of an image" manifest
check "and pulled, every byte" pull
check "and pulled from its middle on" rest
check "the server's memory, at its highest" memory
finish
