#!/usr/bin/env bash
# regctl: images and indexes copied in and out, built and resolved; artifacts with subjects; tags in pages; deletion of tags alone.
. "$(dirname "$0")/lib.sh"
begin regctl
R=$HOST/regctl

login() {
  # It asks the registry, is refused for want of a login, and keeps the setting all the same.
  regctl registry set --tls disabled "$HOST" || true
  refused regctl registry login -u "$USER_NAME" -p wrong "$HOST"
  refused regctl image copy "ocidir://$W/layout:amd64" "$R/app:never"
  REGCTL_CONFIG=$W/none.json refused regctl tag ls --host "reg=$HOST,tls=disabled" "$R/app"
}
push() {
  local tag
  for tag in amd64 arm64; do regctl image copy "ocidir://$W/layout:$tag" "$R/app:$tag"; done
  same "$AMD64" "$(digest_of regctl/app:amd64)"
  same "$ARM64" "$(regctl image digest "$R/app:arm64")"
}
pull() {
  regctl image copy "$R/app@$AMD64" "ocidir://$W/pulled:amd64"
  cmp "$W/pulled/blobs/sha256/${LAYER_AMD64#sha256:}" "$W/layout/blobs/sha256/${LAYER_AMD64#sha256:}"
  regctl image get-file "$R/app:arm64" which | grep -xF "$FILE_ARM64" >/dev/null
  regctl blob get "$R/app" "$LAYER_AMD64" | cmp - "$W/layout/blobs/sha256/${LAYER_AMD64#sha256:}"
}
index() {
  regctl index create "$R/app:multi" --ref "$R/app:amd64" --ref "$R/app:arm64"
  same "$AMD64" "$(regctl image digest --platform linux/amd64 "$R/app:multi")"
  same "$ARM64" "$(regctl image digest --platform linux/arm64 "$R/app:multi")"
  regctl index add "$R/app:multi" --ref "$R/app:arm64" --desc-annotation which=again
  regctl manifest get --format raw-body "$R/app:multi" | jq -e '.manifests | length == 3' >/dev/null
}
copy() {
  regctl image copy "$R/app:multi" "$HOST/regctl-copied/app:multi"
  same "$(regctl image digest "$R/app:multi")" "$(digest_of regctl-copied/app:multi)"
  same "$ARM64" "$(regctl image digest --platform linux/arm64 "$HOST/regctl-copied/app:multi")"
}
artifacts() {
  echo hello | regctl artifact put --artifact-type application/vnd.test.note --subject "$R/app:amd64" --annotation n=1
  echo again | regctl artifact put --artifact-type application/vnd.test.other --subject "$R/app:amd64"
  same 2 "$(regctl artifact list "$R/app:amd64" --format '{{json .Descriptors}}' | jq length)"
  same 1 "$(regctl artifact list "$R/app:amd64" --filter-artifact-type application/vnd.test.note --format '{{json .Descriptors}}' | jq length)"
  same hello "$(regctl artifact get --subject "$R/app:amd64" --filter-artifact-type application/vnd.test.note)"
  # With their referrers.
  regctl image copy --referrers "$R/app:amd64" "$HOST/regctl-copied/refs:amd64"
  same 2 "$(regctl artifact list "$HOST/regctl-copied/refs:amd64" --format '{{json .Descriptors}}' | jq length)"
  # The API is there: no fallback tag was made.
  same "" "$(regctl tag ls "$R/app" | sed -n '/^sha256-/p')"
}
tags() {
  local tag
  for tag in d c b a; do regctl image copy "$R/app:amd64" "$R/tags:$tag"; done
  same "a b c d" "$(regctl tag ls "$R/tags" | xargs)"
  same "a b" "$(regctl tag ls --limit 2 "$R/tags" | xargs)"
  same "c d" "$(regctl tag ls --limit 2 --last b "$R/tags" | xargs)"
  regctl repo ls "$HOST" | grep -x regctl/tags >/dev/null
}
delete() {
  regctl tag delete "$R/tags:c"
  same "a b d" "$(regctl tag ls "$R/tags" | xargs)"
  same "$AMD64" "$(digest_of regctl/tags:a)"
  regctl manifest delete --force-tag-dereference "$R/tags:a"
  same 404 "$(status "regctl/tags/manifests/$AMD64" "${ACCEPT[@]}")"
  same "" "$(regctl tag ls "$R/tags" | xargs)"
  same "$AMD64" "$(digest_of regctl/app:amd64)"
}
killed() {
  python3 "$HERE/images.py" "$W/big" --big 268435456 >"$W/big.env"
  . "$W/big.env"
  kill_during regctl image copy "ocidir://$W/big:big" "$R/big:big"
  same "$BIG" "$(digest_of regctl/big:big)"
  regctl blob get "$R/big" "$LAYER_BIG" | cmp - "$W/big/blobs/sha256/${LAYER_BIG#sha256:}"
}

check "login with a wrong password fails, and so does all else" login
check "login with the right one works" regctl registry login -u "$USER_NAME" -p "$PASSWORD" "$HOST"
check "images are pushed with their digests" push
check "and pulled, every byte" pull
check "an index is built of two platforms, changed and resolved" index
check "a copy keeps every digest" copy
check "artifacts about an image are put, found, filtered and copied along" artifacts
check "tags are listed in pages" tags
check "a tag is deleted alone, an image with its tags" delete
check "the server killed in mid-push and started again" killed
finish
