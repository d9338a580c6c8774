#!/usr/bin/env python3
"""How long a model is still served after it was quarantined, or after its stored file was changed.

    latency.py [--of quarantine|write|mapping]... [--rounds N] [--models N] [--limit MS] [--seed N]

Owns: the clock. `securereg mount` and `securereg serve` are two processes on one root, so that the one that refuses is not the one that
was told. Two readers, each a process, read the model in a loop:

  open    opens the file, reads 4 KiB, closes it
  held    reads 4 KiB at any place of a descriptor that it has had open, and whose pages the kernel has cached

  quarantine   from the acknowledgement of an HTTP call to the first read that each reader is refused; and from the call's beginning
  write        from the end of an ordinary write(2) to the stored file to the quarantine in manifest.yaml, with nobody reading: the
               integrity monitor's own doing
  mapping      a store through a shared mapping of the stored file: nobody is told of it; the next pass finds it, and no read before
               gives the stored byte

Promises: every round is measured or is an error; a figure above the limit ends it with an error. Leaves out: load besides (soak.py).
"""

import argparse
import mmap
import multiprocessing
import os
import random
import statistics
import sys
import time

import daemons
import reader
from daemons import common, securereg

LIMITS = {"quarantine": 100, "write": 1000}


def read_by_open(path, _):
    with open(path, "rb", buffering=0) as file:
        return file.read(4096)


class ReadHeld:
    """A descriptor that is kept until it is refused."""

    def __init__(self):
        self.fd = None

    def __call__(self, path, lot):
        try:
            if self.fd is None:
                self.fd = os.open(path, os.O_RDONLY)
            return os.pread(self.fd, 4096, lot.randrange(0, 600_000))
        except OSError:
            if self.fd is not None:
                os.close(self.fd)
                self.fd = None
            raise


def watch(path, way, served, refused_at, reads, ends):
    """Reads in a loop; says whether it is served, and when it was first refused."""
    read, lot = way(), random.Random(1)
    while not ends.value:
        try:
            read(path, lot)
            reads.value += 1
            if not served.value:
                served.value = 1
        except OSError:
            if served.value:
                refused_at.value = time.monotonic()
                served.value = 0
            time.sleep(0.001)


