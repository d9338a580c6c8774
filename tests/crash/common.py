"""What the rigs share: tiny models, the operations that are crashed, and the checker.

Owns: the scratch folder, the scenarios, who answers for a root (crash-check). Promises: the same models every time; nothing is
left behind. Leaves out: crashing.
"""

import functools
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent


def programs():
    """The command and the checker: SECUREREG_BIN and CRASH_CHECK_BIN, else what cargo built for release."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    found = [os.environ.get("SECUREREG_BIN", target / "release" / "securereg"),
             os.environ.get("CRASH_CHECK_BIN", target / "release" / "crash-check")]
    for program in found:
        if not os.access(program, os.X_OK):
            raise SystemExit(f"{program} is not there: cargo build --release -p securereg-cli -p securereg-crash-check")
    return [str(program) for program in found]


def scratch(prefix, folder=None):
    """A private folder; in memory unless another is asked for, because these rigs wait for no disk."""
    folder = folder or os.environ.get("CRASH_TMP") or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}.", dir=folder)).resolve()


def environment():
    """Ours without what would lead the command elsewhere."""
    strange = ("REGISTRY_DIR", "BIND_ADDR", "PROMOTION_STAGING_DIR", "SECUREREG_CONFIG", "RUST_LOG")
    return {**{k: v for k, v in os.environ.items() if k not in strange}, "RUST_BACKTRACE": "1"}


# ---- models

GGUF_PAIR = {"u16": (2, "<H"), "u32": (4, "<I"), "i32": (5, "<i")}


def gguf(size, seed, pairs=(), tensor="t"):
    """A sound GGUF: one tensor of I8 with `size` pseudo-random bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs))
    for key, kind, value in pairs:
        number, form = GGUF_PAIR[kind]
        head += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", number) + struct.pack(form, value)
    head += struct.pack("<Q", len(tensor)) + tensor.encode() + struct.pack("<IQIQ", 1, size, 24, 0)
    body = random.Random(seed).randbytes(size)
    return head + bytes(-len(head) % 32) + body + bytes(-size % 32)


