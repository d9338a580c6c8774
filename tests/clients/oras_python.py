"""What the Python client does against a server, a step a word: oras_python.py STEP HOST USER PASSWORD FOLDER. Run by oras-python.sh, in
its order. Each step fails on the first thing that is not as it should be."""

import filecmp
import hashlib
import json
import os
import sys

import oras.client
import oras.defaults
import oras.oci

step, host, user, password, folder = sys.argv[1:]
os.chdir(folder)
client = oras.client.OrasClient(hostname=host, insecure=True, auth_backend="basic")
client.auth.set_basic_auth(user, password)
repo = f"{host}/oras-python"
INDEX = "application/vnd.oci.image.index.v1+json"


def same(wanted, found):
    if wanted != found:
        sys.exit(f"wanted: {wanted}\nfound:  {found}")


def raw(container, media_type):
    """A manifest's bytes, held against the digest that the server says."""
    url = f"{client.prefix}://{client.get_container(container).manifest_url()}"
    response = client.do_request(url, "GET", headers={"Accept": media_type})
    client._check_200_response(response)
    digest = "sha256:" + hashlib.sha256(response.content).hexdigest()
    same(digest, response.headers["Docker-Content-Digest"])
    return response.content, digest


def put(container, data, media_type):
    url = f"{client.prefix}://{client.get_container(container).manifest_url()}"
    response = client.do_request(url, "PUT", data=data, headers={"Content-Type": media_type})
    client._check_200_response(response)
    return response


def push():
    for arch in ("amd64", "arm64"):
        with open(f"which-{arch}", "wb") as file:
            file.write(arch.encode() * 300_000)
        config = json.dumps({"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
        with open(f"config-{arch}.json", "w") as file:
            file.write(config)
        # One whole, one in chunks.
        client.push(f"{repo}/app:{arch}", files=[f"which-{arch}:application/vnd.test.layer"],
                    manifest_config=f"config-{arch}.json:application/vnd.oci.image.config.v1+json",
                    do_chunked=arch == "arm64", chunk_size=400_000, quiet=True)
        raw(f"{repo}/app:{arch}", oras.defaults.default_manifest_media_type)


def pull():
    for arch in ("amd64", "arm64"):
        [file] = client.pull(f"{repo}/app:{arch}", outdir=f"pulled-{arch}", allowed_media_type=[oras.defaults.default_manifest_media_type])
        same(True, filecmp.cmp(file, f"which-{arch}", shallow=False))
    _, digest = raw(f"{repo}/app:arm64", oras.defaults.default_manifest_media_type)
    [file] = client.pull(f"{repo}/app@{digest}", outdir="pulled-digest")
    same(True, filecmp.cmp(file, "which-arm64", shallow=False))


def index():
    entries = []
    for arch in ("amd64", "arm64"):
        data, digest = raw(f"{repo}/app:{arch}", oras.defaults.default_manifest_media_type)
        entries.append({"mediaType": oras.defaults.default_manifest_media_type, "digest": digest, "size": len(data),
                        "platform": {"architecture": arch, "os": "linux"}})
    put(f"{repo}/app:multi", json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode(), INDEX)
    found = client.get_manifest(f"{repo}/app:multi", allowed_media_type=[INDEX])
    for arch in ("amd64", "arm64"):
        [of] = [entry["digest"] for entry in found["manifests"] if entry["platform"]["architecture"] == arch]
        [file] = client.pull(f"{repo}/app@{of}", outdir=f"resolved-{arch}")
        same(True, filecmp.cmp(file, f"which-{arch}", shallow=False))


def copy():
    data, digest = raw(f"{repo}/app:amd64", oras.defaults.default_manifest_media_type)
    manifest = json.loads(data)
    source, target = client.get_container(f"{repo}/app:amd64"), client.get_container(f"{repo}/copied/deeper:amd64")
    for number, layer in enumerate([manifest["config"], *manifest["layers"]]):
        path = client.download_blob(source, layer["digest"], f"copied-{number}")
        client._check_200_response(client.upload_blob(path, target, layer))
        same(True, client.blob_exists(layer, target))
    put(f"{repo}/copied/deeper:amd64", data, oras.defaults.default_manifest_media_type)
    same(digest, raw(f"{repo}/copied/deeper:amd64", oras.defaults.default_manifest_media_type)[1])


def tags():
    data, _ = raw(f"{repo}/app:amd64", oras.defaults.default_manifest_media_type)
    for tag in ("e", "d", "c"):
        put(f"{repo}/app:{tag}", data, oras.defaults.default_manifest_media_type)
    same(["amd64", "arm64", "c", "d", "e", "multi"], client.get_tags(f"{repo}/app"))
    same(["amd64", "arm64", "c"], client.get_tags(f"{repo}/app", N=3))
    # All of them, in pages of two.
    found = []
    client._do_paginated_request(f"http://{host}/v2/oras-python/app/tags/list?n=2", lambda page: found.append(page.json()["tags"]) or True)
    same([["amd64", "arm64"], ["c", "d"], ["e", "multi"]], [page for page in found if page])


def referrers():
    data, digest = raw(f"{repo}/app:amd64", oras.defaults.default_manifest_media_type)
    subject = oras.oci.Subject(mediaType=oras.defaults.default_manifest_media_type, digest=digest, size=len(data))
    with open("note", "w") as file:
        file.write("a note\n")
    response = client.push(f"{repo}/app:note", files=["note:text/plain"], subject=subject, manifest_annotations={"n": "1"}, quiet=True)
    same(digest, response.headers["OCI-Subject"])
    response = client.do_request(f"http://{host}/v2/oras-python/app/referrers/{digest}", "GET")
    client._check_200_response(response)
    [entry] = response.json()["manifests"]
    same({"n": "1"}, entry["annotations"])
    [file] = client.pull(f"{repo}/app@{entry['digest']}", outdir="note-pulled")
    same(True, filecmp.cmp(file, "note", shallow=False))


def delete():
    same(["c"], client.delete_tags(f"{repo}/app", ["c"]))
    # It deletes by digest: with it go the other tags of the same image.
    same(["arm64", "multi", "note"], client.get_tags(f"{repo}/app"))
    same(["amd64"], client.get_tags(f"{repo}/copied/deeper"))


def big():
    client.push(f"{repo}/big:big", files=["big:application/octet-stream"], do_chunked=True, chunk_size=4 << 20, quiet=True)
    [file] = client.pull(f"{repo}/big:big", outdir="big-pulled")
    same(True, filecmp.cmp(file, "big", shallow=False))


globals()[step]()
