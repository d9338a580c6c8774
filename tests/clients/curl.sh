#!/usr/bin/env bash
# The raw protocol by curl, for what the clients do by themselves or not at all: an upload resumed after a kill, pages,
# referrers, refusals.
. "$(dirname "$0")/lib.sh"
begin curl

# The path and query of the last Location, whatever host it names.
location() { header location | sed 's#^https\?://[^/]*##'; }
at() { curl -sS --max-time 60 -u "$USER_NAME:$PASSWORD" "$@"; }
# upload REPOSITORY FILE: in one PUT; prints the digest.
upload() {
  local digest where
  digest=sha256:$(sha256sum <"$2" | cut -d' ' -f1)
  v2 "$1/blobs/uploads/" -X POST -D "$W/headers" -o /dev/null
  where=$(location)
  case $where in *\?*) where+="&digest=$digest" ;; *) where+="?digest=$digest" ;; esac
  same 201 "$(at -o /dev/null -w '%{http_code}' -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "http://$HOST$where")" >&2
  echo "$digest"
}
# An artifact's manifest: of a type, about a subject. The empty config is uploaded before.
EMPTY=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
artifact() {
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"%s",' "$1"
  printf '"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2},"layers":[' "$EMPTY"
  printf '{"mediaType":"application/vnd.oci.empty.v1+json","digest":"%s","size":2}]%s,"annotations":{"n":"%s"}}' "$EMPTY" "$2" "$3"
}
put_manifest() {
  v2 "$1/manifests/$2" -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$3" -o "$W/body" -D "$W/headers" -w '%{http_code}'
}

# resume CHUNK: POST, PATCH of a half, kill, start, GET status, PATCH of the rest, PUT.
resume() {
  local kind=$1 half=41943040 digest where got
  head -c $((half * 2)) /dev/urandom >"$W/whole"
  head -c $half "$W/whole" >"$W/first"
  tail -c $half "$W/whole" >"$W/second"
  digest=sha256:$(sha256sum <"$W/whole" | cut -d' ' -f1)
  v2 curl/resumed/blobs/uploads/ -X POST -D "$W/headers" -o /dev/null
  where=$(location)
  if [ "$kind" = chunked ]; then
    same 202 "$(at -D "$W/headers" -o /dev/null -w '%{http_code}' -X PATCH -H 'Content-Type: application/octet-stream' \
      -H "Content-Range: 0-$((half - 1))" --data-binary "@$W/first" "http://$HOST$where")"
    same "0-$((half - 1))" "$(header range)"
    where=$(location)
    kill_server "$S"
  else
    # The connection is broken in the middle of the PATCH by the death of the server.
    local watcher
    watch_and_kill
    if at -o /dev/null -X PATCH -H 'Content-Type: application/octet-stream' -H 'Transfer-Encoding: chunked' -H 'Expect:' \
      --limit-rate 60M -T "$W/whole" "http://$HOST$where"; then
      fail "the PATCH succeeded although the server was killed"
    fi
    wait "$watcher" || fail "$(cat "$W/watched")"
  fi
  start_server "$S"
  # Nothing of an upload that was not finished is there.
  same 404 "$(status "curl/resumed/blobs/$digest" -I)"
  same 204 "$(at -D "$W/headers" -o /dev/null -w '%{http_code}' "http://$HOST$where")"
  got=$(header range)
  got=${got#*-}
  # What was acknowledged is all there; of what was not, whatever the server says is there.
  if [ "$kind" = chunked ]; then
    same $((half - 1)) "$got"
  else
    [ "$got" -ge 0 ]
    [ "$got" -lt $((half * 2)) ]
  fi
  [ -z "$(header location)" ] || where=$(location)
  # A chunk that does not begin where the upload stands is refused with the place where it stands, and changes nothing.
  same 416 "$(at -D "$W/headers" -o /dev/null -w '%{http_code}' -X PATCH -H 'Content-Type: application/octet-stream' \
    -H "Content-Range: $((got + 2))-$((got + 3))" --data-binary xx "http://$HOST$where")"
  tail -c +$((got + 2)) "$W/whole" >"$W/rest"
  same 202 "$(at -D "$W/headers" -o /dev/null -w '%{http_code}' -X PATCH -H 'Content-Type: application/octet-stream' \
    -H "Content-Range: $((got + 1))-$((half * 2 - 1))" --data-binary "@$W/rest" "http://$HOST$where")"
  where=$(location)
  case $where in *\?*) where+="&digest=$digest" ;; *) where+="?digest=$digest" ;; esac
  same 201 "$(at -o /dev/null -w '%{http_code}' -X PUT -H 'Content-Length: 0' "http://$HOST$where")"
  v2 "curl/resumed/blobs/$digest" -f | cmp - "$W/whole"
  note "resumed at $((got + 1)) of $((half * 2))"
}

