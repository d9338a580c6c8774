"""A disk as a power cut may leave it: what strace recorded, played back with any of the unsynced changes missing.

Owns: reading a recording, the model of what a sync makes durable, the states. Promises: nothing that a sync covers is ever missing;
everything else may be, alone or with others, in any order; a call that changes files in a way that the model does not know ends the
rig. Leaves out: which operations (replay.py), what a good state is (crash-check).

The model, which asks less of the file system than ext4, XFS and btrfs give:

  bytes, size    durable once an fsync or fdatasync of the file that began after the write has ended; until then each 4 KiB block of
                 each write may be there, missing, or zero, and of a block the first part only
  mode           durable once an fsync of the file has ended
  names          a new file, a link, a rename, a removal: durable once an fsync of the folder has ended (of a rename, the folder it
                 leads to; it is there whole or not at all); until then each may be there or not, in any order, whatever the syncs
                 of files say
"""

import hashlib
import os
import random
import re
import stat
from collections import namedtuple

CHANGES = ("open openat openat2 creat close dup dup2 dup3 fcntl lseek read readv write writev pwrite64 pwritev pwritev2 ftruncate truncate "
           "fallocate fsync fdatasync sync syncfs sync_file_range rename renameat renameat2 link linkat unlink unlinkat symlink symlinkat "
           "mkdir mkdirat rmdir mknod mknodat chmod fchmod fchmodat fchmodat2 copy_file_range ioctl sendfile splice mmap "
           "io_uring_setup").split()
BLOCK = 4096

Data = namedtuple("Data", "ino offset bytes")
Size = namedtuple("Size", "ino size")
Mode = namedtuple("Mode", "ino mode")
Names = namedtuple("Names", "entries")  # ((folder, name, ino or None), ...): all at once
Sync = namedtuple("Sync", "ino began data_only")
Acknowledged = namedtuple("Acknowledged", "count")


class Unknown(Exception):
    """A call that the model does not know."""


class Inode:
    def __init__(self, folder, mode, data=b""):
        self.folder, self.mode, self.data = folder, mode, data


class Recording:
    """The files of a folder as they were, and what was done to them since, in order."""

    def __init__(self, top):
        self.top = str(top)
        self.inodes, self.start, self.ops = {}, {}, []
        self.names = {}  # folder -> {name: ino}, as it is at the end of what was read so far
        self.ids = {}
        self.root = self.take(self.top)
        self.start = {folder: dict(names) for folder, names in self.names.items()}

    def take(self, path):
        info = os.lstat(path)
        if info.st_ino in self.ids:
            return self.ids[info.st_ino]
        ino = self.ids[info.st_ino] = len(self.inodes)
        if stat.S_ISDIR(info.st_mode):
            self.inodes[ino] = Inode(True, stat.S_IMODE(info.st_mode))
            self.names[ino] = {}
            for name in sorted(os.listdir(path)):
                self.names[ino][name] = self.take(os.path.join(path, name))
        else:
            with open(path, "rb") as file:
                self.inodes[ino] = Inode(False, stat.S_IMODE(info.st_mode), file.read())
        return ino

    def read(self, trace):
        """Adds what one command did."""
        Reader(self).read(trace)
        self.ops.append(Acknowledged(sum(isinstance(op, Acknowledged) for op in self.ops) + 1))

    def new(self, folder, mode):
        ino = len(self.inodes)
        self.inodes[ino] = Inode(folder, mode)
        if folder:
            self.names[ino] = {}
            self.start[ino] = {}
        return ino

    def rename(self, *entries):
        for folder, name, ino in entries:
            if ino is None:
                self.names[folder].pop(name, None)
            else:
                self.names[folder][name] = ino
        self.ops.append(Names(tuple(entries)))


class File:
    """An open file description."""

    def __init__(self, ino, append):
        self.ino, self.at, self.append = ino, 0, append


LINE = re.compile(r"^(\d+) +(.*)$")
WHOLE = re.compile(r"^([a-z0-9_]+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)")
RESUMED = re.compile(r"^<\.\.\. ([a-z0-9_]+) resumed>(.*)$")


