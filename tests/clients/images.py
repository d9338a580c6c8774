"""Makes an OCI image layout of two small images, one a platform, and an index of both, the same bytes each time.

    images.py DIR [--big BYTES]

With --big, instead one image whose layer is that many random bytes, under the tag `big`.
Prints shell assignments: the digests, and for each platform what its one file holds.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=pathlib.Path)
parser.add_argument("--big", type=int)
args = parser.parse_args()
blobs = args.dir / "blobs" / "sha256"
blobs.mkdir(parents=True)


def put(media_type, data, **more):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}


def as_json(value):
    return json.dumps(value, separators=(",", ":")).encode()


def tar(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o644
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def image(arch, media_type, content, plain):
    layer = put(media_type, content)
    diff = "sha256:" + hashlib.sha256(plain).hexdigest()
    config = put(CONFIG, as_json({"architecture": arch, "os": "linux", "created": "2024-01-01T00:00:00Z", "config": {},
                                  "rootfs": {"type": "layers", "diff_ids": [diff]}}))
    manifest = put(MANIFEST, as_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}))
    return manifest, layer, config


entries = []
if args.big:
    plain = tar("big", os.urandom(args.big))
    manifest, layer, _ = image("amd64", PLAIN_LAYER, plain, plain)
    entries.append({**manifest, "annotations": {"org.opencontainers.image.ref.name": "big"}})
    print(f"BIG={manifest['digest']}\nLAYER_BIG={layer['digest']}")
else:
    children = []
    for arch in ("amd64", "arm64"):
        content = f"this is the file of {arch}\n"
        plain = tar("which", content.encode())
        manifest, layer, config = image(arch, LAYER, gzip.compress(plain, mtime=0), plain)
        children.append({**manifest, "platform": {"architecture": arch, "os": "linux"}})
        entries.append({**manifest, "annotations": {"org.opencontainers.image.ref.name": arch}})
        up = arch.upper()
        print(f"{up}={manifest['digest']}\nLAYER_{up}={layer['digest']}\nCONFIG_{up}={config['digest']}\nFILE_{up}='{content.strip()}'")
    index = put(INDEX, as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}))
    entries.append({**index, "annotations": {"org.opencontainers.image.ref.name": "index"}})
    print(f"INDEX={index['digest']}")
(args.dir / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
(args.dir / "index.json").write_bytes(as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
