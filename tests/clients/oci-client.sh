#!/usr/bin/env bash
# oci-client, by a program of ours (oci-client/): images pushed, pulled and copied, an index resolved, tags in pages, referrers, a blob
# in chunks with the server killed under it. It cannot delete.
. "$(dirname "$0")/lib.sh"
begin oci-client

run() { oci-client-check "$1" "$HOST" "$USER_NAME" "$PASSWORD" "${@:2}"; }
wrong_password() {
  local step
  for step in push pull tags referrers; do refused oci-client-check $step "$HOST" "$USER_NAME" wrong; done
}
killed() {
  big_file "$W/big" 134217728
  kill_during run stream "$W/big"
  v2 "oci-client/big/blobs/sha256:$(sha256sum <"$W/big" | cut -d' ' -f1)" -f | cmp - "$W/big"
}

check "images are pushed, their digests those of their bytes" run push
check "and pulled by tag and digest, every byte, and in part" run pull
check "an index is built of two platforms and resolved" run index
check "a copy by mounts keeps the digest" run copy
check "tags are listed in pages" run tags
check "referrers are attached and discovered, filtered" run referrers
check "a wrong password is refused" wrong_password
check "the server killed in mid-upload and started again" killed
finish
