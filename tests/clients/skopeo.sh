#!/usr/bin/env bash
# skopeo: images and indexes pushed, read, copied with their digests, listed and deleted; the server killed under it.
. "$(dirname "$0")/lib.sh"
begin skopeo

creds() { printf -- '--%s-tls-verify=false\n--%s-creds=%s:%s\n' "$1" "$1" "$USER_NAME" "${2:-$PASSWORD}"; }
copy() { skopeo --insecure-policy copy --quiet --preserve-digests "$@"; }
mapfile -t FROM < <(creds src)
mapfile -t TO < <(creds dest)
AT=(--tls-verify=false --creds "$USER_NAME:$PASSWORD")
R=docker://$HOST/skopeo

push() {
  copy "${TO[@]}" "oci:$W/layout:amd64" "$R/app:amd64"
  same "$AMD64" "$(digest_of skopeo/app:amd64)"
  same "$AMD64" "$(skopeo inspect "${AT[@]}" --format '{{.Digest}}' "$R/app:amd64")"
}
pull() {
  copy "${FROM[@]}" "$R/app@$AMD64" "dir:$W/pulled"
  same "${AMD64#sha256:}" "$(sha256sum <"$W/pulled/manifest.json" | cut -d' ' -f1)"
  tar -xzOf "$W/pulled/${LAYER_AMD64#sha256:}" which | grep -xF "$FILE_AMD64" >/dev/null
}
index() {
  copy --all "${TO[@]}" "oci:$W/layout:index" "$R/app:multi"
  same "$INDEX" "$(digest_of skopeo/app:multi)"
  local arch
  for arch in amd64 arm64; do
    same "$arch" "$(skopeo --override-arch "$arch" inspect "${AT[@]}" --format '{{.Architecture}}' "$R/app:multi")"
  done
  # The default policy of one instance: the platform is chosen by the client, out of the registry's index.
  skopeo --insecure-policy --override-arch arm64 copy --quiet "${FROM[@]}" "$R/app:multi" "dir:$W/arm64"
  same "${ARM64#sha256:}" "$(sha256sum <"$W/arm64/manifest.json" | cut -d' ' -f1)"
}
between() {
  copy --all "${FROM[@]}" "${TO[@]}" "$R/app:multi" "$R/copied/deeper:multi"
  same "$INDEX" "$(digest_of skopeo/copied/deeper:multi)"
  same "$ARM64" "$(v2 "skopeo/copied/deeper/manifests/$ARM64" "${ACCEPT[@]}" -f | sha256sum | sed 's/^\([0-9a-f]*\).*/sha256:\1/')"
}
docker_schema() {
  skopeo --insecure-policy copy --quiet --format v2s2 "${TO[@]}" "oci:$W/layout:amd64" "$R/app:schema2"
  skopeo inspect --raw "${AT[@]}" "$R/app:schema2" | grep 'vnd.docker.distribution.manifest.v2+json' >/dev/null
  digest_of skopeo/app:schema2
}
tags() {
  same "amd64 multi schema2" "$(skopeo list-tags "${AT[@]}" "$R/app" | jq -r '.Tags | join(" ")')"
}
delete() {
  copy "${TO[@]}" "oci:$W/layout:arm64" "$R/gone:arm64"
  skopeo delete "${AT[@]}" "$R/gone:arm64"
  same 404 "$(status "skopeo/gone/manifests/arm64" "${ACCEPT[@]}")"
  same 404 "$(status "skopeo/gone/manifests/$ARM64" "${ACCEPT[@]}")"
  # Other repositories keep theirs.
  same 200 "$(status "skopeo/app/manifests/$ARM64" "${ACCEPT[@]}")"
}
wrong_password() {
  local wrong
  mapfile -t wrong < <(creds dest wrong)
  refused copy "${wrong[@]}" "oci:$W/layout:amd64" "$R/app:never"
  refused skopeo inspect --tls-verify=false --creds "$USER_NAME:wrong" "$R/app:amd64"
  refused skopeo inspect --tls-verify=false "$R/app:amd64"
  refused skopeo list-tags --tls-verify=false --creds "$USER_NAME:wrong" "$R/app"
  same 404 "$(status skopeo/app/manifests/never "${ACCEPT[@]}")"
}
login() {
  refused skopeo login --tls-verify=false -u "$USER_NAME" -p wrong "$HOST"
  skopeo login --tls-verify=false -u "$USER_NAME" -p "$PASSWORD" "$HOST"
  skopeo inspect --tls-verify=false "$R/app:amd64" >/dev/null
  skopeo logout "$HOST"
}
killed() {
  python3 "$HERE/images.py" "$W/big" --big 268435456 >"$W/big.env"
  . "$W/big.env"
  kill_during copy "${TO[@]}" "oci:$W/big:big" "$R/big:big"
  same "$BIG" "$(digest_of skopeo/big:big)"
  copy "${FROM[@]}" "$R/big:big" "dir:$W/big-pulled"
  cmp "$W/big-pulled/${LAYER_BIG#sha256:}" "$W/big/blobs/sha256/${LAYER_BIG#sha256:}"
}

check "an image is pushed with its digest" push
check "and pulled by digest, every byte" pull
check "an index is pushed whole and resolved by platform" index
check "a copy between repositories keeps every digest" between
check "Docker schema 2 is kept as it is" docker_schema
check "tags are listed" tags
check "a deleted image is gone from its repository only" delete
check "a wrong password or none is refused" wrong_password
check "login with a wrong password fails, with the right one works" login
check "the server killed in mid-push and started again" killed
finish
