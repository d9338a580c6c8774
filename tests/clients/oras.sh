#!/usr/bin/env bash
# oras: files, images and indexes pushed, pulled and copied; referrers attached and discovered, and copied along; tags; deletion.
. "$(dirname "$0")/lib.sh"
begin oras
R=$HOST/oras
H=(--plain-http)
O() { oras "$@" --plain-http; }

login() {
  refused oras login "${H[@]}" -u "$USER_NAME" -p wrong "$HOST"
  refused oras push "${H[@]}" -u "$USER_NAME" -p wrong "$R/files:never" --artifact-type application/vnd.test.files "$W/images.env:text/plain" --disable-path-validation
  DOCKER_CONFIG=$W/none refused oras repo tags "${H[@]}" "$R/files"
}
push_files() {
  mkdir "$W/files"
  head -c 3000000 /dev/urandom >"$W/files/weights.bin"
  echo '{"a":1}' >"$W/files/config.json"
  : >"$W/files/nothing"
  (cd "$W/files" && O push "$R/files:one" --artifact-type application/vnd.test.files weights.bin:application/octet-stream \
    config.json:application/vnd.test.config+json nothing:text/plain --annotation test=yes)
  digest_of oras/files:one
}
pull_files() {
  O pull "$R/files:one" -o "$W/pulled"
  diff -r "$W/files" "$W/pulled"
}
images() {
  oras cp --to-plain-http --from-oci-layout "$W/layout:amd64" "$R/app:amd64,also"
  same "$AMD64" "$(digest_of oras/app:also)"
  oras cp --to-plain-http --from-oci-layout "$W/layout:arm64" "$R/app:arm64"
  O manifest fetch "$R/app:amd64" | sha256sum | grep "^${AMD64#sha256:}" >/dev/null
  O blob fetch "$R/app@$LAYER_ARM64" --output - | cmp - "$W/layout/blobs/sha256/${LAYER_ARM64#sha256:}"
}
index() {
  O manifest index create "$R/app:multi" amd64 arm64
  digest_of oras/app:multi
  same "$AMD64" "$(O resolve --platform linux/amd64 "$R/app:multi")"
  same "$ARM64" "$(O resolve --platform linux/arm64 "$R/app:multi")"
  same arm64 "$(O manifest fetch-config --platform linux/arm64 "$R/app:multi" | jq -r .architecture)"
}
attach() {
  echo signature >"$W/signature"
  echo sbom >"$W/sbom"
  (cd "$W" && O attach "$R/app:amd64" --artifact-type application/vnd.test.signature signature:text/plain
    O attach "$R/app:amd64" --artifact-type application/vnd.test.sbom sbom:text/plain --annotation kind=sbom)
  O discover "$R/app:amd64" --distribution-spec v1.1-referrers-api --format json >"$W/found"
  same "application/vnd.test.sbom application/vnd.test.signature" "$(jq -r '[(.referrers // .manifests)[].artifactType] | sort | join(" ")' "$W/found")"
  O discover "$R/app:amd64" --distribution-spec v1.1-referrers-api --artifact-type application/vnd.test.sbom --format json >"$W/found"
  same 1 "$(jq '(.referrers // .manifests) | length' "$W/found")"
  # Of an attached one too: referrers have referrers.
  local of
  of=$(jq -r '(.referrers // .manifests)[0].digest' "$W/found")
  (cd "$W" && O attach "$R/app@$of" --artifact-type application/vnd.test.signature signature:text/plain)
  O discover "$R/app@$of" --distribution-spec v1.1-referrers-api --format json | jq -e '(.referrers // .manifests) | length == 1' >/dev/null
  # With the referrers API no client makes a fallback tag.
  same "" "$(O repo tags "$R/app" | sed -n '/^sha256-/p')"
  O pull "$R/app@$of" -o "$W/sbom-pulled"
  cmp "$W/sbom" "$W/sbom-pulled/sbom"
}
copy() {
  oras cp -r --from-plain-http --to-plain-http "$R/app:amd64" "$HOST/oras-copied/deep/er:amd64"
  same "$AMD64" "$(digest_of oras-copied/deep/er:amd64)"
  O discover "$HOST/oras-copied/deep/er:amd64" --distribution-spec v1.1-referrers-api --format json |
    jq -e '(.referrers // .manifests) | length == 2' >/dev/null
  oras cp --from-plain-http --to-plain-http "$R/app:multi" "$HOST/oras-copied/multi:multi"
  same "$(digest_of oras/app:multi)" "$(digest_of oras-copied/multi:multi)"
}
tags() {
  local tag
  for tag in zz b aa; do O tag "$R/app:amd64" "$tag"; done
  same "aa also amd64 arm64 b multi zz" "$(O repo tags "$R/app" | xargs)"
  same "multi zz" "$(O repo tags --last b "$R/app" | xargs)"
  O repo ls "$HOST" | grep -x oras/app >/dev/null
}
delete() {
  oras cp --to-plain-http --from-oci-layout "$W/layout:amd64" "$R/gone:amd64"
  O manifest delete --force "$R/gone:amd64"
  same 404 "$(status "oras/gone/manifests/$AMD64" "${ACCEPT[@]}")"
  O blob delete --force "$R/gone@$LAYER_AMD64"
  same 404 "$(status "oras/gone/blobs/$LAYER_AMD64" -I)"
  same 200 "$(status "oras/app/blobs/$LAYER_AMD64" -I)"
}
killed() {
  mkdir "$W/big" && cd "$W/big"
  head -c 268435456 /dev/urandom >big
  kill_during O push "$R/big:big" --artifact-type application/vnd.test.big big:application/octet-stream
  O pull "$R/big:big" -o "$W/big-pulled"
  cmp big "$W/big-pulled/big"
}

oras login "${H[@]}" -u "$USER_NAME" -p "$PASSWORD" "$HOST" 2>/dev/null
check "login with a wrong password fails, and so does all else" login
check "files of three kinds are pushed, an empty one too" push_files
check "and pulled, every byte" pull_files
check "images are pushed with their digests" images
check "an index is built of two platforms and resolved" index
check "referrers are attached and discovered, filtered, and have referrers" attach
check "a copy keeps every digest and takes the referrers along" copy
check "tags are listed, sorted, from any on" tags
check "a manifest and a blob are deleted from their repository only" delete
check "the server killed in mid-push and started again" killed
finish