class Reader:
    """One recording of strace -f -xx, call by call."""

    def __init__(self, recording):
        self.r = recording
        self.fds = {}
        # What a size is now, for writes behind the end and O_APPEND.
        self.sizes = {ino: len(inode.data) for ino, inode in recording.inodes.items()}
        for op in recording.ops:
            self.resize(op)

    def resize(self, op):
        if isinstance(op, Data):
            self.sizes[op.ino] = max(self.sizes.get(op.ino, 0), op.offset + len(op.bytes))
        elif isinstance(op, Size):
            self.sizes[op.ino] = op.size

    def add(self, op):
        self.r.ops.append(op)
        self.resize(op)

    def read(self, trace):
        open_calls = {}
        for line in trace.splitlines():
            match = LINE.match(line)
            if not match:
                continue
            thread, text = match.groups()
            if text.endswith("<unfinished ...>"):
                open_calls[thread] = (text[: -len("<unfinished ...>")].rstrip(), len(self.r.ops))
                continue
            began = len(self.r.ops)
            resumed = RESUMED.match(text)
            if resumed:
                first, began = open_calls.pop(thread)
                text = first + resumed.group(2)
            whole = WHOLE.match(text)
            if not whole:
                continue
            call, words, result = whole.groups()
            result = -1 if result == "?" else int(result, 0)
            if result >= 0:
                self.call(call, split(words), result, began)

    def at(self, folder_fd, path):
        """The folder and name that a path means; none when it is not ours."""
        if path.startswith(self.r.top + "/") or path == self.r.top:
            here, parts = self.r.root, [p for p in path[len(self.r.top):].split("/") if p]
        elif path.startswith("/") or folder_fd not in self.fds:
            return None
        else:
            here, parts = self.fds[folder_fd].ino, [p for p in path.split("/") if p not in ("", ".")]
        if not parts:
            return (None, None, here)
        for part in parts[:-1]:
            here = self.r.names[here].get(part)
            if here is None:
                raise Unknown(f"no folder {part} of {path}")
        return (here, parts[-1], self.r.names.get(here, {}).get(parts[-1]))

    def call(self, call, words, result, began):
        fd = lambda n: -100 if words[n].startswith("AT_FDCWD") else int(words[n], 0)
        ours = lambda n: self.fds.get(fd(n))
        if call in ("open", "openat", "openat2", "creat"):
            shift = 0 if call in ("open", "creat") else 1
            flags = "O_CREAT|O_TRUNC|O_WRONLY" if call == "creat" else words[shift + 1]
            mode = 0o600
            for word in words[shift + 1:]:
                octal = re.search(r"(?:mode=)?\b(0[0-7]+)\b", word)
                mode = int(octal.group(1), 8) if octal else mode
            self.fds.pop(result, None)
            self.opened(-100 if shift == 0 else fd(0), text(words[shift]), flags, mode, result)
        elif call == "close":
            self.fds.pop(fd(0), None)
        elif call in ("dup", "dup2", "dup3") or (call == "fcntl" and "F_DUPFD" in words[1]):
            self.fds.pop(result, None)
            if ours(0):
                self.fds[result] = self.fds[fd(0)]
        elif call == "fcntl":
            pass
        elif call == "lseek":
            if ours(0):
                ours(0).at = result
        elif call in ("read", "readv"):
            if ours(0):
                ours(0).at += result
        elif call in ("write", "pwrite64"):
            if ours(0):
                data = text(words[1], raw=True)
                if len(data) < result:
                    raise Unknown("strace kept only a part of a write")
                file = ours(0)
                offset = int(words[3]) if call == "pwrite64" else self.sizes[file.ino] if file.append else file.at
                self.add(Data(file.ino, offset, data[:result]))
                if call == "write":
                    file.at = offset + result
        elif call == "ftruncate":
            if ours(0) and self.sizes.get(ours(0).ino) != int(words[1]):
                self.add(Size(ours(0).ino, int(words[1])))
        elif call in ("fsync", "fdatasync"):
            if ours(0):
                self.r.ops.append(Sync(ours(0).ino, began, call == "fdatasync"))
        elif call in ("rename", "renameat", "renameat2"):
            one, two = (self.at(-100, text(words[0])), self.at(-100, text(words[1]))) if call == "rename" else (
                self.at(fd(0), text(words[1])), self.at(fd(2), text(words[3])))
            if (one is None) != (two is None) or (call == "renameat2" and words[4] not in ("0", "RENAME_NOREPLACE")):
                raise Unknown(f"{call}{words}")
            if one and one[2] != two[2]:
                self.r.rename((one[0], one[1], None), (two[0], two[1], one[2]))
        elif call in ("link", "linkat"):
            shift = 0 if call == "link" else 1
            source = text(words[shift])
            to = self.at(-100 if shift == 0 else fd(2), text(words[1 if shift == 0 else 3]))
            by_fd = re.fullmatch(r"/proc/(?:self|thread-self)/fd/(\d+)", source)
            if to:
                found = self.fds.get(int(by_fd.group(1))) if by_fd else None
                ino = found.ino if found else (self.at(-100 if shift == 0 else fd(0), source) or (0, 0, None))[2]
                if ino is None:
                    raise Unknown(f"{call}{words}")
                self.r.rename((to[0], to[1], ino))
        elif call in ("unlink", "unlinkat", "rmdir"):
            where = self.at(-100, text(words[0])) if call != "unlinkat" else self.at(fd(0), text(words[1]))
            if where:
                self.r.rename((where[0], where[1], None))
        elif call in ("mkdir", "mkdirat"):
            where = self.at(-100, text(words[0])) if call == "mkdir" else self.at(fd(0), text(words[1]))
            if where:
                self.r.rename((where[0], where[1], self.r.new(True, int(words[-1], 8) & 0o755)))
        elif call in ("chmod", "fchmod", "fchmodat", "fchmodat2"):
            ino = ours(0).ino if call == "fchmod" and ours(0) else None
            if call in ("chmod", "fchmodat", "fchmodat2"):
                where = self.at(-100, text(words[0])) if call == "chmod" else self.at(fd(0), text(words[1]))
                ino = where[2] if where else None
            if ino is not None:
                self.add(Mode(ino, int(words[1 if call in ("chmod", "fchmod") else 2], 8)))
        elif call == "fallocate":
            if ours(0) and int(words[2]) + int(words[3]) > self.sizes[ours(0).ino] and "KEEP_SIZE" not in words[1]:
                self.add(Size(ours(0).ino, int(words[2]) + int(words[3])))
        elif call == "mmap":
            if "MAP_SHARED" in words[3] and "PROT_WRITE" in words[2] and not words[4].startswith("-") and ours(4):
                raise Unknown("a writable mapping of a file")
        elif call == "ioctl":
            if ours(0) and not words[1].startswith(("FS_IOC_GETFLAGS", "TCGETS", "TIOC")):
                raise Unknown(f"{call}{words}")
        elif call in ("sync", "syncfs", "sync_file_range"):
            pass  # Promise less than they do.
        elif call == "io_uring_setup" or any(word.isdigit() and int(word) in self.fds for word in words[:3]):
            raise Unknown(f"{call}{words}")

    def opened(self, folder, path, flags, mode, fd):
        where = self.at(folder, path)
        if where is None:
            return
        if "O_TMPFILE" in flags:
            raise Unknown("O_TMPFILE")
        above, name, ino = where
        if name == "..":
            return
        if ino is None and "O_CREAT" not in flags:
            raise Unknown(f"{path} was opened, and is not known")
        if ino is None:
            ino = self.r.new(False, mode)
            self.sizes[ino] = 0
            self.r.rename((above, name, ino))
        elif "O_TRUNC" in flags and self.sizes.get(ino):
            self.add(Size(ino, 0))
        self.fds[fd] = File(ino, "O_APPEND" in flags)


