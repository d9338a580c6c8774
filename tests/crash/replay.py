#!/usr/bin/env python3
"""Power cuts, replayed: every operation is recorded once, and each prefix of it is laid out with unsynced changes lost or reordered.

    replay.py [--samples N] [--states N] [--jobs N] [--scenario NAME]... [--seed N]

Owns: the recordings, the judgement. The seam is the system call: strace sees each of them, by whatever thread and library, so that
nothing in the product knows of it. What a sync makes durable: disk.py. Promises: each distinct state is opened and looked at as after
a start; what was acknowledged by then is there, what was not is there whole or not at all. A state counts once, however many ways lead
to it. Leaves out: what a real file system does (images.py).

The canary: the same recordings with every sync taken out must be called wrong.
"""

import argparse
import collections
import concurrent.futures
import os
import subprocess
import sys
import time

import common
import disk
from strace import difference, same

# Commands that follow each other: what one leaves unsynced meets what the next does.
CHAINS = {
    "chain": (common.BASE, [
        ["promote", "{m}/c.gguf", "--name", "new"],
        ["quarantine", "new", "--reason", "r", "--incident", "I-2"],
        ["release", "new", "--reason", "ok"],
        ["promote", "{m}/c.gguf", "--name", "repo:v1"],
        ["delete", "new"],
        ["promote", "{m}/d.gguf", "--name", "new", "--move"],
        ["delete", "repo:v1"],
    ]),
    "refusals": ((), [["promote", "{m}/junk.gguf", "--name", "junk"]] + [["promote", "{m}/a.gguf", "--name", f"n{i}", "--filename", f"{i}.gguf"]
                                                                   for i in range(6)]),
}


class Work:
    """A recording, and the states after each command of it."""

    def __init__(self, name, before, commands, home, checker, codes=None, takes=None, oci=False, **more):
        self.name, self.takes = name, takes
        self.scenario = common.Scenario(name, commands[0], before, **more)
        self.home = home / name
        self.home.mkdir()
        self.folder = self.home / "place"
        self.folder.mkdir()
        root, self.models = self.folder / "root", self.folder / "models"
        common.make_models(self.models)
        common.prepare(self.scenario, root, self.models)
        self.recording = disk.Recording(self.folder)
        self.states = [self.look(checker) if root.exists() else common.NOTHING]
        for words, code in zip(commands, codes or [0] * len(commands)):
            trace = self.home / "trace"
            line = common.command_line(words, root, self.models, oci)
            done = subprocess.run(["strace", "-f", "-xx", "-s", "4000000", "-o", str(trace), "-e", "trace=" + ",".join(f"?{call}" for call in disk.CHANGES), *line],
                                  capture_output=True, text=True, env=common.environment(), timeout=120)
            if done.returncode != code:
                raise SystemExit(f"{name}: {words} ended with {done.returncode}: {done.stderr}")
            self.recording.read(trace.read_text())
            trace.unlink()
            self.check_recording()
            self.states.append(self.look(checker))
        syncs = sum(isinstance(op, disk.Sync) for op in self.recording.ops)
        if syncs == 0:
            raise SystemExit(f"{name}: nothing was synced, or nothing was seen")

    def look(self, checker):
        """The state of a copy: looking changes it."""
        copy = self.home / "copy"
        common.copy_tree(self.folder / "root", copy)
        found = checker.look(copy)
        common.remove(copy)
        bad = common.unexpected(found["problems"], self.scenario)
        if bad:
            raise SystemExit(f"{self.name}, untouched: {bad}")
        return found["state"]

    def check_recording(self):
        """What was recorded, with nothing lost, must be what is there: else the model missed a call."""
        replayed = disk.Cut(self.recording, len(self.recording.ops)).state(Everything())
        really = disk.Recording(self.folder)
        there = disk.Cut(really, 0).state({})
        if replayed.key() != there.key():
            one = {p: (replayed.modes[i], len(replayed.data[i])) for p, i in replayed.walk()}
            two = {p: (there.modes[i], len(there.data[i])) for p, i in there.walk()}
            differ = {p: (one.get(p), two.get(p)) for p in set(one) | set(two) if one.get(p) != two.get(p)}
            raise SystemExit(f"{self.name}: the recording is not what happened: {differ}")

    def cuts(self, without_syncs=False):
        for length in range(len(self.recording.ops) + 1):
            # What nothing happened between leaves the same.
            if length == 0 or not isinstance(self.recording.ops[length - 1], disk.Sync) or not without_syncs:
                yield disk.Cut(self.recording, length, without_syncs)

    def judge(self, cut, state, folder, checker):
        """What is wrong with one state."""
        state.lay_out(folder)
        try:
            found = checker.look(folder / "root")
            problems = common.unexpected(found["problems"], self.scenario)
            allowed = self.states[cut.acknowledged: cut.acknowledged + 2]
            if self.scenario.midway and found["state"]:
                allowed.append({**allowed[0], "log": found["state"]["log"]})
            if not any(same(found["state"], good) for good in allowed):
                problems.append(f"{cut.acknowledged} acknowledged, and: {difference(found['state'], allowed[0])}")
            if self.takes and not same(found["state"], self.states[-1]):
                taken = folder / "models" / self.takes
                if not taken.exists() or taken.read_bytes() != self.source():
                    problems.append("the source is gone and the model is not there")
            return problems
        finally:
            common.remove(folder)

    def source(self):
        ino = self.recording.start[self.recording.start[self.recording.root]["models"]][self.takes]
        return self.recording.inodes[ino].data


