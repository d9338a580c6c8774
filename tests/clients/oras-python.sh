#!/usr/bin/env bash
# The Python client, by oras_python.py: files pushed whole and in chunks, pulled and copied, an index resolved, tags in pages,
# referrers, deletion, and the server killed under it.
. "$(dirname "$0")/lib.sh"
begin oras-python
mkdir "$W/files"

run() { oras-python -B "$HERE/oras_python.py" "$1" "$HOST" "$USER_NAME" "$PASSWORD" "$W/files"; }
wrong_password() {
  local step
  for step in push pull tags referrers; do
    refused oras-python -B "$HERE/oras_python.py" $step "$HOST" "$USER_NAME" wrong "$W/files"
  done
}
killed() {
  big_file "$W/files/big" 268435456
  kill_during run big
}

check "files are pushed, whole and in chunks, their digests those of their bytes" run push
check "and pulled by tag and digest, every byte" run pull
check "an index is built of two platforms and resolved" run index
check "a copy keeps the digest" run copy
check "tags are listed in pages" run tags
check "a referrer is attached, discovered and pulled" run referrers
check "an image is deleted with its tags, from its repository only" run delete
check "a wrong password is refused" wrong_password
check "the server killed in mid-push and started again" killed
finish