def split(words):
    """The arguments of a call: commas outside of quotes, braces and brackets."""
    found, depth, quoted, begin = [], 0, False, 0
    # Strings are all in hexadecimal, so that no quote is inside one.
    for match in re.finditer(r'["{}\[\](),]', words):
        char = match.group()
        if char == '"':
            quoted = not quoted
        elif not quoted and char in "{[(":
            depth += 1
        elif not quoted and char in "}])":
            depth -= 1
        elif not quoted and char == "," and depth == 0:
            found.append(words[begin:match.start()].strip())
            begin = match.end()
    return [*found, words[begin:].strip()]


def text(word, raw=False):
    inside = word[word.index('"') + 1: word.rindex('"')]
    data = bytes.fromhex(inside.replace("\\x", ""))
    return data if raw else data.decode()


# ---- what a power cut may leave

class Cut:
    """The states that a power cut after the first `length` calls may leave."""

    def __init__(self, recording, length, without_syncs=False):
        self.recording, self.ops = recording, recording.ops[:length]
        durable = [False] * length
        for at, op in enumerate(self.ops):
            if isinstance(op, Sync) and not without_syncs:
                for i in range(op.began):
                    durable[i] = durable[i] or covers(op, self.ops[i])
        changes = (Data, Size, Mode, Names)
        self.pending = [i for i, op in enumerate(self.ops) if isinstance(op, changes) and not durable[i]]
        self.durable = durable
        self.acknowledged = sum(isinstance(op, Acknowledged) for op in self.ops)

    def states(self, samples, seed):
        """(what is lost in words, the state): the worst cases, and some by lot."""
        names = [i for i in self.pending if isinstance(self.ops[i], Names)]
        files = [i for i in self.pending if not isinstance(self.ops[i], Names)]
        yield "all that was not synced", self.state({})
        if not self.pending:
            return
        yield "nothing", self.state({i: "whole" for i in self.pending})
        yield "the bytes of what was not synced", self.state({i: "whole" for i in names})
        yield "the bytes, not the sizes", self.state({**{i: "whole" for i in names}, **{i: "zero" for i in files}})
        yield "the names", self.state({i: "whole" for i in files})
        last = next((i for i in reversed(files) if isinstance(self.ops[i], Data)), None)
        if last is not None:
            for how in ("torn", "tail"):
                yield f"a part of the last write ({how})", self.state({**{i: "whole" for i in self.pending}, last: how})
        for i in names:
            yield "one name", self.state({j: "whole" for j in self.pending if j != i})
            yield "every name but one", self.state({j: "whole" for j in (*files, i)})
        for n in range(samples):
            lot = random.Random(f"{seed} {len(self.ops)} {n}")
            kept = {}
            if lot.random() < 0.5:  # As a journal does.
                kept.update((i, "whole") for i in names[: lot.randint(0, len(names))])
            else:
                kept.update((i, "whole") for i in names if lot.random() < 0.5)
            for i in files:
                how = lot.choice(["whole", "lost", "zero", "torn", "tail", "blocks"])
                if how != "lost":
                    kept[i] = (how, lot.random())
            yield f"a lot, {seed}/{n}", self.state(kept)

    def state(self, kept):
        """The files as they are with these unsynced changes there, and everything synced."""
        names = {folder: dict(entries) for folder, entries in self.recording.start.items()}
        data = {ino: inode.data for ino, inode in self.recording.inodes.items()}
        modes = {ino: inode.mode for ino, inode in self.recording.inodes.items()}
        for i, op in enumerate(self.ops):
            how = "whole" if self.durable[i] else kept.get(i)
            if how is None or isinstance(op, (Sync, Acknowledged)):
                continue
            if isinstance(op, Names):
                for folder, name, ino in op.entries:
                    if ino is None:
                        names[folder].pop(name, None)
                    else:
                        # A rename moves one name: another that the file may have stays.
                        names[folder][name] = ino
            elif isinstance(op, Mode):
                modes[op.ino] = op.mode
            elif isinstance(op, Size):
                data[op.ino] = data[op.ino][: op.size].ljust(op.size, b"\0")
            else:
                data[op.ino] = written(data[op.ino], op, how)
        return State(self.recording.root, self.recording.inodes, names, data, modes)