def safetensors(size, seed):
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + random.Random(seed).randbytes(size)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def make_models(folder):
    """Every source that a scenario takes; small, but over a group of 64 KiB where it says so."""
    write(folder / "a.gguf", gguf(3000, 1))
    write(folder / "b.gguf", gguf(70_000, 2))  # two groups
    write(folder / "c.gguf", gguf(5000, 3))
    write(folder / "d.gguf", gguf(4100, 4))
    write(folder / "probe.gguf", gguf(1000, 99))
    write(folder / "junk.gguf", b"this is no model" * 100)
    write(folder / "hf" / "config.json", b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    write(folder / "hf" / "model.safetensors", safetensors(6000, 5))
    write(folder / "hf" / "LICENSE", b"as you like\n")
    for shard in (0, 1):
        pairs = [("split.no", "u16", shard), ("split.count", "u16", 2), ("split.tensors.count", "i32", 2)]
        name = f"s-{shard + 1:05}-of-00002.gguf"
        write(folder / "split" / name, gguf(2500, 6 + shard, pairs, tensor=f"t{shard}"))
    write(folder / "layer.bin", random.Random(8).randbytes(120_000))
    write(folder / "small.bin", random.Random(9).randbytes(300))
    write(folder / "manifest.json", b'{"schemaVersion": 2}')
    write(folder / "tag", b"sha256-0123")


# ---- the checker

# What a start makes of no root.
NOTHING = {"models": {}, "blocked": [], "oci": {}, "log": [], "signed": False}

class Checker:
    """One crash-check process, asked about one root after the other."""

    def __init__(self, probe):
        self.program = programs()[1]
        self.probe = str(probe)
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.program, "check", self.probe], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=environment())

    def look(self, root):
        """State, problems and garbage; a checker that ends has found one."""
        try:
            self.process.stdin.write(f"{root}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.start()
            return {"state": None, "problems": ["crash-check ended"], "garbage": 0}
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- what is crashed

class Scenario:
    """One command, and the root that it starts from."""

    def __init__(self, name, command, before=(), code=0, damaged=(), damage=(), then=(), takes=None, says="", spoil=None,
                 leaves=False, fills=False, midway=False, oci=False):
        self.name = name
        self.command = command  # words for securereg (without --root), or for crash-check when `oci`
        self.before = before  # commands that make the root it starts from
        self.code = code  # what it ends with
        self.damaged = damaged  # models of which it is known that they are damaged, before and perhaps after
        self.damage = damage  # blobs of models whose first tensor byte is changed before
        self.then = then  # what is done after that, and ends with 3: it is noticed
        self.says = says  # what it prints when the change is made, where the exit code does not tell
        self.takes = takes  # the source that it takes away
        self.spoil = spoil  # a file of the root that is cut in half before: no start then, until the command has put it right
        self.leaves = leaves  # whether files that nothing holds lie there before, which it sweeps
        self.fills = fills  # whether the log is so long that the next line begins a new file of it; heavy
        self.midway = midway  # whether the log may tell of it before it is in force: what is done by two renames
        self.oci = oci


PROMOTE = ["promote", "{m}/c.gguf", "--name", "new"]
BASE = (
    ["promote", "{m}/a.gguf", "--name", "base"],
    ["promote", "{m}/a.gguf", "--name", "twin", "--filename", "twin.gguf"],
    ["promote", "{m}/b.gguf", "--name", "repo:v1"],
)
QUARANTINED = (*BASE, ["quarantine", "base", "--reason", "r", "--incident", "I-1"])

SCENARIOS = [
    Scenario("promote", PROMOTE, BASE),
    Scenario("promote-first", PROMOTE),
    Scenario("promote-large", ["promote", "{m}/b.gguf", "--name", "new"], (BASE[0],)),
    Scenario("promote-folder", ["promote", "{m}/hf", "--name", "folder"], BASE),
    Scenario("promote-split", ["promote", "{m}/split/s-00001-of-00002.gguf", "--name", "split"], BASE),
    Scenario("promote-move", ["promote", "{m}/d.gguf", "--name", "new", "--move"], BASE, takes="d.gguf"),
    Scenario("promote-shared", ["promote", "{m}/b.gguf", "--name", "other"], BASE),
    Scenario("move-tag", ["promote", "{m}/c.gguf", "--name", "repo:v1"], BASE),
    Scenario("refuse", ["promote", "{m}/junk.gguf", "--name", "junk"], BASE, code=2),
    Scenario("delete", ["delete", "repo:v1"], BASE),
    Scenario("delete-shared", ["delete", "base"], BASE),
    Scenario("delete-incident", ["delete", "base"], QUARANTINED),
    Scenario("quarantine", ["quarantine", "base", "--reason", "r", "--incident", "I-1"], BASE),
    Scenario("release", ["release", "base", "--reason", "ok"], QUARANTINED),
    Scenario("release-deleted", ["release", "base", "--deleted", "--reason", "ok"], (*QUARANTINED, ["delete", "base"])),
    # It ends with 3 too when a file cannot be read, and then quarantines nothing.
    Scenario("verify-damaged", ["verify", "--all", "--json"], BASE, code=3, damage=("repo:v1",), damaged=("repo:v1",), says='"actual"'),
    Scenario("heal", ["promote", "{m}/b.gguf", "--name", "repo:v1"], BASE, damage=("repo:v1",), damaged=("repo:v1",),
             then=(["verify", "--all"],)),
    Scenario("key-new", ["key", "new"], BASE, midway=True),
    Scenario("promote-signed", PROMOTE, (*BASE, ["key", "new"])),
    Scenario("recover", ["recover", "--yes"], BASE, spoil="manifest.yaml"),
    Scenario("gc", ["gc"], BASE, leaves=True),
    Scenario("repair", ["repair", "repo:v1", "--from", "{m}/b.gguf"], BASE, damage=("repo:v1",), damaged=("repo:v1",), then=(["verify", "--all"],)),
    Scenario("rotate-log", PROMOTE, BASE, fills=True),
    Scenario("push-blob", ["push", "{r}", "some/repo", "{m}/layer.bin"], BASE, oci=True),
    Scenario("push-manifest", ["put", "{r}", "some/repo", "manifest", "sha256-" + "ab" * 32, "{m}/manifest.json"], BASE, oci=True),
    Scenario("remove-blob", ["remove", "{r}", "some/repo", "{m}/layer.bin"],
             (*BASE, ["crash-check", "push", "{r}", "some/repo", "{m}/layer.bin"]), oci=True),
]


@functools.cache
def verbs():
    """The verbs that this build has."""
    told = subprocess.run([programs()[0], "--help"], capture_output=True, text=True, env=environment(), check=True).stdout
    return set(re.findall(r"^  ([a-z-]+) ", told, re.MULTILINE))


def scenarios(wanted=()):
    """Those of these names, or all that this build has the verbs for."""
    known = verbs()
    usable = [s for s in SCENARIOS if s.oci or s.command[0] in known]
    chosen = [s for s in usable if not wanted or s.name in wanted]
    missing = set(wanted) - {s.name for s in chosen}
    if missing:
        raise SystemExit(f"no such scenario: {', '.join(sorted(missing))}")
    return chosen


def command_line(words, root, models, oci):
    securereg, check = programs()
    filled = [word.format(m=models, r=root) for word in words]
    if oci:
        return [check, *filled]
    return [securereg, *filled, "--root", str(root)]


def run(words, root, models, oci=False):
    """Runs one, untouched."""
    if words[0] == "crash-check":
        words, oci = words[1:], True
    line = command_line(words, root, models, oci)
    return subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=60)


