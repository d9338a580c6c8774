"""What run.sh checks, against a running `securereg up`: real engines read promoted models from the mount, the
bytes come from there and nowhere else, and a changed stored byte is a quick failure in every load mode.

Prints `ok - ...` or `not ok - ...` for each check and ends with `N passed, N failed`.
"""

import argparse
import contextlib
import errno
import hashlib
import http.client
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import engine

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "data"
IDS = "ids 257 71 192 172 20 192 35 322 219 313 149 314"
FAIL_WITHIN = 10  # seconds a reader of a changed file may take to fail

# The modes that llama-cpp-python offers, and the one only our loader does. `mlock` is without mmap.
PYTHON_MODES = ("none", "mmap", "mlock", "mmap+mlock")
MODES = (*PYTHON_MODES, "dio")

parser = argparse.ArgumentParser()
for option in ("bin", "root", "mount", "listen", "pid", "loader", "work"):
    parser.add_argument("--" + option, required=True)
args = parser.parse_args()
ROOT, MOUNT, WORK = (pathlib.Path(p).resolve() for p in (args.root, args.mount, args.work))

passed = failed = 0


@contextlib.contextmanager
def check(what):
    """One line of the report; the checks after a failed one still run."""
    global passed, failed
    notes = []
    try:
        yield notes.append
    except Exception as error:  # whatever went wrong, it is this check's answer
        failed += 1
        print(f"not ok - {what}: {type(error).__name__}: {error}", flush=True)
    else:
        passed += 1
        print("ok -", what, *(f"({note})" for note in notes), flush=True)


# ---- the registry, as a user drives it ----------------------------------------------------------------------------


def request(method, path, scope=None, body=None):
    connection = http.client.HTTPConnection(args.listen, timeout=60)
    headers = {"content-type": "application/json"}
    if scope:
        token = (ROOT / "tokens" / f"{scope}.token").read_text().strip()
        headers["authorization"] = f"Bearer {token}"
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    response = connection.getresponse()
    return response.status, response.read().decode(errors="replace")


