#!/usr/bin/env python3
"""Power cuts on real file systems: a disk image is copied, at one instant, while promotions, deletes and quarantines run on it.

    images.py [--snapshots N] [--only NAME]... [--seed N]

Owns: the disks, the load, the snapshots, the judgement. Each disk is a loop device whose backing file lies on an XFS of our own, where
`cp --reflink` takes a copy of the whole file while nothing is being written to it (FICLONE waits for writes under way and holds off
new ones): all that had reached the disk by one instant, and nothing after it. What the copy holds depends on the disk:

  through     the loop device writes past the page cache (direct I/O): each write that has ended is in the copy, as on a disk
              without a cache of its own, or whose cache has a battery. What the file system had not sent yet is not.
  volatile    the disk's backing file lies, cached, on a second file system, and that one's disk is what is copied: writes that no
              flush followed are lost, as on a disk that loses its cache. The barriers of the file system are tested too.

Then the copy is mounted (the file system repairs itself from its journal), and asked as after a start. Not a power cut, and therefore
not done: copying a mounted image byte after byte (the copy is of no one instant), or freezing the file system first (which syncs it).

Promises: a copy counts only when changes had been acknowledged in it. Of each worker's changes, those acknowledged before the copy was
begun are there, and nothing that was not begun when it ended. The journal of acknowledgements is kept here, in memory, not on the disk.
Needs root and loop devices.

The canary: the same load with fsync and fdatasync skipped must be called wrong.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import common

MIB = 1 << 20
Disk = collections.namedtuple("Disk", "name make options cache share")
# ext4 by default writes a file's bytes when it is renamed over another; noauto_da_alloc takes that kindness away.
DISKS = [
    Disk("ext4-through", "ext4", "noauto_da_alloc,commit=1", "through", 10),
    Disk("ext4-writeback-through", "ext4", "noauto_da_alloc,commit=1,data=writeback", "through", 4),
    Disk("ext4-default-through", "ext4", "defaults", "through", 4),
    Disk("ext4-volatile", "ext4", "noauto_da_alloc,commit=1", "volatile", 6),
    Disk("xfs-through", "xfs", "nouuid", "through", 10),
    Disk("xfs-volatile", "xfs", "nouuid", "volatile", 6),
]
SIZE = 320 * MIB


def command(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout.strip()


def make(kind, target):
    command(*(["mkfs.ext4", "-q", "-F", "-b", "4096", target] if kind == "ext4" else ["mkfs.xfs", "-q", "-f", "-s", "size=4096", target]))


class Stack(contextlib.ExitStack):
    """Loop devices and mounts, undone in the order that they need."""

    def loop(self, file, direct):
        device = command("losetup", f"--direct-io={'on' if direct else 'off'}", "--show", "-f", file)
        self.callback(lambda: subprocess.run(["losetup", "-d", device], capture_output=True))
        if direct and command("losetup", "-n", "-O", "DIO", "-l", device) != "1":
            raise SystemExit(f"{file}: no direct I/O: a copy would hold what was never written")
        return device

    def mount(self, device, target, options="defaults", kind=None):
        target.mkdir(exist_ok=True)
        command("mount", *(["-t", kind] if kind else []), "-o", options, device, target)
        self.callback(lambda: subprocess.run(["umount", target], capture_output=True))
        return target


def full_file(path, size):
    """Written from end to end, so that no write to it changes the file system that it lies on."""
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
        os.fsync(file.fileno())


class Running:
    """A disk with a mounted file system, and the file that is copied."""

    def __init__(self, disk, base, stack):
        self.disk, self.base, self.stack = disk, base, stack
        where = base / disk.name
        where.mkdir()
        self.where = where
        if disk.cache == "through":
            self.copied = where / "disk.img"
            self.copied.touch()
            os.truncate(self.copied, SIZE)
            make(disk.make, self.copied)
            device = stack.loop(self.copied, direct=True)
        else:
            self.copied = where / "below.img"
            self.copied.touch()
            os.truncate(self.copied, SIZE + 192 * MIB)
            make("ext4", self.copied)
            # Nothing is written back before its time: what no flush asked for stays in memory.
            below = stack.mount(stack.loop(self.copied, direct=True), where / "below", "commit=600,noauto_da_alloc", "ext4")
            full_file(below / "disk.img", SIZE)
            make(disk.make, below / "disk.img")
            command("sync", "-f", below)
            device = stack.loop(below / "disk.img", direct=False)
        self.top = stack.mount(device, where / "fs", disk.options, disk.make)

    def copy(self, target):
        command("cp", "--reflink=always", self.copied, target)

    def open_copy(self, file, stack):
        """Mounts a copy, as the next start of the machine does."""
        here = file.with_suffix("")
        here.mkdir()
        device = stack.loop(file, direct=True)
        if self.disk.cache == "volatile":
            below = stack.mount(device, here / "below", "noatime", "ext4")
            device = stack.loop(below / "disk.img", direct=True)
        return stack.mount(device, here / "fs", "nouuid" if self.disk.make == "xfs" else "defaults", self.disk.make)


class Worker(threading.Thread):
    """Changes one after the other, of names that are its own, and what each makes of them."""

    def __init__(self, number, root, sources, seed, prefix=()):
        super().__init__(name=f"worker {number}", daemon=True)
        self.number, self.root, self.sources, self.prefix = number, root, sources, list(prefix)
        self.lot = random.Random(f"{seed} {number}")
        self.states = [{"models": {}, "blobs": []}]
        self.begun = self.acknowledged = 0
        self.ends, self.failed = threading.Event(), None

    def run(self):
        try:
            while not self.ends.is_set():
                self.step()
        except Exception as e:  # noqa: BLE001: whatever it is, the rig ends with it
            self.failed = e

    def step(self):
        now = json.loads(json.dumps(self.states[-1]))
        models, blobs = now["models"], now["blobs"]
        mine = sorted(models)
        choice = self.lot.random()
        if choice < 0.15:
            file = self.lot.choice(sorted(self.sources.glob("blob-*")))
            digest = file.name.removeprefix("blob-")
            if digest in blobs:
                words, oci = ["remove", self.root, f"w{self.number}", file], True
                blobs.remove(digest)
            else:
                words, oci = ["push", self.root, f"w{self.number}", file], True
                blobs.append(digest)
                blobs.sort()
        elif len(mine) < 2 or choice < 0.5:
            tag = self.lot.random() < 0.4
            name = f"w{self.number}-tag:v{self.lot.randint(1, 2)}" if tag else f"w{self.number}-{self.lot.randint(1, 10 ** 9)}"
            if tag and models.get(name, [None, None])[1]:
                return
            file = self.lot.choice(sorted(self.sources.glob("model-*.gguf")))
            words, oci = ["promote", file, "--name", name, "--filename", f"{name.replace(':', '-')}.gguf"], False
            models[name] = [file.name.removeprefix("model-").removesuffix(".gguf"), None]
        else:
            name = self.lot.choice(mine)
            oci = False
            if models[name][1]:
                words = ["release", name, "--reason", "ok"]
                models[name][1] = None
            elif self.lot.random() < 0.5:
                # Without an incident: its bytes may be promoted under another name all the same.
                words = ["quarantine", name, "--reason", "r"]
                models[name][1] = "incident"
            else:
                words = ["delete", name]
                del models[name]
        securereg, check = common.programs()
        line = [check, *words] if oci else [securereg, *words, "--root", self.root]
        self.states.append(now)
        self.begun += 1
        done = subprocess.run([*self.prefix, *map(str, line)], capture_output=True, text=True, env=common.environment(), timeout=120)
        if done.returncode == 5 and words[0] == "promote":
            # Another model under an incident holds these bytes: refused, and nothing is changed.
            self.states[-1] = json.loads(json.dumps(self.states[-2]))
        elif done.returncode != 0:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr}")
        self.acknowledged += 1


def sources(folder):
    import hashlib
    folder.mkdir()
    for seed in range(12):
        data = common.gguf(2000 + 9000 * seed, seed + 100)
        common.write(folder / f"model-{hashlib.sha256(data).hexdigest()}.gguf", data)
    for seed in range(4):
        data = random.Random(seed).randbytes(1000 + 40_000 * seed)
        common.write(folder / f"blob-{hashlib.sha256(data).hexdigest()}", data)
    return folder


Copy = collections.namedtuple("Copy", "file windows")


def shown(found, number):
    """What a root holds of one worker's, in the worker's words."""
    models = {name: [m["sha256"], m["quarantine"] and m["quarantine"][0]] for name, m in found["models"].items()
              if name.startswith(f"w{number}-")}
    return {"models": models, "blobs": sorted(found["oci"].get(f"w{number}", {}).get("blobs", []))}


def judge(running, copy, workers, checker):
    """What is wrong with one copy."""
    problems = []
    with Stack() as stack:
        top = running.open_copy(copy.file, stack)
        root = top / "root"
        found = checker.look(root)
        problems += found["problems"]
        if found["state"] is not None:
            for worker, (acknowledged, begun) in zip(workers, copy.windows):
                is_there = shown(found["state"], worker.number)
                if is_there not in worker.states[acknowledged: begun + 1]:
                    problems.append(f"worker {worker.number}, {acknowledged} acknowledged, {begun} begun: {is_there} "
                                    f"instead of {worker.states[acknowledged]}")
        # And what a person would type.
        for words in (["status"], ["list", "--json"], ["audit", "--verify"], ["verify", "--all"]):
            done = subprocess.run([common.programs()[0], *words, "--root", root], capture_output=True, text=True, env=common.environment())
            if done.returncode not in (0, 6):
                problems.append(f"{words} ended with {done.returncode}: {done.stderr}")
    copy.file.unlink()
    return problems


def load(running, count, home, seed, checker, prefix=(), pause=(0.05, 0.7)):
    """Runs the load on a disk and copies it `count` times; then judges each copy."""
    root = running.top / "root"
    made = subprocess.run([common.programs()[0], "promote", home / "models" / "a.gguf", "--name", "base", "--root", root],
                          capture_output=True, text=True, env=common.environment())
    if made.returncode != 0:
        raise SystemExit(f"{running.disk.name}: {made.stderr}")
    workers = [Worker(n, root, home / "sources", seed, prefix) for n in range(2)]
    lot, copies = random.Random(seed), []
    for worker in workers:
        worker.start()
    try:
        while len(copies) < count and not any(w.failed for w in workers):
            time.sleep(lot.uniform(*pause))
            if any(w.acknowledged == 0 for w in workers):
                continue
            file = running.where / f"copy-{len(copies)}.img"
            before = [w.acknowledged for w in workers]
            running.copy(file)
            copies.append(Copy(file, list(zip(before, [w.begun for w in workers]))))
    finally:
        for worker in workers:
            worker.ends.set()
        for worker in workers:
            worker.join()
    for worker in workers:
        if worker.failed:
            raise SystemExit(f"{running.disk.name}: {worker.failed}")
    acknowledged = [sum(done for done, _ in copy.windows) for copy in copies]
    return [judge(running, copy, workers, checker) for copy in copies], acknowledged


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--snapshots", type=int, default=40, help="of all disks together")
    options.add_argument("--only", action="append", default=[], choices=[d.name for d in DISKS])
    options.add_argument("--seed", type=int, default=int(time.time()))
    options = options.parse_args()
    if os.geteuid() != 0:
        print("mounting images needs root")
        sys.exit(77)
    # On a disk: in memory there would be no room for ten disks.
    home, started = common.scratch("crash-images", "/var/tmp"), time.monotonic()
    code = 1
    try:
        with Stack() as stack:
            code = rig(options, home, stack)
    finally:
        common.remove(home)
    print(f"{time.monotonic() - started:.0f} s, seed {options.seed}", flush=True)
    sys.exit(code)


def rig(options, home, stack):
    common.make_models(home / "models")
    sources(home / "sources")
    (home / "base.img").touch()
    os.truncate(home / "base.img", 12 << 30)
    command("mkfs.xfs", "-q", "-m", "reflink=1", home / "base.img")
    base = stack.mount(stack.loop(home / "base.img", direct=False), home / "base", kind="xfs")
    checker = common.Checker(home / "models" / "probe.gguf")
    chosen = [d for d in DISKS if not options.only or d.name in options.only]
    shares = spread(options.snapshots, [d.share for d in chosen])
    lost, counts = 0, collections.Counter()
    for disk, count in zip(chosen, shares):
        with Stack() as own:
            outcomes, acknowledged = load(Running(disk, base, own), count, home, options.seed, checker)
        for number, problems in enumerate(outcomes):
            for problem in problems:
                print(f"LOST {disk.name} copy {number}: {problem}"[:1500], flush=True)
        bad = sum(bool(problems) for problems in outcomes)
        lost += bad
        counts[disk.make] += len(outcomes)
        span = f"{min(acknowledged)} to {max(acknowledged)} changes acknowledged" if acknowledged else "none"
        print(f"images {disk.name} ({disk.options}): {len(outcomes)} copies, {span}, {bad} lost", flush=True)
        command("rm", "-rf", base / disk.name)
    caught = canary(base, home, options.seed, checker)
    checker.close()
    print(f"images: snapshots ext4 {counts['ext4']}, xfs {counts['xfs']}, {lost} lost")
    return 0 if caught and not lost and sum(counts.values()) >= min(options.snapshots, len(chosen)) else 1


def spread(total, shares):
    """`total` in proportion to shares, one at least of each."""
    counts = [max(1, total * share // sum(shares)) for share in shares]
    while sum(counts) < total:
        counts[counts.index(min(counts, key=lambda c: c / shares[counts.index(c)]))] += 1
    return counts


def canary(base, home, seed, checker):
    """Without its syncs the same load must be seen to lose what it acknowledged."""
    lying = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0"]
    disk = Disk("canary", "ext4", "noauto_da_alloc,commit=1", "through", 1)
    with Stack() as own:
        outcomes, _ = load(Running(disk, base, own), 3, home, seed, checker, lying, pause=(0.8, 1.5))
    caught = any(outcomes)
    print(f"images canary: without its syncs, {sum(map(bool, outcomes))} of {len(outcomes)} copies are called lost: "
          f"{'caught' if caught else 'NOT CAUGHT'}")
    return caught


if __name__ == "__main__":
    main()
