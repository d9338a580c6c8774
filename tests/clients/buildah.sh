#!/usr/bin/env bash
# buildah: images built from nothing for two platforms, pushed, pulled by platform and digest; an index; the server killed under it.
. "$(dirname "$0")/lib.sh"
. "$HERE/containers.sh"
[ "$(id -u)" -eq 0 ] || { echo "buildah is run as root here"; exit 1; }
begin buildah
storage
R=$HOST/buildah
b() { buildah --storage-driver vfs "$@"; }

wrong_password() {
  refused b login --tls-verify=false -u "$USER_NAME" -p wrong "$HOST"
  refused b push --tls-verify=false --creds "$USER_NAME:wrong" localhost/built:amd64 "docker://$R/app:never"
  refused b push --tls-verify=false localhost/built:amd64 "docker://$R/app:never"
  refused b pull --tls-verify=false --creds "$USER_NAME:wrong" "docker://$R/app:amd64"
  same 404 "$(status buildah/app/manifests/never "${ACCEPT[@]}")"
  b login --tls-verify=false -u "$USER_NAME" -p "$PASSWORD" "$HOST"
}
build() {
  local arch container
  for arch in amd64 arm64; do
    container=$(b from --arch "$arch" scratch)
    b copy "$container" "$W/context/$arch/which" /which
    b config --arch "$arch" --os linux --label made=here "$container"
    b commit --format oci "$container" "localhost/built:$arch"
    b rm "$container"
  done
}
push() {
  local arch
  for arch in amd64 arm64; do
    b push --tls-verify=false --digestfile "$W/$arch.digest" "localhost/built:$arch" "docker://$R/app:$arch"
    same "$(cat "$W/$arch.digest")" "$(digest_of "buildah/app:$arch")"
  done
  # The same once more uploads nothing and changes nothing.
  b push --tls-verify=false --digestfile "$W/again.digest" localhost/built:amd64 "docker://$R/app:again"
  same "$(cat "$W/amd64.digest")" "$(cat "$W/again.digest")"
}
schema2() {
  b push --tls-verify=false --format v2s2 localhost/built:amd64 "docker://$R/app:schema2"
  v2 buildah/app/manifests/schema2 "${ACCEPT[@]}" -f | jq -e '.mediaType == "application/vnd.docker.distribution.manifest.v2+json"' >/dev/null
  digest_of buildah/app:schema2
}
index() {
  b manifest create localhost/multi
  b manifest add --tls-verify=false localhost/multi "docker://$R/app:amd64"
  b manifest add --tls-verify=false localhost/multi "docker://$R/app:arm64"
  b manifest push --tls-verify=false --all --digestfile "$W/multi.digest" localhost/multi "docker://$R/app:multi"
  same "$(cat "$W/multi.digest")" "$(digest_of buildah/app:multi)"
  v2 buildah/app/manifests/multi "${ACCEPT[@]}" -f | jq -e '[.manifests[].platform.architecture] | sort == ["amd64", "arm64"]' >/dev/null
}
# which_of IMAGE WANTED: what its one file holds.
which_of() {
  local container
  container=$(b from --pull-never "$1")
  same "$2" "$(cat "$(b mount "$container")/which")"
  b umount "$container"
  b rm "$container"
}
pull() {
  b rmi --all --force
  local arch
  for arch in amd64 arm64; do
    b pull --tls-verify=false --arch "$arch" "docker://$R/app:multi"
    which_of "$R/app:multi" "built for $arch"
    b rmi --force "$R/app:multi"
  done
  b pull --tls-verify=false "docker://$R/app@$(cat "$W/arm64.digest")"
  which_of "$R/app@$(cat "$W/arm64.digest")" "built for arm64"
}
killed() {
  local container
  head -c 201326592 /dev/urandom >"$W/big"
  container=$(b from scratch)
  b copy "$container" "$W/big" /big
  b commit --format oci "$container" localhost/big
  b rm "$container"
  kill_during b push --tls-verify=false --disable-compression localhost/big "docker://$R/big:big"
  digest_of buildah/big:big
  b rmi localhost/big
  b pull --tls-verify=false "docker://$R/big:big"
  container=$(b from --pull-never "$R/big:big")
  cmp "$W/big" "$(b mount "$container")/big"
}

check "images are built from nothing for two platforms" build
check "a wrong password or none is refused, the right one works" wrong_password
check "images are pushed with their digests" push
check "Docker schema 2 is kept as it is" schema2
check "an index of both is pushed" index
check "and pulled by platform and by digest" pull
check "the server killed in mid-push and started again" killed
finish