def securereg(*arguments):
    run = subprocess.run([args.bin, *arguments, "--root", ROOT], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, f"securereg {arguments[0]}: exit {run.returncode}: {run.stderr.strip()[-400:]}"


def promote(source, name, *shown):
    """Promote with the command line; returns once the running mount shows it."""
    securereg("promote", str(source), "--name", name)
    for path in shown:
        until(lambda: (MOUNT / path).exists(), f"{path} did not appear in the mount")
    return MOUNT / shown[0]


def until(condition, complaint, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)


def is_mounted():
    rows = [line.split(" - ") for line in open("/proc/self/mountinfo")]
    return any(left.split()[4] == str(MOUNT) and right.startswith("fuse") for left, right in rows)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change_byte(path):
    """Flip one bit. Where: in tiny-llama.gguf it is in the exponent of a block's scale, so the ids change too."""
    with open(path, "r+b") as file:
        offset = path.stat().st_size * 5 // 8 + 1
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def flip(source):
    """Change one byte of the stored blob that `source` was promoted to."""
    blob = ROOT / "blobs" / "sha256" / sha256(source)
    mode = blob.stat().st_mode & 0o7777
    if not os.access(blob, os.W_OK):
        blob.chmod(0o600)
    change_byte(blob)
    blob.chmod(mode)


def expect_quarantined(name, path):
    """`path` (a file of the artifact `name`) is served to nobody any more, and the registry says why."""
    top = path.relative_to(MOUNT).parts[0]
    until(lambda: top not in os.listdir(MOUNT), f"{top} is still in the mount's listing")
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        assert error.errno in (errno.EACCES, errno.ENOENT), f"open: {error}"
    else:
        raise AssertionError("open still succeeds")
    status, body = request("GET", "/v1/model?name=" + name, "read")
    assert status == 200 and json.loads(body)["status"] == "quarantined", f"{status} {body[:300]}"


# ---- readers ------------------------------------------------------------------------------------------------------


def command(mode, model):
    if mode in PYTHON_MODES:
        return [sys.executable, str(HERE / "engine.py"), "llama", mode, str(model)]
    return [args.loader, mode, str(model)]


def read(argv, limit=60, at_pause=None):
    """Run a reader to its end; returns (exit code, stdout, stderr, seconds). `at_pause` is called when it has
    printed `paused`, before it is let go on; the time counts from there. One that overstays is a failure."""
    errors = open(WORK / "stderr", "w+")
    started = time.monotonic()
    # A session of its own: what must be killed is the reader and its children (strace's), no more.
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    try:
        if at_pause:
            ready, _, _ = select.select([process.stdout], [], [], limit)
            line = process.stdout.readline() if ready else b""
            assert line == b"paused\n", f"the loader never came to its stop: {tail(errors)}"
            at_pause()
            started = time.monotonic()
        try:
            out, _ = process.communicate(b"go\n", timeout=limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hung: no end within {limit} s") from None
        return process.returncode, out.decode(), tail(errors), time.monotonic() - started
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)  # not for ever: a process stuck in the kernel cannot be killed


def tail(file):
    file.seek(0)
    return " | ".join(file.read().strip().splitlines()[-3:])[-500:]


def expect_ids(result):
    code, out, err, _ = result
    assert code == 0, f"exit {code}: {err}"
    ids = [line for line in out.splitlines() if line.startswith("ids")]
    assert ids == [IDS], f"got {ids}"


def expect_failure(result, note):
    code, out, err, seconds = result
    assert code != 0, f"it exited 0 and printed {out!r}"
    assert "ids" not in out and "tensors" not in out, f"exit {code}, but it printed {out!r}"
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    note(f"{how} after {seconds:.1f} s")


# ---- where the bytes came from ------------------------------------------------------------------------------------


def expect_mapped(out, files):
    """From the reader's own /proc/self/maps: each of `files`, by path and device, and no other model file."""
    device = os.stat(MOUNT).st_dev
    device = f"{os.major(device):02x}:{os.minor(device):02x}"
    maps = [line.split(maxsplit=6)[1:] for line in out.splitlines() if line.startswith("maps ")]
    seen = {(path, dev, int(inode)) for _, _, _, dev, inode, path in maps}
    expected = {(str(file), device, file.stat().st_ino) for file in files}
    assert seen == expected, f"mapped {seen}, expected {expected}"


def expect_read(trace, files, direct):
    """From strace: each of `files` was opened by its path in the mount, and its bytes read from that descriptor
    (one opened with O_DIRECT if `direct`); no model file was mapped, and none outside the mount opened."""
    flags, unfinished, count = {}, {}, {}
    for line in open(trace):
        pid, call = line.rstrip("\n").split(maxsplit=1)
        if call.endswith("<unfinished ...>"):  # another thread's call came between: join the two halves
            unfinished[pid] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... "):
            call = unfinished.pop(pid, "") + call.partition("resumed>")[2]
        if opened := re.match(r"openat\(.*, (O_\S+?)(?:, \d+)?\)\s+= (\d+)<(.*)>$", call):
            flags[opened[2]] = opened[1]
            if opened[3].endswith((".gguf", ".safetensors")):
                assert opened[3] in map(str, files), f"it also opened {opened[3]}"
        elif done := re.match(r"(?:read|pread64)\((\d+)<(.*?)>,.*= (\d+)$", call):
            if not direct or "O_DIRECT" in flags.get(done[1], ""):
                count[done[2]] = count.get(done[2], 0) + int(done[3])
        elif mapped := re.match(r"mmap\(.*<(.*\.(?:gguf|safetensors))>", call):
            raise AssertionError(f"it mapped {mapped[1]}")
    for file in files:
        size, got = file.stat().st_size, count.get(str(file), 0)
        # all the tensors' bytes: the headers of these files are one percent of them
        assert got > size * 0.95, f"read only {got} of {size} bytes of {file}"


def loads_from_mount(what, mode, model, files):
    with check(f"{what}, {mode}: the expected ids, the bytes from the mount") as note:
        argv = command(mode, model)
        if "mmap" in mode:
            result = read(argv)
            expect_ids(result)
            expect_mapped(result[1], files)
            note("/proc/self/maps")
        else:
            trace = WORK / "trace"
            calls = "trace=openat,read,pread64,mmap"
            result = read(["strace", "-f", "-y", "-qq", "-s", "0", "-e", calls, "-o", str(trace), *argv])
            expect_ids(result)
            expect_read(trace, files, direct=mode == "dio")
            note("strace")
        locked = int(re.search(r"^locked (\d+)$", result[1], re.M)[1])
        assert (locked > 0) == ("mlock" in mode), f"{locked} kB locked"


# ---- the models ---------------------------------------------------------------------------------------------------


def promote_over_http(source):
    """As a quarantine pipeline does: the file into the staging folder, then the request, which must give 201."""
    staged = ROOT / "quarantine" / "staged-tiny.gguf"
    staged.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, staged)
    digest = sha256(source)
    status, body = request("POST", "/v1/model/promote", "promote", {
        "name": "tiny-llama",
        "filename": source.name,
        "staged_filename": staged.name,
        "sha256": digest,
        "size_bytes": source.stat().st_size,
        "source": "tests/data",
        "scan_results": {"gguf-guard": "pass"},
        "scanner_versions": {"gguf-guard": "0.2.0"},
        "policy_version": "1",
        "policy_bundle": "test",
        "source_revision": "1",
        "gguf_guard_fingerprint": "b3ac2d8f9a3e5d1f9022fca4db37f71a9e78da63e67cdea99fb5478f8005f95d",
    })
    assert status == 201, f"{status} {body[:400]}"
    artifact = json.loads(body)
    assert (artifact["name"], artifact["sha256"], artifact["status"]) == ("tiny-llama", digest, "promoted"), body


