#!/usr/bin/env bash
# podman: login, images built from nothing for two platforms, pushed, pulled by platform and digest; an index; tags searched; the
# server killed under it. Nothing is run: no engine, no network.
. "$(dirname "$0")/lib.sh"
. "$HERE/containers.sh"
[ "$(id -u)" -eq 0 ] || { echo "podman is run as root here"; exit 1; }
begin podman
storage
R=$HOST/podman
p() { podman --storage-driver vfs "$@"; }

wrong_password() {
  refused p login --tls-verify=false -u "$USER_NAME" -p wrong "$HOST"
  refused p login --tls-verify=false -u nobody -p wrong "$HOST"
  # Not kept either.
  refused p push --tls-verify=false localhost/built:amd64 "$R/app:never"
  refused p pull --tls-verify=false --creds "$USER_NAME:wrong" "$R/app:amd64"
  same 404 "$(status podman/app/manifests/never "${ACCEPT[@]}")"
}
login() {
  p login --tls-verify=false -u "$USER_NAME" -p "$PASSWORD" "$HOST"
  same "$USER_NAME" "$(p login --get-login "$HOST")"
}
build() {
  local arch
  printf 'FROM scratch\nCOPY which /which\nLABEL made=here\n' >"$W/Containerfile"
  for arch in amd64 arm64; do
    p build --quiet --platform "linux/$arch" -f "$W/Containerfile" -t "localhost/built:$arch" "$W/context/$arch"
  done
}
push() {
  local arch
  for arch in amd64 arm64; do
    p push --tls-verify=false --digestfile "$W/$arch.digest" "localhost/built:$arch" "$R/app:$arch"
    same "$(cat "$W/$arch.digest")" "$(digest_of "podman/app:$arch")"
  done
}
index() {
  p manifest create localhost/multi
  p manifest add --tls-verify=false localhost/multi "docker://$R/app:amd64"
  p manifest add --tls-verify=false localhost/multi "docker://$R/app:arm64"
  p manifest push --tls-verify=false --all localhost/multi "docker://$R/app:multi"
  digest_of podman/app:multi
  v2 podman/app/manifests/multi "${ACCEPT[@]}" -f | jq -e '[.manifests[].platform.architecture] | sort == ["amd64", "arm64"]' >/dev/null
}
pull() {
  p rmi --all --force
  local arch
  for arch in amd64 arm64; do
    p pull --tls-verify=false --platform "linux/$arch" "$R/app:multi"
    same "$arch" "$(p image inspect --format '{{.Architecture}}' "$R/app:multi")"
    same "built for $arch" "$(cat "$(p image mount "$R/app:multi")/which")"
    p image unmount "$R/app:multi"
    p rmi --force "$R/app:multi"
  done
  p pull --tls-verify=false "$R/app@$(cat "$W/arm64.digest")"
}
tags() {
  same "amd64 arm64 multi" "$(p search --tls-verify=false --list-tags --no-trunc "$R/app" | awk 'NR > 1 { print $2 }' | xargs)"
}
copy() {
  p pull --tls-verify=false "$R/app:amd64"
  p tag "$R/app:amd64" "$HOST/podman-copied/deep/er:amd64"
  p push --tls-verify=false --digestfile "$W/copied.digest" "$HOST/podman-copied/deep/er:amd64"
  same "$(cat "$W/amd64.digest")" "$(digest_of podman-copied/deep/er:amd64)"
}
killed() {
  head -c 201326592 /dev/urandom >"$W/context/big"
  printf 'FROM scratch\nCOPY big /big\n' >"$W/Containerfile.big"
  p build --quiet -f "$W/Containerfile.big" -t localhost/big "$W/context"
  kill_during p push --tls-verify=false localhost/big "$R/big:big"
  digest_of podman/big:big
  p rmi localhost/big
  p pull --tls-verify=false "$R/big:big"
  cmp "$W/context/big" "$(p image mount "$R/big:big")/big"
}
logout() {
  p logout "$HOST"
  refused p pull --tls-verify=false "$R/app:arm64"
}

check "images are built from nothing for two platforms" build
check "login with a wrong password fails, and so does all else" wrong_password
check "login with the right one works" login
check "images are pushed with their digests" push
check "an index of both is pushed" index
check "and pulled by platform and by digest" pull
check "tags are listed" tags
check "an image pulled, tagged and pushed elsewhere keeps its digest" copy
check "the server killed in mid-push and started again" killed
check "after logout nothing is given" logout
finish