class Everything:
    def get(self, _):
        return "whole"


def works(names, home, checker):
    for s in common.scenarios([n for n in names if n not in CHAINS]) if not names or set(names) - set(CHAINS) else []:
        if s.spoil or s.leaves or s.fills:
            continue  # strace.py does them: what they change is not in what is compared here, or is too large to lay out thousands of times.
        yield Work(s.name, s.before, [s.command], home, checker, [s.code], s.takes, s.oci, damage=s.damage,
                   damaged=s.damaged, then=s.then, midway=s.midway)
    for name, (before, commands) in CHAINS.items():
        if not names or name in names:
            codes = [2 if "junk" in " ".join(words) else 0 for words in commands]
            yield Work(name, before, commands, home, checker, codes)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--samples", type=int, default=6, help="states by lot of each prefix, besides the worst cases")
    options.add_argument("--states", type=int, help="at most so many, spread evenly")
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--scenario", action="append", default=[])
    options.add_argument("--seed", type=int, default=1)
    options = options.parse_args()
    home, started = common.scratch("crash-replay"), time.monotonic()
    try:
        code = rig(options, home)
    finally:
        common.remove(home)
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    sys.exit(code)


def distinct(work, samples, seed, without_syncs=False):
    """Every state once for each that may be expected of it."""
    seen = set()
    for cut in work.cuts(without_syncs):
        for lost, state in cut.states(samples, seed):
            key = (cut.acknowledged, state.key())
            if key not in seen:
                seen.add(key)
                yield cut, lost, state


def rig(options, home):
    common.make_models(home / "models")
    first = common.Checker(home / "models" / "probe.gguf")
    everything = list(works(options.scenario, home, first))
    first.close()
    share = max(1, options.jobs)
    with concurrent.futures.ProcessPoolExecutor(share) as pool:
        parts = [pool.submit(part, everything, home, options.samples, options.seed, options.states, n, share) for n in range(share)]
        counts, found = collections.Counter(), []
        for done in parts:
            some, problems = done.result()
            counts.update(some)
            found += problems
    for problem in found:
        print(problem)
    caught = canary(everything[0], home)
    for name, states in sorted(counts.items()):
        print(f"replay {name}: {states} states")
    print(f"replay: {sum(counts.values())} states of {len(counts)} operations and chains, {len(found)} lost")
    ok = bool(counts) and not found and caught and all(counts[w.name] for w in everything)
    return 0 if ok else 1


def part(everything, home, samples, seed, limit, mine, share):
    """Every share-th state."""
    checker = common.Checker(home / "models" / "probe.gguf")
    counts, problems, number = collections.Counter(), [], 0
    keep = None
    if limit:
        total = sum(1 for work in everything for _ in distinct(work, samples, seed))
        keep = {int(i * total / limit) for i in range(min(limit, total))}
    for work in everything:
        for nth, (cut, lost, state) in enumerate(distinct(work, samples, seed)):
            number += 1
            # The first of each operation in any case.
            if number % share != mine % share or (nth > share and keep is not None and number - 1 not in keep):
                continue
            counts[work.name] += 1
            wrong = work.judge(cut, state, home / f"state-{mine}", checker)
            problems += [f"LOST {work.name}: cut after call {len(cut.ops)} ({last(cut)}), lost: {lost}: {problem}" for problem in wrong]
    checker.close()
    return counts, problems


def last(cut):
    if not cut.ops:
        return "none"
    op = cut.ops[-1]
    return f"{type(op).__name__} {tuple(op)[:2] if not isinstance(op, disk.Names) else op.entries}"[:200]


def canary(work, home):
    """Without its syncs, an acknowledged change must be seen to be lost."""
    checker = common.Checker(home / "models" / "probe.gguf")
    end = len(work.recording.ops)
    cut = disk.Cut(work.recording, end, without_syncs=True)
    lost = [bool(work.judge(cut, state, home / "canary", checker)) for _, state in cut.states(0, 0)]
    checker.close()
    caught = lost[0] and sum(lost) > 1
    print(f"replay canary: without its syncs, {sum(lost)} of {len(lost)} states after an acknowledged {work.name} are called lost: "
          f"{'caught' if caught else 'NOT CAUGHT'}")
    return caught


if __name__ == "__main__":
    main()