def variant(number):
    """tiny-llama with another general.name: bytes never stored before, so no earlier check's quarantine, stamp
    or cached page is involved, and the same tensors."""
    content = (DATA / "tiny-llama.gguf").read_bytes()
    assert content.count(b"tiny-random-llama") == 1
    path = WORK / f"variant-{number:02}.gguf"
    path.write_bytes(content.replace(b"tiny-random-llama", b"tiny-random-%05d" % number))
    return path


def promote_variant(number):
    source = variant(number)
    return source, source.stem, promote(source, source.stem, source.name)


def make_hf_folder():
    from safetensors.numpy import save_file

    folder = WORK / "tiny-hf"
    folder.mkdir()
    shards = engine.tensors()
    for shard, values in shards.items():
        save_file(values, folder / shard)
    size = sum(value.nbytes for values in shards.values() for value in values.values())
    index = {name: shard for shard, values in shards.items() for name in values}
    (folder / "config.json").write_text(json.dumps({"architectures": ["TinyModel"], "model_type": "tiny"}))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": index}))
    return folder


# ---- the checks ---------------------------------------------------------------------------------------------------


def single_file():
    source = DATA / "tiny-llama.gguf"
    shown = MOUNT / source.name
    with check("tiny-llama.gguf: promoted over HTTP, exactly 201, and shown in the mount"):
        promote_over_http(source)
        until(shown.exists, "it did not appear in the mount")
    for mode in MODES:
        loads_from_mount("tiny-llama.gguf", mode, shown, [shown])


