"""One reader of the mount, in a process of its own.

Owns: reading in every way, and telling wrong bytes. Promises: each byte it gets is compared with what that file is by its name; a read
that ends before the file does, without an error, is wrong too. Leaves out: whether an error was to be expected (soak.py).

A file's name says what is in it: `...-c<number>.gguf` holds content <number>, wherever it lies.
"""

import mmap
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "crash"))
import common  # noqa: E402

SIZES = [1000, 20_000, 65_536 - 64, 65_536 * 3, 300_000, 1_000_000, 2_500_000, 5_000_000]
CONTENT = re.compile(r"-c(\d+)\.(?:gguf|safetensors)$")
SPLIT = re.compile(r"^split\d*-(0000\d)-of-00002\.gguf$")


def content(number):
    """The bytes that content `number` is."""
    return common.gguf(SIZES[number % len(SIZES)], 1000 + number)


class Expected:
    """What files hold, made once each."""

    def __init__(self):
        self.kept = {}

    def of(self, path):
        match = CONTENT.search(path)
        if not match:
            return None
        number = int(match.group(1))
        if number not in self.kept:
            self.kept[number] = content(number)
        return self.kept[number]


class Wrong(Exception):
    """Bytes that were never promoted."""


def run(mount, seed, ends, told, counts):
    """Reads until `ends` is set. Tells ("wrong", ...) and ("error", time, path, errno); counts good reads, bytes and errors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lot, expected = random.Random(seed), Expected()
    ways = [whole, pieces, positions, mapped]
    while not ends.is_set():
        path = None
        try:
            path = choose(mount, lot)
            if path is None:
                time.sleep(0.02)
                continue
            want = expected.of(path)
            if want is None:
                continue
            got = lot.choices(ways, [4, 3, 3, 1])[0](path, want, lot)
            with counts.get_lock():
                counts[0] += 1
                counts[1] += got
        except Wrong as wrong:
            told.put(("wrong", time.time(), path, str(wrong)))
        except OSError as e:
            with counts.get_lock():
                counts[2] += 1
            told.put(("error", time.time(), path, e.errno))
            time.sleep(0.005)


def choose(mount, lot):
    """A file, by walking down from the top."""
    here = str(mount)
    while True:
        names = os.listdir(here)
        if not names:
            return None
        here = os.path.join(here, lot.choice(names))
        if not os.path.isdir(here):
            return here


def compare(got, want, offset):
    if got != want[offset: offset + len(got)]:
        at = next(i for i, (a, b) in enumerate(zip(got, want[offset:] + b"\0" * len(got))) if a != b)
        raise Wrong(f"a wrong byte at {offset + at}")


def whole(path, want, lot):
    with open(path, "rb", buffering=0) as file:
        at = 0
        while got := file.read(lot.choice([4096, 100_000, 1 << 20])):
            compare(got, want, at)
            at += len(got)
        if at != len(want):
            raise Wrong(f"it ended after {at} of {len(want)} bytes without an error")
        return at


def pieces(path, want, lot):
    """Slowly, so that much happens while the file is open."""
    fd = os.open(path, os.O_RDONLY)
    try:
        at = 0
        for _ in range(20):
            got = os.read(fd, lot.randint(1, 50_000))
            if not got and at != len(want):
                raise Wrong(f"it ended after {at} of {len(want)} bytes without an error")
            compare(got, want, at)
            at += len(got)
            time.sleep(lot.random() * 0.05)
        return at
    finally:
        os.close(fd)


def positions(path, want, lot):
    fd = os.open(path, os.O_RDONLY)
    try:
        total = 0
        for _ in range(30):
            offset = lot.randrange(len(want))
            got = os.pread(fd, lot.randint(1, 200_000), offset)
            if not got:
                raise Wrong(f"nothing at {offset} of {len(want)} bytes without an error")
            compare(got, want, offset)
            total += len(got)
        return total
    finally:
        os.close(fd)


def mapped(path, want, lot):
    """In a child: a page that is refused is a SIGBUS."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)
            fd = os.open(path, os.O_RDONLY)
            size = os.fstat(fd).st_size
            if size != len(want):
                code = 4  # What the daemon shows of a revoked file is no length to map.
            else:
                with mmap.mmap(fd, size, prot=mmap.PROT_READ) as view:
                    code = 0
                    for _ in range(10):
                        offset = lot.randrange(size)
                        got = view[offset: offset + 100_000]
                        if got != want[offset: offset + len(got)]:
                            code = 1
        except OSError:
            code = 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 1:
        raise Wrong("wrong bytes in a mapping")
    if code not in (0, 2, 3, 4, -signal.SIGBUS):
        raise Wrong(f"a reader of a mapping ended with {code}")
    if code != 0:
        raise OSError(5, "a mapping was refused")
    return len(want)


def canary(folder):
    """Each way of reading must tell a wrong byte, and an end before the end."""
    lot, want = random.Random(1), content(1)
    altered = bytearray(want)
    for at in range(0, len(altered), 500):
        altered[at] ^= 1
    for name, data in (("altered", bytes(altered)), ("short", want[:-600])):
        path = common.write(folder / f"{name}-c1.gguf", data)
        for way in (whole, pieces, positions, mapped):
            try:
                for _ in range(20):
                    way(str(path), want, lot)
            except Wrong:
                continue
            except OSError:
                if way is mapped and name == "short":
                    continue
            return f"{way.__name__} takes an {name} file for a good one"
    return None