finished_survives() {
  local digest
  head -c 5000000 /dev/urandom >"$W/kept"
  digest=$(upload curl/kept "$W/kept")
  printf '{}' >"$W/empty"
  same "$EMPTY" "$(upload curl/kept "$W/empty")"
  artifact application/vnd.test.kept "" 1 >"$W/manifest"
  same 201 "$(put_manifest curl/kept kept "$W/manifest")"
  # An acknowledgement is a promise: killed in the next moment, all of it is there.
  kill_server "$S"
  start_server "$S"
  v2 "curl/kept/blobs/$digest" -f | cmp - "$W/kept"
  v2 curl/kept/manifests/kept "${ACCEPT[@]}" -f | cmp - "$W/manifest"
}
wrong_digest() {
  local where
  v2 curl/wrong/blobs/uploads/ -X POST -D "$W/headers" -o /dev/null
  where=$(location)
  case $where in *\?*) where+="&digest=$EMPTY" ;; *) where+="?digest=$EMPTY" ;; esac
  same 400 "$(at -o "$W/body" -w '%{http_code}' -X PUT --data-binary 'not it' -H 'Content-Type: application/octet-stream' "http://$HOST$where")"
  grep -q DIGEST_INVALID "$W/body"
  same 404 "$(status "curl/wrong/blobs/$EMPTY" -I)"
}
tag_pages() {
  printf '{}' >"$W/empty"
  upload curl/tags "$W/empty"
  artifact application/vnd.test.tagged "" 1 >"$W/manifest"
  local tag next seen="" pages=0
  # Not in order.
  for tag in e d c b a B A 1 _under; do same 201 "$(put_manifest curl/tags "$tag" "$W/manifest")"; done
  next="/v2/curl/tags/tags/list?n=2"
  while [ -n "$next" ]; do
    at -f -D "$W/headers" -o "$W/body" "http://$HOST$next"
    seen+="$(jq -r '.tags | join(" ")' "$W/body") "
    pages=$((pages + 1))
    [ "$pages" -lt 20 ] || fail "pages without end"
    next=$(header link | sed -n 's/^<\([^>]*\)>; *rel="\?next"\?.*/\1/p' | sed 's#^https\?://[^/]*##')
  done
  same "1 A B _under a b c d e " "$seen"
  note "$pages pages"
  same "c d e" "$(v2 'curl/tags/tags/list?last=b' -f | jq -r '.tags | join(" ")')"
  same "[]" "$(v2 'curl/tags/tags/list?n=0' -f -D "$W/headers" | jq -c .tags)"
  same "" "$(header link)"
  v2 '_catalog?n=1000' -f | jq -e '.repositories | index("curl/tags")' >/dev/null
}
referrers() {
  local subject size
  printf '{}' >"$W/empty"
  upload curl/refs "$W/empty"
  same "[]" "$(v2 "curl/refs/referrers/$AMD64" -f | jq -c .manifests)"
  artifact application/vnd.test.subject "" 1 >"$W/subject"
  subject=sha256:$(sha256sum <"$W/subject" | cut -d' ' -f1)
  size=$(stat -c %s "$W/subject")
  local about=",\"subject\":{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$subject\",\"size\":$size}" kind
  for kind in a b; do
    artifact "application/vnd.test.$kind" "$about" "$kind" >"$W/ref"
    # Before the subject is there.
    same 201 "$(put_manifest curl/refs "sha256:$(sha256sum <"$W/ref" | cut -d' ' -f1)" "$W/ref")"
    same "$subject" "$(header oci-subject)"
  done
  same 201 "$(put_manifest curl/refs subject "$W/subject")"
  same '["application/vnd.test.a","application/vnd.test.b"]' "$(v2 "curl/refs/referrers/$subject" -f | jq -c '[.manifests[].artifactType] | sort')"
  same '["b"]' "$(v2 "curl/refs/referrers/$subject?artifactType=application%2Fvnd.test.b" -f -D "$W/headers" | jq -c '[.manifests[].annotations.n]')"
  same artifactType "$(header oci-filters-applied)"
  # One that is deleted is listed no more.
  same 202 "$(status "curl/refs/manifests/sha256:$(sha256sum <"$W/ref" | cut -d' ' -f1)" -X DELETE)"
  same '["application/vnd.test.a"]' "$(v2 "curl/refs/referrers/$subject" -f | jq -c '[.manifests[].artifactType]')"
}
ranges() {
  local digest from
  head -c 1000000 /dev/urandom >"$W/ranged"
  digest=$(upload curl/ranges "$W/ranged")
  for from in 0 1 65535 65536 999999; do
    v2 "curl/ranges/blobs/$digest" -f -r "$from-" | cmp - <(tail -c +$((from + 1)) "$W/ranged")
  done
  v2 "curl/ranges/blobs/$digest" -f -r -100 | cmp - <(tail -c 100 "$W/ranged")
  v2 "curl/ranges/blobs/$digest" -f -r 65530-65545 | cmp - <(tail -c +65531 "$W/ranged" | head -c 16)
  same 206 "$(status "curl/ranges/blobs/$digest" -r 0-0)"
  same 416 "$(status "curl/ranges/blobs/$digest" -r 1000000-)"
}
mount_blob() {
  local digest
  head -c 100000 /dev/urandom >"$W/shared"
  digest=$(upload curl/source "$W/shared")
  same 404 "$(status "curl/target/blobs/$digest" -I)"
  same 201 "$(status "curl/target/blobs/uploads/?mount=$digest&from=curl/source" -X POST -H 'Content-Length: 0')"
  v2 "curl/target/blobs/$digest" -f | cmp - "$W/shared"
  same 202 "$(status "curl/target/blobs/$digest" -X DELETE)"
  same 404 "$(status "curl/target/blobs/$digest" -I)"
  same 200 "$(status "curl/source/blobs/$digest" -I)"
}
wrong_password() {
  local method path
  for method in GET HEAD; do
    for path in "" _catalog curl/tags/tags/list curl/tags/manifests/a "curl/kept/blobs/$EMPTY" none/such/tags/list; do
      local head=()
      [ $method = GET ] || head=(-I)
      same 401 "$(curl -sS -o "$W/body" -D "$W/headers" -w '%{http_code}' -u "$USER_NAME:wrong" "${head[@]}" "http://$HOST/v2/$path")"
      [ -n "$(header www-authenticate)" ] || fail "401 without a challenge: $path"
      same 401 "$(curl -sS -o /dev/null -w '%{http_code}' "${head[@]}" "http://$HOST/v2/$path")"
    done
  done
  curl -sS -u "$USER_NAME:wrong" "http://$HOST/v2/" | jq -e '.errors[0].code == "UNAUTHORIZED"' >/dev/null
  for path in curl/tags/blobs/uploads/ curl/tags/manifests/a; do
    same 401 "$(curl -sS -o /dev/null -w '%{http_code}' -X POST -u "$USER_NAME:wrong" "http://$HOST/v2/${path/manifests\/a/blobs\/uploads\/}")"
    same 401 "$(curl -sS -o /dev/null -w '%{http_code}' -X DELETE -u "$USER_NAME:wrong" "http://$HOST/v2/curl/tags/manifests/a")"
  done
  same 200 "$(status "")"
  same 200 "$(status curl/tags/manifests/a "${ACCEPT[@]}")"
}
pull_only() {
  [ -n "$PULL_PASSWORD" ] || { note "this server has no such user"; return 0; }
  local path
  reader() { curl -sS -o /dev/null -w '%{http_code}' -u "reader:$PULL_PASSWORD" "$@"; }
  same 200 "$(reader "${ACCEPT[@]}" "http://$HOST/v2/curl/tags/manifests/a")"
  same 403 "$(reader -X POST -H 'Content-Length: 0' "http://$HOST/v2/curl/tags/blobs/uploads/")"
  same 403 "$(reader -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$W/manifest" "http://$HOST/v2/curl/tags/manifests/x")"
  same 403 "$(reader -X DELETE "http://$HOST/v2/curl/tags/manifests/a")"
  same 200 "$(status curl/tags/manifests/a "${ACCEPT[@]}")"
}

check "an upload in chunks goes on after a kill where its last acknowledgement was" resume chunked
check "an upload killed in the middle of one stream goes on where the server says" resume streamed
check "what was acknowledged is there after a kill" finished_survives
check "a digest that is not the bytes' is refused and nothing is kept" wrong_digest
check "tags come in pages, sorted, each once" tag_pages
check "referrers are there before their subject, filtered, and gone when deleted" referrers
check "ranges of a blob" ranges
check "a blob is mounted from another repository and deleted from one" mount_blob
check "a wrong password or none is 401 with a challenge, everywhere" wrong_password
check "who may only pull changes nothing" pull_only
finish