def split():
    source = DATA / "split"
    shards = sorted(source.glob("*.gguf"))
    paths = [MOUNT / "tiny-split" / shard.name for shard in shards]

    def promote_it():
        return promote(shards[0], "tiny-split", *(path.relative_to(MOUNT) for path in paths))

    with check("split: its two shards promoted as one artifact, from the first one's path"):
        assert len(shards) == 2
        promote_it()
    for mode in MODES:
        loads_from_mount("split", mode, paths[0], paths)
    for mode in MODES:
        with check(f"split, {mode}: a byte of the second shard changed before open: fails, and is quarantined") as note:
            flip(shards[1])
            expect_failure(read(command(mode, paths[0]), FAIL_WITHIN), note)
            expect_quarantined("tiny-split", paths[0])
        # Its blobs go with it, so that the next mode starts from undamaged ones.
        with check(f"split, {mode}: deleted and promoted again, it gives the expected ids"):
            securereg("delete", "tiny-split")
            promote_it()
            expect_ids(read(command(mode, paths[0])))


def safetensors():
    source = make_hf_folder()
    shown = MOUNT / source.name
    argv = [sys.executable, str(HERE / "engine.py"), "safetensors", str(shown)]
    shards = sorted(engine.tensors())
    with check("safetensors: a folder promoted as one artifact"):
        promote(source, source.name, *(shown.relative_to(MOUNT) / path.name for path in source.iterdir()))
    with check("safetensors: each tensor's values, the bytes from the mount") as note:
        code, out, err, _ = read(argv)
        assert code == 0 and "tensors 3" in out.splitlines(), f"exit {code}: {out!r} {err}"
        expect_mapped(out, [shown / shard for shard in shards])
        note("/proc/self/maps")
    with check("safetensors: a byte changed before open: fails, and is quarantined") as note:
        flip(source / shards[0])
        expect_failure(read(argv, FAIL_WITHIN), note)
        expect_quarantined(source.name, shown / shards[0])


def pushed(numbers):
    """A model that came in by `oras push`, under each family's types, generates like any other; a hostile one is never there."""
    families = {
        "hanzo": (["--artifact-type", "application/vnd.hanzo.model.v1"], "application/vnd.hanzo.gguf", None),
        "modelpack": (["--artifact-type", "application/vnd.cncf.model.manifest.v1+json"], "application/vnd.cncf.model.weight.v1.raw",
                      "application/vnd.cncf.model.config.v1+json"),
        "docker": ([], "application/vnd.docker.ai.gguf.v3", "application/vnd.docker.ai.model.config.v0.1+json"),
    }

    def push(repository, file, family):
        options, layer, config = families[family]
        if config:
            (WORK / "oras-config.json").write_text('{"config":{"format":"gguf"},"descriptor":{},"rootfs":{"type":"layers","diff_ids":[]}}')
            options = [*options, "--config", f"oras-config.json:{config}"]
        token = (ROOT / "tokens" / "promote.token").read_text().strip()
        run = subprocess.run(["oras", "push", "--plain-http", "-u", "engine", "--password-stdin", *options,
                              f"{args.listen}/{repository}:one", f"{file.name}:{layer}"], input=token, cwd=WORK, capture_output=True,
                             text=True, timeout=60, env={**os.environ, "DOCKER_CONFIG": str(WORK / "docker")})
        assert run.returncode == 0, f"oras push: exit {run.returncode}: {run.stderr.strip()[-400:]}"

    for family in families:
        source = variant(next(numbers))
        shown = MOUNT / "pushed" / family / "one" / source.name
        with check(f"oras push of tiny-llama.gguf with the {family} types: promoted and shown in the mount"):
            push(f"pushed/{family}", source, family)
            until(shown.exists, "it did not appear in the mount", 30)
            assert sha256(shown) == sha256(source)
        for mode in MODES if family == "hanzo" else ("mmap",):
            loads_from_mount(f"pushed with the {family} types", mode, shown, [shown])
    with check("oras push of a hostile GGUF: it succeeds, and no engine ever sees it"):
        hostile = WORK / "g41_overlap.gguf"
        shutil.copyfile(DATA / "hostile" / hostile.name, hostile)
        push("pushed/hostile", hostile, "hanzo")

        def refused():
            status, body = request("GET", "/v1/model?name=pushed/hostile:one", "read")
            return status == 200 and json.loads(body)["status"] == "quarantined"

        until(refused, "it was not quarantined", 30)
        assert not (MOUNT / "pushed" / "hostile").exists(), "the mount shows it"
    with check("pushed with the hanzo types: a byte changed before open: fails, and is quarantined") as note:
        source = variant(next(numbers))
        shown = MOUNT / "pushed" / "changed" / "one" / source.name
        push("pushed/changed", source, "hanzo")
        until(shown.exists, "it did not appear in the mount", 30)
        flip(source)
        expect_failure(read(command("mmap", shown), FAIL_WITHIN), note)
        assert json.loads(request("GET", "/v1/model?name=pushed/changed:one", "read")[1])["status"] == "quarantined"