class Rig:
    def __init__(self, options, home):
        self.options, self.home = options, home
        self.root, self.mountpoint, self.unseen = home / "root", home / "mount", 0
        self.mountpoint.mkdir()
        for number in range(options.models):
            source = common.write(home / f"m{number}-c5.gguf", reader.content(5) if number == 0 else common.gguf(2000, number))
            code, _, err = securereg(self.root, "promote", source, "--name", f"m{number}", "--move")
            if code != 0:
                raise SystemExit(f"promote: {err}")
        # As a service runs, with the monitor that it has.
        self.server = daemons.Daemon(["serve", "--listen", "127.0.0.1:0", "--root", self.root], home / "serve.log").start()
        self.mount = daemons.Daemon(["mount", self.mountpoint, "--root", self.root], home / "mount.log").start()
        self.http = daemons.Http(self.server.ready["listen"].removeprefix("http://"), self.root)
        self.path = str(self.mountpoint / "m0-c5.gguf")
        self.blob = next(p for p in (self.root / "blobs" / "sha256").iterdir() if p.stat().st_size == len(reader.content(5)))

    def quarantine(self):
        """Milliseconds, of each reader, from the acknowledgement and from the call."""
        ends = multiprocessing.Value("i", 0, lock=False)
        state = {}
        for name, way in (("open", lambda: read_by_open), ("held", ReadHeld)):
            shared = [multiprocessing.Value(kind, 0, lock=False) for kind in "idQ"]
            process = multiprocessing.Process(target=watch, args=(self.path, way, *shared, ends), daemon=True)
            process.start()
            state[name] = (*shared, process)
        found = {f"{name}, {since}": [] for name in state for since in ("from the acknowledgement", "from the call")}
        lot = random.Random(self.options.seed)
        try:
            for number in range(self.options.rounds):
                if daemons.wait_until(lambda: all(s[0].value for s in state.values()), 30, 0.001) is None:
                    raise SystemExit(f"round {number}: the model is not served again")
                time.sleep(lot.uniform(0, 0.01))
                begun = time.monotonic()
                self.http.quarantine("m0", "latency", f"I-{number}")
                acknowledged = time.monotonic()
                if daemons.wait_until(lambda: not any(s[0].value for s in state.values()), 30, 0.0005) is None:
                    raise SystemExit(f"round {number}: it is still served 30 s after its quarantine")
                for name, (_, at, _, _) in state.items():
                    found[f"{name}, from the acknowledgement"].append(max(0.0, at.value - acknowledged) * 1000)
                    found[f"{name}, from the call"].append((at.value - begun) * 1000)
                code, _, err = securereg(self.root, "release", "m0", "--reason", "latency")
                if code != 0:
                    raise SystemExit(f"release: {err}")
        finally:
            ends.value = 1
            for *_, reads, process in state.values():
                process.join(10)
        if not all(s[2].value > self.options.rounds for s in state.values()):
            raise SystemExit("a reader did not read")
        return found

    def is_quarantined(self):
        return b"quarantine:" in (self.root / "manifest.yaml").read_bytes()

    def heal(self, at, byte):
        write_byte(self.blob, at, byte)
        self.verify_good()

    def write(self):
        found, lot = [], random.Random(self.options.seed)
        for number in range(self.options.rounds):
            at = lot.randrange(64, self.blob.stat().st_size)
            old = write_byte(self.blob, at, None)
            ended = time.monotonic()
            if daemons.wait_until(self.is_quarantined, 10, 0.001) is None:
                raise SystemExit(f"round {number}: a write to a stored file is not noticed within 10 s: is there a monitor?")
            found.append((time.monotonic() - ended) * 1000)
            self.heal(at, old)
            # What the healing itself set off must be over.
            time.sleep(lot.uniform(0.05, 0.15))
        return {"from the write to the quarantine": found}

    def mapping(self):
        """Nothing is timed: what is stored through a mapping must not be read, and is found by the next pass."""
        lot, want = random.Random(self.options.seed), reader.content(5)
        refused = 0
        with open(self.blob, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            for number in range(self.options.rounds):
                at = lot.randrange(64, len(want))
                # The first store to a page takes a fault, which the file's times show; those after it do not, until the page is written back.
                # A check makes it be, because it reads the disk: whether any store leaves no trace after that is counted.
                view[at] = view[at]
                self.verify_good()
                before = self.blob.stat()
                view[at] ^= 1
                unseen = self.blob.stat().st_mtime_ns == before.st_mtime_ns
                for how in (reader.whole, reader.positions):
                    try:
                        how(self.path, want, lot)
                    except OSError:
                        refused += 1
                code, _, _ = securereg(self.root, "verify", "--all")
                if code != 3 or not self.is_quarantined():
                    raise SystemExit(f"round {number}: a store through a mapping passes a verification ({code})")
                self.unseen += unseen
                view[at] ^= 1
                self.verify_good()
        told = f"{self.options.rounds} stores ({self.unseen} left no trace in the file's times): each was found by the next pass; of "
        return {told + f"{2 * self.options.rounds} reads before it {refused} were refused, and no other gave a wrong byte": []}

    def verify_good(self):
        code, _, err = securereg(self.root, "verify", "m0")
        if code != 0:
            raise SystemExit(f"put right, and: {err}")


def write_byte(blob, at, byte):
    """An ordinary write; what was there."""
    blob.chmod(0o644)
    fd = os.open(blob, os.O_RDWR)
    old = os.pread(fd, 1, at)
    os.pwrite(fd, byte or bytes([old[0] ^ 1]), at)
    os.close(fd)
    blob.chmod(0o444)
    return old


def line(what, values):
    values = sorted(values)
    if not values:
        return f"| {what} | | | |"
    p99 = values[min(len(values) - 1, len(values) * 99 // 100)]
    return f"| {what} ({len(values)}) | {statistics.median(values):.2f} ms | {p99:.2f} ms | {values[-1]:.2f} ms |"


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--of", action="append", choices=["quarantine", "write", "mapping"])
    options.add_argument("--rounds", type=int, default=1000)
    options.add_argument("--models", type=int, default=1, help="so many in the registry")
    options.add_argument("--limit", type=float, help="milliseconds, instead of those of the promise")
    options.add_argument("--seed", type=int, default=1)
    options = options.parse_args()
    home = common.scratch("latency", os.environ.get("CRASH_TMP", "/var/tmp"))
    over = 0
    rig = None
    try:
        rig = Rig(options, home)
        print(f"load {os.getloadavg()[0]:.1f}, {options.models} models")
        print("| | median | 99th percentile | worst |\n|---|---|---|---|")
        for what in options.of or ["quarantine"]:
            for name, values in getattr(rig, what)().items():
                print(line(f"{what}: {name}", values), flush=True)
                limit = options.limit or LIMITS.get(what)
                if values and limit and "from the call" not in name and max(values) > limit:
                    print(f"{what}: {sum(v > limit for v in values)} of {len(values)} took over {limit:g} ms")
                    over += 1
    finally:
        for daemon in (getattr(rig, "mount", None), getattr(rig, "server", None)):
            if daemon and daemon.is_up():
                daemon.stop()
        os.system(f"umount -l {home / 'mount'} 2>/dev/null")
        common.remove(home)
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