def covers(sync, op):
    if isinstance(op, Names):
        led_to = [folder for folder, _, ino in op.entries if ino is not None] or [folder for folder, _, _ in op.entries]
        return sync.ino in led_to and not sync.data_only
    if isinstance(op, Mode):
        return op.ino == sync.ino and not sync.data_only
    return isinstance(op, (Data, Size)) and op.ino == sync.ino


def written(old, op, how):
    """A file after as much of a write as came to the disk."""
    lot = None
    if isinstance(how, tuple):
        how, lot = how
    end = op.offset + len(op.bytes)
    new = bytearray(old.ljust(end, b"\0"))
    if how == "whole":
        new[op.offset:end] = op.bytes
    elif how == "torn":
        half = int(len(op.bytes) * (0.5 if lot is None else lot))
        new = bytearray(old.ljust(op.offset + half, b"\0"))
        new[op.offset: op.offset + half] = op.bytes[:half]
    elif how == "tail":
        # The blocks after the first are there, and so is the size; the first is as it was.
        edge = min(end, (op.offset // BLOCK + 1) * BLOCK)
        new[edge:end] = op.bytes[edge - op.offset:]
    elif how == "blocks":
        dice = random.Random(lot)
        for block in range(op.offset // BLOCK, -(-end // BLOCK)):
            begin, stop = max(op.offset, block * BLOCK), min(end, (block + 1) * BLOCK)
            if dice.random() < 0.5:
                new[begin:stop] = op.bytes[begin - op.offset: stop - op.offset]
    return bytes(new)


class State:
    """Folders and files, to be laid out and looked at."""

    def __init__(self, root, inodes, names, data, modes):
        self.root, self.inodes, self.names, self.data, self.modes = root, inodes, names, data, modes

    def walk(self, folder=None, path=""):
        for name, ino in sorted(self.names[self.root if folder is None else folder].items()):
            yield f"{path}{name}", ino
            if self.inodes[ino].folder:
                yield from self.walk(ino, f"{path}{name}/")

    def key(self):
        """Two states with the same key are the same."""
        hashed = hashlib.sha256()
        links = {}
        for path, ino in self.walk():
            first = links.setdefault(ino, path)
            content = b"" if self.inodes[ino].folder else hashlib.sha256(self.data[ino]).digest()
            hashed.update(f"{path}\0{first}\0{self.modes[ino]:o}\0".encode() + content)
        return hashed.digest()

    def lay_out(self, target):
        """Writes it down under `target`, which is made."""
        os.mkdir(target, 0o700)
        made = {}
        folders = []
        for path, ino in self.walk():
            place = os.path.join(target, path)
            if ino in made and not self.inodes[ino].folder:
                os.link(made[ino], place)
            elif self.inodes[ino].folder:
                os.mkdir(place, 0o700)
                folders.append((place, self.modes[ino]))
            else:
                made[ino] = place
                with open(place, "wb") as file:
                    file.write(self.data[ino])
                os.chmod(place, self.modes[ino])
        for place, mode in folders:
            os.chmod(place, mode)
