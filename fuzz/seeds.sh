#!/usr/bin/env bash
# Fills fuzz/corpus/ with seeds: the test data, hostile and good, and a few small files made here.
#   fuzz/seeds.sh     what is there already stays
set -euo pipefail
cd "$(dirname "$0")"
. ./limits.sh
data=../tests/data
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# put TARGET FILE...: those that are there and not over 64 KiB, by the digest of their bytes.
put() {
  local name=$1 file
  shift
  mkdir -p "corpus/$name"
  for file in "$@"; do
    [ -f "$file" ] && [ "$(stat -c %s "$file")" -le 65536 ] || continue
    cp "$file" "corpus/$name/$(sha1sum <"$file" | cut -c1-40)"
  done
}

# made TARGET BYTES: as printf has them.
made() {
  mkdir -p "corpus/$1"
  # shellcheck disable=SC2059
  printf "$2" >"corpus/$1/made-$(printf '%s' "$2" | sha1sum | cut -c1-16)"
}

for name in $(targets); do
  case $name in
    gguf) put gguf $data/hostile/g*.gguf $data/gguf/*.gguf $data/*.gguf $data/split/*.gguf ;;
    safetensors) put safetensors $data/hostile/s*.safetensors ;;
    pickle) python3 -B seeds.py "$scratch"; put pickle "$scratch"/*.pkl $data/hostile/p*.pkl $data/hostile/s21* ; made pickle '\200\002}q\000X\001\000\000\000aK\001s.' ;;
    door) put door ../tests/data/hostile/[gksopx]* ;;
    zip | torch)
      python3 -B seeds.py "$scratch"
      put "$name" "$scratch"/*.pt
      put "$name" $data/hostile/p1*.pt $data/hostile/p2*.pt $data/hostile/*.keras $data/hostile/p*.pkl
      ;;
    signature) put signature $data/signing/*.sig $data/signing/*.pub $data/signing/*.pem ;;
    tar)
      printf 'a' >"${TMPDIR:-/tmp}/fuzz-seed-$$"
      tar -C "${TMPDIR:-/tmp}" --format=ustar -cf - "fuzz-seed-$$" | head -c 2048 >"${TMPDIR:-/tmp}/fuzz-seed-$$.tar"
      put tar "${TMPDIR:-/tmp}/fuzz-seed-$$.tar"
      rm -f "${TMPDIR:-/tmp}/fuzz-seed-$$" "${TMPDIR:-/tmp}/fuzz-seed-$$.tar"
      ;;
    template)
      made template '{%% for m in messages %%}{{ m.role + m["content"] | trim }}{%% endfor %%}'
      made template '{%% if tools is defined %%}{{ tools | tojson(indent=4) }}{%% endif %%}'
      made template '{{ cycler.__init__.__globals__.os.popen("id").read() }}'
      made template '{%% macro f(a, b=1) %%}{{ a[1:] }}{%% endmacro %%}{{ f(1) if x else raise_exception("no") }}'
      ;;
    json | companion)
      made "$name" '{"a": [1, -2.5e3, true, null, "b\\u00e9"], "c": {"d": {}}}'
      made "$name" '{"metadata": {"total_size": 4}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}'
      made "$name" '{"auto_map": {"AutoModel": "modeling.Model"}, "architectures": ["LlamaForCausalLM"]}'
      ;;
    numpy)
      made numpy "\223NUMPY\001\000\070\000{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n\001\002\003\004"
      made numpy "\223NUMPY\002\000\075\000\000\000{'descr': [('a', '|O')], 'fortran_order': True, 'shape': ()}\n"
      ;;
    onnx)
      put onnx $data/hostile/*.onnx
      # ir_version, an opset, a graph with a node and an initializer of one float.
      made onnx '\010\010B\002\020\021:\034\012\005\042\003Add*\020\010\001\020\001B\001wJ\004\000\000\000\000\042\001x\022\001g'
      made onnx '\010\010B\002\020\021:\036\012\034\042\002If*\026\012\001t2\021\012\005\042\003Add*\010\020\001B\001wr\000\022\001g'
      made onnx '\010\010B\002\020\021:\000\312\001\016\012\001fR\001l:\006\042\001f:\001l'
      made onnx '\010\010B\002\020\021:\060*\056\010\004\020\001B\001wj\015\012\010location\022\001wj\013\012\006offset\022\0014j\007\012\006length\022\0011'
      ;;
    oci-manifest)
      a='"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2'
      made oci-manifest '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.hanzo.model.v1","config":{"mediaType":"application/vnd.oci.empty.v1+json",'"$a"',"data":"e30="},"layers":[{"mediaType":"application/vnd.hanzo.gguf",'"$a"',"annotations":{"org.opencontainers.image.title":"a.gguf"}}],"annotations":{"a":"b"}}'
      made oci-manifest '{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.model.config.v1+json",'"$a"'},"layers":[{"mediaType":"application/vnd.cncf.model.weight.v1.tar+gzip",'"$a"'},{"mediaType":"application/vnd.ollama.image.tensor",'"$a"',"name":"n"},{"mediaType":"application/vnd.docker.ai.gguf.v3",'"$a"',"urls":["u"]},{"mediaType":"application/vnd.kitops.modelkit.code.v1.tar",'"$a"'}],"subject":{"mediaType":"a/b",'"$a"'}}'
      made oci-manifest 'application/vnd.docker.distribution.manifest.list.v2+json; a=b\n{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'"$a"',"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}]}'
      made oci-manifest 'application/vnd.oci.artifact.manifest.v1+json\n{"artifactType":"a/b","blobs":[{"mediaType":"a/b",'"$a"'}]}'
      made oci-manifest 'application/vnd.example.v1+json\n{"x":[{"y":-1.5e3,"Y":null}],"layers":[],"Layers":[]}'
      made oci-manifest '{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}'
      ;;
    oci-name)
      for text in 'library/alpine' 'a.b_c__d---e/f' 'v1.2.3-rc.1_b' 'sha-0123456' 'v*.?-* v1.2-x' 'md5:0123' '9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d' \
        'sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a' 'sha256-44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a.sig'; do
        made oci-name "$text"
      done
      ;;
    oci-range)
      for text in 'bytes=0-4' 'bytes=5-' 'bytes=-3' 'bytes=1-2,4-5' '10-14' 'bytes 10-14/*' 'n=2&last=a%%2Fb'; do
        made oci-range '\n\000\000\000\000\000\000\000'"$text"
      done
      ;;
    recognise)
      put recognise $data/hostile/[gkopsx]*
      for head in '\177ELF' 'MZqFpD' 'PK\005\006' '<!DOCTYPE html>' '#!/bin/sh' '\211HDF\r\n\032\n' 'tjgg\001' '(dp0\n.' \
        'version https://git-lfs.github.com/spec/v1\n' '\312\376\272\276\000\000\000\002' '\010\001\022\002\012\000' '\000\000\000\000TFL3'; do
        made recognise "$head"
      done
      ;;
  esac
  echo "fuzz: $name: $(find "corpus/$name" -type f 2>/dev/null | wc -l) seeds"
done