def changed_before_open(numbers):
    for mode in MODES:
        with check(f"{mode}: a byte changed before open: fails, and is quarantined") as note:
            source, name, shown = promote_variant(next(numbers))
            flip(source)
            expect_failure(read(command(mode, shown), FAIL_WITHIN), note)
            expect_quarantined(name, shown)


def changed_while_open(numbers):
    def loader(mode, shown, stop):
        return [args.loader, mode, str(shown), stop]

    for mode in MODES:
        # llama.cpp takes an open descriptor in each mode but direct I/O, where it opens by path only. There the
        # stop is after its own open instead, before it reads the tensors: no page cache stands between.
        stop = "load" if mode == "dio" else "open"
        with check(f"{mode}: stopped at {stop} and nothing changed: the expected ids"):
            expect_ids(read(loader(mode, promote_variant(next(numbers))[2], stop), at_pause=lambda: None))
        with check(f"{mode}: stopped at {stop}, a byte changed under the open file: fails, and is quarantined") as note:
            source, name, shown = promote_variant(next(numbers))
            expect_failure(read(loader(mode, shown, stop), FAIL_WITHIN, at_pause=lambda: flip(source)), note)
            expect_quarantined(name, shown)

    with check("control: a plain file with that byte changed gives other ids"):
        plain = variant(next(numbers))
        change_byte(plain)
        code, out, err, _ = read([args.loader, "none", str(plain)])
        assert code == 0 and out.startswith("ids") and IDS not in out, f"exit {code}: {out!r} {err}"

    # Later than that, what the kernel has cached is what was verified, and may be served: but nothing else.
    for mode in PYTHON_MODES:
        with check(f"{mode}: stopped at load, a byte changed: the promoted bytes' ids or a failure, never others") as note:
            source, name, shown = promote_variant(next(numbers))
            result = read(loader(mode, shown, "load"), FAIL_WITHIN, at_pause=lambda: flip(source))
            if result[0] == 0:
                expect_ids(result)
                note("the expected ids")
            else:
                expect_failure(result, note)


def health():
    with contextlib.suppress(OSError):
        return request("GET", "/health")[0] == 200


with check("securereg up: healthy, and mounted"):
    until(lambda: health() and is_mounted() or not os.path.exists(f"/proc/{args.pid}"), "not ready within 30 s", 30)
    assert health() and is_mounted(), "it ended"
if passed:
    numbers = iter(range(1, 100))
    single_file()
    split()
    safetensors()
    changed_before_open(numbers)
    changed_while_open(numbers)
    # Until the registry of pushed models is a part of this tree.
    if (HERE.parents[1] / "crates" / "oci").exists():
        pushed(numbers)
    with check("after all that, tiny-llama.gguf still gives the expected ids"):
        expect_ids(read(command("mmap", MOUNT / "tiny-llama.gguf")))
    with check("SIGTERM: it unmounts"):
        os.kill(int(args.pid), signal.SIGTERM)
        until(lambda: not is_mounted(), "still mounted after 10 s", 10)

print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