def prepare(scenario, root, models):
    """Makes the root that a scenario starts from; nothing when it starts from nothing."""
    for words in scenario.before:
        done = run(words, root, models)
        if done.returncode != 0:
            raise SystemExit(f"{scenario.name}: {words} ended with {done.returncode}: {done.stderr}")
    for name in scenario.damage:
        told = json.loads(run(["show", name, "--json"], root, models).stdout)
        blob = root / "blobs" / "sha256" / told["sha256"]
        blob.chmod(0o644)
        with open(blob, "r+b") as file:
            file.seek(-1000, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1000, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))
        blob.chmod(0o444)
    for words in scenario.then:
        done = run(words, root, models)
        if done.returncode != 3:
            raise SystemExit(f"{scenario.name}: {words} ended with {done.returncode}: {done.stderr}")
    if scenario.spoil:
        file = root / scenario.spoil
        os.truncate(file, file.stat().st_size // 2)
    if scenario.fills:
        fill_log(root)
    if scenario.leaves:
        for folder, mode in (("blobs/sha256", 0o444), ("trees", 0o600), ("sidecars/sha256", 0o600)):
            for number in range(2):
                write(root / folder / f"{number + 1:064x}", b"left").chmod(mode)


LOG_IS_FULL = 64 << 20  # ROTATE_AT in src/audit.rs


def fill_log(root):
    """Lines of refusals, as the registry writes them, until the log is full; and the last one remembered."""
    log = root / "audit.jsonl"
    text = log.read_bytes().splitlines()[-1]
    line, size = json.loads(text), log.stat().st_size
    line.update(event="refuse", phase="noted", why="y" * 2000)
    with open(log, "ab") as file:
        while size < LOG_IS_FULL:
            line.update(seq=line["seq"] + 1, prev=hashlib.sha256(text).hexdigest())
            text = json.dumps(line, separators=(",", ":")).encode()
            size += file.write(text + b"\n")
    memory = root / "generation"
    memory.write_text(f"{memory.read_text().split()[0]} {line['seq']} {hashlib.sha256(text).hexdigest()}\n")


def unexpected(problems, scenario):
    """Without those of models that the scenario damaged itself."""
    told = re.compile(r"^({})(:| cannot be| fails its)".format("|".join(map(re.escape, scenario.damaged)))) if scenario.damaged else None
    return [p for p in problems if not (told and told.match(p))]


def copy_tree(source, target):
    """A root as it is: modes and times, holes and all."""
    if source.exists():
        subprocess.run(["cp", "-a", source, target], check=True)


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
