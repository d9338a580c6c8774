#!/usr/bin/env python3
"""A registry under everything at once, for minutes: no wrong byte, no leak, no lost record.

    soak.py [--minutes M] [--kill-every S] [--readers N] [--seed N] [--report FILE]

Owns: the load, the journal of what was acknowledged, the judgement. Runs `securereg mount` and `securereg serve` on one root, and at once:
8 readers on the mount (reads in every way, mappings too); promotions, tags that move and deletes; `verify --all` again and again; a
quarantine every second, by HTTP and by command in turn, each released later; every ten seconds a byte of a stored file is changed by a
write, and later put right; every minute the mount's daemon is killed and started again.

Promises, each of which ends the soak with an error when it does not hold:
  bytes     no reader gets a byte that was not promoted, or an end before the end; models that nobody touches are refused only while
            the daemon is down; a read of a quarantined one that begins 100 ms after the acknowledgement is refused; a tampered one is quarantined
  leaks     descriptors and memory of the daemons do not grow; one mount at most, one record of it; nothing in tmp/ nor unheld at the end
  records   every acknowledged change is in the log, as often as it was acknowledged; the chain holds; what is listed is what the
            journal says; crash-check calls the root whole
Leaves out: how fast anything is (latency.py).
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path

import daemons
import reader
from daemons import common, securereg

# Contents: of steady models, of those to be quarantined, of those to be tampered with, of those that come and go.
STEADY, HELD, TAMPERED, CHURN = range(0, 8), range(8, 12), range(12, 15), range(20, 60)


class Soak:
    def __init__(self, options, home):
        self.options, self.home = options, home
        self.root, self.mountpoint = home / "root", home / "mount"
        self.sources = home / "sources"
        self.problems, self.journal = [], collections.Counter()
        self.lock = threading.Lock()
        self.ends = threading.Event()
        self.down = []  # [from, until] while the mount's daemon is down
        self.samples = collections.defaultdict(list)
        self.times = collections.defaultdict(list)
        self.listed = {}  # name -> sha256 of what comes and goes
        self.held = set()

    def wrong(self, what):
        with self.lock:
            if len(self.problems) < 200:
                self.problems.append(what)
                print(f"WRONG {what}", flush=True)

    def acknowledged(self, event, name):
        with self.lock:
            self.journal[event, name] += 1

    # ---- what is done

    def source(self, number, stem):
        path = self.sources / f"{stem}-c{number}.gguf"
        if not path.exists():
            common.write(path, reader.content(number))
        return path

    def promote(self, number, name, stem):
        code, out, err = securereg(self.root, "promote", self.source(number, stem), "--name", name, "--json")
        if code != 0:
            return self.wrong(f"promote {name}: {code} {err}")
        told = json.loads(out)
        # A tag that moves to where it is changes nothing, and nothing is written down.
        if told["outcome"] != "already_there":
            self.acknowledged("promote", name)
        return told["artifact"]["sha256"]

    def setup(self):
        self.mountpoint.mkdir()
        self.sources.mkdir()
        for number in STEADY:
            self.promote(number, f"steady-{number}", f"steady-{number}")
        folder = self.sources / "folder"
        common.write(folder / "config.json", b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
        common.write(folder / "part-c6.gguf", reader.content(6))
        code, _, err = securereg(self.root, "promote", folder, "--name", "steady-folder")
        if code != 0:
            raise SystemExit(f"the folder: {err}")
        self.acknowledged("promote", "steady-folder")
        for number in (*HELD, *TAMPERED):
            self.promote(number, f"model-{number}", f"model-{number}")
        self.server = daemons.Daemon(["serve", "--listen", "127.0.0.1:0", "--root", self.root], self.home / "serve.log").start()
        self.mount = daemons.Daemon(["mount", self.mountpoint, "--root", self.root], self.home / "mount.log").start()
        self.http = daemons.Http(self.server.ready["listen"].removeprefix("http://"), self.root)

    def loop(self, every, act):
        """A thread that acts every so many seconds until the end; what it throws is a problem."""
        def body():
            due = time.monotonic()
            while not self.ends.is_set():
                try:
                    act()
                except Exception as e:  # noqa: BLE001: whatever it is, it is a finding
                    self.wrong(f"{act.__name__}: {e!r}")
                due += every
                self.ends.wait(max(0.0, due - time.monotonic()))
                due = max(due, time.monotonic() - every)
        return threading.Thread(target=body, name=act.__name__, daemon=True)

    def quarantine_one(self):
        """One of those that are promoted is quarantined, and must be refused; those of before are released."""
        lot, n = self.lot_q, self.quarantines
        self.quarantines += 1
        free = [number for number in HELD if number not in self.held]
        number = lot.choice(free)
        name = f"model-{number}"
        begun = time.monotonic()
        if n % 2:
            code, _, err = securereg(self.root, "quarantine", name, "--reason", "soak", "--incident", f"I-{n}")
            if code != 0:
                return self.wrong(f"quarantine {name}: {code} {err}")
        else:
            self.http.quarantine(name, "soak", f"I-{n}")
        acknowledged = time.monotonic()
        self.acknowledged("quarantine", name)
        self.held.add(number)
        path = self.mountpoint / f"model-{number}-c{number}.gguf"
        served = served_until(path, acknowledged)
        if served > 0.1 and not self.was_down(time.time() - served - 1, time.time()):
            self.wrong(f"{name}: a read that began {served * 1000:.0f} ms after its quarantine was served")
        self.times["quarantine_ms"].append((acknowledged - begun) * 1000)
        self.times["served_after_ms"].append(served * 1000)
        while len(self.held) > 2:
            number = lot.choice(sorted(self.held - {number}))
            code, _, err = securereg(self.root, "release", f"model-{number}", "--reason", "soak")
            if code != 0:
                self.wrong(f"release model-{number}: {code} {err}")
            else:
                self.acknowledged("release", f"model-{number}")
            self.held.discard(number)

    def tamper_one(self):
        """A write to a stored file; it must be noticed, by whom does not matter, and is put right."""
        number = self.lot_t.choice(list(TAMPERED))
        name = f"model-{number}"
        blob = self.root / "blobs" / "sha256" / json.loads(securereg(self.root, "show", name, "--json")[1])["sha256"]
        at = self.lot_t.randrange(64, blob.stat().st_size)
        flip(blob, at)
        begun = time.monotonic()
        noticed = daemons.wait_until(lambda: self.status(name) == "quarantined", 30, every=0.1)
        if noticed is None:
            self.wrong(f"{name} was changed {time.monotonic() - begun:.0f} s ago and nobody noticed")
        else:
            self.times["noticed_ms"].append(noticed * 1000)
        self.tampers += 1
        flip(blob, at)
        # A verification finds it good again, and says so.
        code, _, err = securereg(self.root, "verify", name)
        if code != 0 or self.status(name) != "promoted":
            self.wrong(f"{name} was put right and is not served: {code} {err}")

    def status(self, name):
        return json.loads(securereg(self.root, "show", name, "--json")[1])["status"]

    def change(self):
        """Promotions, deletes and tags that move."""
        lot = self.lot_c
        choice = lot.random()
        number = lot.choice(list(CHURN))
        if choice < 0.3:
            name = f"tag/model:v{lot.randint(1, 2)}"
            sha256 = self.promote(number, name, "tagged")
            self.listed[name] = sha256
        elif choice < 0.65 or len(self.listed) < 4:
            self.churned += 1
            name = f"churn-{self.churned}"
            sha256 = self.promote(number, name, name)
            if sha256:
                self.listed[name] = sha256
            (self.sources / f"{name}-c{number}.gguf").unlink()
        else:
            name = lot.choice(sorted(self.listed))
            code, _, err = securereg(self.root, "delete", name)
            if code != 0:
                return self.wrong(f"delete {name}: {code} {err}")
            self.acknowledged("delete", name)
            del self.listed[name]

    def verify(self):
        code, out, err = securereg(self.root, "verify", "--all", "--json")
        self.verifications += 1
        if code not in (0, 3, 6):
            return self.wrong(f"verify --all: {code} {err}")
        touched = {f"model-{n}" for n in TAMPERED}
        for model in json.loads(out)["models"]:
            if model["status"] != "verified" and model["name"] not in touched:
                self.wrong(f"verify --all: {model}")

    def kill_mount(self):
        if time.monotonic() - self.begun < self.options.kill_every * 0.9:
            return
        self.measure("before a kill")
        self.down.append([time.time(), float("inf")])
        self.mount.kill()
        self.mount.start()
        self.down[-1][1] = time.time()
        self.kills += 1
        if (count := daemons.mounts_at(self.mountpoint)) != 1:
            self.wrong(f"{count} mounts at the mountpoint after a restart")
        # Who asks for the mounts removes the records of dead ones.
        told = json.loads(securereg(self.root, "status", "--json")[1])["mounts"]
        records = len(list((self.root / "run" / "mounts").iterdir()))
        if (len(told), records) != (1, 1):
            self.wrong(f"mounts after a restart: {told}, and {records} records of them")

    def was_down(self, since, until):
        return any(begin - 0.2 <= until and since <= end + 1.0 for begin, end in self.down)

    # ---- what is seen

    def measure(self, _when=""):
        for name, daemon in (("serve", self.server), ("mount", self.mount)):
            if not daemon.is_up():
                self.wrong(f"{name} has ended with {daemon.process.poll()}")
                continue
            self.samples[name].append((time.monotonic() - self.begun, daemon.descriptors(), daemon.memory()))

    def sample(self):
        begun = time.time()
        if self.was_down(begun - 1, begun):
            return
        try:
            self.measure()
        except (OSError, StopIteration):
            # Killed by this rig in the middle of it: what is left of a process has no figures.
            time.sleep(1)
            if not self.was_down(begun - 1, time.time()):
                raise

    def run(self):
        self.setup()
        seed = self.options.seed
        self.lot_q, self.lot_t, self.lot_c = (random.Random(f"{seed} {what}") for what in "qtc")
        self.quarantines = self.tampers = self.churned = self.verifications = self.kills = 0
        self.begun = time.monotonic()
        ends, told = multiprocessing.Event(), multiprocessing.Queue()
        counts = multiprocessing.Array("Q", 3)
        readers = [multiprocessing.Process(target=reader.run, args=(self.mountpoint, f"{seed} {n}", ends, told, counts), daemon=True)
                   for n in range(self.options.readers)]
        errors = collections.Counter()
        listener = threading.Thread(target=self.listen, args=(told, errors), daemon=True)
        threads = [self.loop(1, self.quarantine_one), self.loop(10, self.tamper_one), self.loop(0.3, self.change), self.loop(3, self.verify),
                   self.loop(self.options.kill_every, self.kill_mount), self.loop(2, self.sample)]
        for each in (*readers, listener, *threads):
            each.start()
        self.ends.wait(self.options.minutes * 60)
        self.ends.set()
        for thread in threads:
            thread.join()
        ends.set()
        for each in readers:
            each.join(60)
            if each.exitcode != 0:
                self.wrong(f"a reader ended with {each.exitcode}")
        told.put(None)
        listener.join()
        self.reads, self.bytes, self.refused = counts
        self.errors = errors
        self.finish()

    def listen(self, told, errors):
        """What readers say. Errors of models that nobody touches must be those of a daemon that is down; told a moment later."""
        late = []
        while (word := told.get()) is not None:
            if word[0] == "wrong":
                self.wrong(f"{word[2]}: {word[3]}")
                continue
            _, when, path, errno = word
            errors[os.strerror(errno)] += 1
            if path is None or "steady" in Path(path).name or "part-c6" in path:
                late.append((when, path, errno))
        for when, path, errno in late:
            if not self.was_down(when, when):
                self.wrong(f"{path}: {os.strerror(errno)}, and the daemon was up")

    # ---- the end

    def finish(self):
        self.measure()
        self.check_leaks()
        for name, daemon in (("serve", self.server), ("mount", self.mount)):
            if (code := daemon.stop()) != 0:
                self.wrong(f"{name} ends with {code}")
        if daemons.mounts_at(self.mountpoint):
            self.wrong("the mount is left behind")
        if left := list((self.root / "run" / "mounts").iterdir()):
            self.wrong(f"records of mounts are left behind: {left}")
        self.check_records()
        for name in ("serve", "mount"):
            if "panicked" in (self.home / f"{name}.log").read_text(errors="replace"):
                self.wrong(f"{name} panicked: {(self.home / f'{name}.log').read_text(errors='replace')[-2000:]}")

    def check_leaks(self):
        """The later half against the earlier: what leaks grows."""
        for name, samples in self.samples.items():
            warm = [s for s in samples if s[0] > samples[-1][0] * 0.2]
            half = len(warm) // 2
            if half < 5:
                self.wrong(f"{name}: {len(samples)} samples are too few to see a leak")
                continue
            for column, what, slack in ((1, "descriptors", 8), (2, "KiB of memory", 16 << 10)):
                early, late = (statistics.median(s[column] for s in part) for part in (warm[:half], warm[half:]))
                if late > early * 1.25 + slack:
                    self.wrong(f"{name}: {early:.0f} {what} grew to {late:.0f}")
                self.times[f"{name}: {what}"] = [early, late, max(s[column] for s in samples)]
        # Promotions under way have ended, daemons are still there.
        if left := list((self.root / "tmp").iterdir()):
            self.wrong(f"left in tmp/: {left}")

    def check_records(self):
        code, out, err = securereg(self.root, "audit", "--verify")
        if code != 0:
            self.wrong(f"audit --verify: {code} {err}")
        applied = collections.Counter()
        for line in json.loads(securereg(self.root, "audit", "--json")[1]):
            if line["phase"] == "applied":
                applied[line["event"], line["name"]] += 1
        tampered = {f"model-{n}" for n in TAMPERED}
        for (event, name), count in self.journal.items():
            if applied[event, name] != count and name not in tampered:
                self.wrong(f"{event} {name}: {count} acknowledged, {applied[event, name]} in the log")
        for (event, name), count in applied.items():
            if event in ("promote", "delete", "release") and count > self.journal[event, name]:
                self.wrong(f"{event} {name}: {count} in the log, {self.journal[event, name]} acknowledged")
        for event in ("quarantine", "restore"):
            if (count := sum(applied[event, name] for name in tampered)) < self.tampers:
                self.wrong(f"{self.tampers} files were changed, {count} times {event} is in the log")
        listed = {m["name"]: m["sha256"] for m in json.loads(securereg(self.root, "list", "--json")[1])}
        mine = {name: sha256 for name, sha256 in listed.items() if name.startswith(("churn-", "tag/"))}
        if mine != self.listed:
            self.wrong(f"listed {mine} instead of {self.listed}")
        self.records = sum(self.journal.values())
        checker = common.Checker(common.write(self.home / "probe.gguf", common.gguf(1000, 99)))
        found = checker.look(self.root)
        checker.close()
        for problem in found["problems"]:
            self.wrong(f"crash-check: {problem}")
        if found["garbage"]:
            self.wrong(f"{found['garbage']} files are stored that nothing holds")

    def report(self):
        """What happened, in words."""
        lines = [
            f"soak: {self.options.minutes:g} minutes, seed {self.options.seed}, {self.options.readers} readers",
            f"reads: {self.reads} whole, {self.bytes / 1e9:.1f} GB compared, {self.refused} refused "
            f"({', '.join(f'{n} {what}' for what, n in self.errors.most_common())})",
            f"changes acknowledged: {self.records}: "
            + ", ".join(f"{sum(n for (e, _), n in self.journal.items() if e == event)} {event}" for event in
                        ("promote", "delete", "quarantine", "release")),
            f"verify --all: {self.verifications}; files changed: {self.tampers}; daemon killed: {self.kills}",
        ]
        for what, values in sorted(self.times.items()):
            if what.endswith("_ms"):
                values.sort()
                lines.append(f"{what}: median {statistics.median(values):.1f}, worst {values[-1]:.1f} ({len(values)})")
            else:
                lines.append(f"{what}: {values[0]:.0f} in the earlier half, {values[1]:.0f} in the later, {values[2]} at most")
        if self.down:
            lines.append(f"down after a kill: {max(end - begin for begin, end in self.down):.2f} s at most")
        lines.append(f"{len(self.problems)} wrong")
        return "\n".join(lines)


def served_until(path, since):
    """How long after `since` the last read began that the mount served; it is read until it refuses."""
    last = since
    while (begun := time.monotonic()) - since < 5:
        try:
            with open(path, "rb", buffering=0) as file:
                file.read(1)
            last = begun
        except OSError:
            break
    return last - since


def flip(blob, at):
    """An ordinary write by whoever may: root."""
    blob.chmod(0o644)
    with open(blob, "r+b", buffering=0) as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))
    blob.chmod(0o444)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float, default=2)
    options.add_argument("--kill-every", type=float, default=60)
    options.add_argument("--readers", type=int, default=8)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--report", help="also write what happened to this file")
    options = options.parse_args()
    home = common.scratch("soak", os.environ.get("CRASH_TMP", "/var/tmp"))
    if blind := reader.canary(home / "canary"):
        raise SystemExit(f"soak canary: NOT CAUGHT: {blind}")
    print("soak canary: wrong bytes and early ends are caught", flush=True)
    soak = Soak(options, home)
    try:
        soak.run()
    finally:
        soak.ends.set()
        for daemon in (getattr(soak, "mount", None), getattr(soak, "server", None)):
            if daemon and daemon.is_up():
                daemon.kill()
        os.system(f"umount -l {soak.mountpoint} 2>/dev/null")
        common.remove(home)
    report = soak.report()
    print(report)
    if options.report:
        Path(options.report).write_text(report + "\n")
    did = [soak.reads, soak.quarantines, soak.tampers, soak.kills, soak.verifications, soak.churned]
    if not all(did):
        print(f"something did not happen at all: {did}")
    sys.exit(0 if all(did) and not soak.problems else 1)


if __name__ == "__main__":
    main()
