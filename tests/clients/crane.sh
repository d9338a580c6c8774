#!/usr/bin/env bash
# crane: images and indexes pushed, pulled, copied and built; a thousand tags in pages; deletion; the server killed under it.
. "$(dirname "$0")/lib.sh"
begin crane
R=$HOST/crane

login() {
  local wrong=$W/wrong
  mkdir "$wrong"
  # crane's login only writes the file: the first request is what is refused.
  DOCKER_CONFIG=$wrong crane auth login -u "$USER_NAME" -p wrong "$HOST"
  DOCKER_CONFIG=$wrong refused crane push "$W/layout-amd64" "$R/app:never"
  DOCKER_CONFIG=$wrong refused crane ls "$R/app"
  DOCKER_CONFIG=$W/none refused crane digest "$R/app:never"
  crane auth login -u "$USER_NAME" -p "$PASSWORD" "$HOST"
}
# crane takes the whole of a layout: one of a single image.
single() {
  local tag=$1 digest=$2 out=$W/layout-$1
  cp -r "$W/layout" "$out"
  jq -c --arg d "$digest" '.manifests |= map(select(.digest == $d)) | .manifests |= .[:1]' "$W/layout/index.json" >"$out/index.json"
}
push() {
  crane push "$W/layout-amd64" "$R/app:amd64"
  crane push "$W/layout-arm64" "$R/app:arm64"
  same "$AMD64" "$(digest_of crane/app:amd64)"
  same "$AMD64" "$(crane digest "$R/app:amd64")"
}
pull() {
  crane pull --format=oci "$R/app@$AMD64" "$W/pulled"
  cmp "$W/pulled/blobs/sha256/${LAYER_AMD64#sha256:}" "$W/layout/blobs/sha256/${LAYER_AMD64#sha256:}"
  crane export "$R/app:arm64" - | tar -xO which | grep -xF "$FILE_ARM64" >/dev/null
  crane validate --remote "$R/app:amd64"
  crane blob "$R/app@$LAYER_AMD64" | cmp - "$W/layout/blobs/sha256/${LAYER_AMD64#sha256:}"
}
index() {
  crane index append -m "$R/app:amd64" -m "$R/app:arm64" -t "$R/app:multi"
  digest_of crane/app:multi
  same "$AMD64" "$(crane digest --platform linux/amd64 "$R/app:multi")"
  same "$ARM64" "$(crane digest --platform linux/arm64 "$R/app:multi")"
  crane export --platform linux/arm64 "$R/app:multi" - | tar -xO which | grep -xF "$FILE_ARM64" >/dev/null
}
copy() {
  crane copy "$R/app:multi" "$HOST/crane-copied/app:multi"
  same "$(crane digest "$R/app:multi")" "$(digest_of crane-copied/app:multi)"
  same "$ARM64" "$(crane digest --platform linux/arm64 "$HOST/crane-copied/app:multi")"
}
append() {
  tar -C "$W" -cf "$W/layer.tar" images.env
  crane append --oci-empty-base --platform linux/amd64 -f "$W/layer.tar" -t "$R/made:one"
  crane mutate --set-platform linux/arm64 -l a=b "$R/made:one" -t "$R/made:two"
  same arm64 "$(crane config "$R/made:two" | jq -r .architecture)"
  crane tag "$R/made:two" three
  same "one three two" "$(crane ls "$R/made" | xargs)"
}
# crane asks for pages of 1000.
tags() {
  crane manifest "$R/app:amd64" >"$W/manifest"
  v2 'crane/app/manifests/t[1001-2105]' -f -o /dev/null -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
    -X PUT --data-binary "@$W/manifest"
  crane ls "$R/app" >"$W/tags"
  same 1108 "$(sort -u "$W/tags" | wc -l)"
  same 1108 "$(wc -l <"$W/tags")"
  LC_ALL=C sort -c "$W/tags"
  crane catalog "$HOST" | grep -x crane/app >/dev/null
}
delete() {
  crane delete "$R/made:three"
  same "one two" "$(crane ls "$R/made" | xargs)"
  local digest
  digest=$(crane digest "$R/made:one")
  crane delete "$R/made@$digest"
  same two "$(crane ls "$R/made" | xargs)"
  same 404 "$(status "crane/made/manifests/$digest" "${ACCEPT[@]}")"
}
killed() {
  python3 "$HERE/images.py" "$W/big" --big 268435456 >"$W/big.env"
  . "$W/big.env"
  kill_during crane push "$W/big" "$R/big:big"
  same "$BIG" "$(digest_of crane/big:big)"
  crane blob "$R/big@$LAYER_BIG" | cmp - "$W/big/blobs/sha256/${LAYER_BIG#sha256:}"
}

single amd64 "$AMD64"
single arm64 "$ARM64"
check "a wrong password or none is refused" login
check "images are pushed with their digests" push
check "and pulled, every byte" pull
check "an index is built of two platforms and resolved" index
check "a copy keeps every digest" copy
check "an image is built on the registry, changed, tagged and listed" append
check "1108 tags come in pages, each once and sorted" tags
check "a tag is deleted alone, an image with its tags" delete
check "the server killed in mid-push and started again" killed
finish
