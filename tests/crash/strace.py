#!/usr/bin/env python3
"""Kills, or fails, each system call of an operation in turn: a fresh root a point, and crash-check afterwards.

    strace.py [--points N] [--jobs N] [--scenario NAME]... [--kind kill|enospc|eio]... [--on FOLDER]

Owns: which calls are points, the injection, the judgement. A point is the nth call of one kind by any thread of the command, when that
call, in an untouched run, is about the registry or the source; the loader's and the terminal's calls are none.
  kill     SIGKILL as the call begins: it has no effect
  enospc   the call fails with ENOSPC: once, and from then on for good (a disk that stays full)
  eio      the call fails with EIO: once, and from then on for good (a disk that is gone)
Promises: a point counts only when strace says that it struck. After each: what was acknowledged (the exit code of an untouched
run) is there; else the root is as before or as after, never between; the next start needs no hand, finds the log's chain whole and
every byte good, and goes on. Leaves out: what a power cut takes with it (replay.py, images.py).

The canary: the same with a command whose every rename is skipped and said to have worked must be called wrong.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import threading
import time

import common

READS = "open openat openat2 read pread64 readv preadv getdents64 fstatfs flock".split()
WRITES = ("write pwrite64 writev fsync fdatasync rename renameat renameat2 link linkat unlink unlinkat mkdir mkdirat rmdir "
          "chmod fchmod fchmodat ftruncate fallocate copy_file_range ioctl").split()
CREATES = "open openat openat2".split()
# What a full disk may refuse: removing and reading need no room.
FULL = [w for w in WRITES if w not in ("unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat")]
# What goes on failing: reading everything would only end the command at its start, which the single failures show already.
LASTING = [w for w in WRITES if w != "ioctl"]

CALL = re.compile(r"^(\d+) +([a-z0-9_]+)\((.*)")
Point = collections.namedtuple("Point", "scenario kind call nth lasting changes")


class Prepared:
    """A scenario's root before, and the states before and after."""

    def __init__(self, scenario, home, checker):
        self.scenario = scenario
        self.home = home / scenario.name
        self.models = self.home / "models"
        self.root = self.home / "root"
        self.home.mkdir()
        common.make_models(self.models)
        common.prepare(scenario, self.root, self.models)
        self.before = self.state(self.root, checker)
        # Told to go nowhere: an untouched run, which names the points.
        with Place(self, "clean") as place:
            trace = place.folder / "trace"
            line = common.command_line(scenario.command, place.root, place.models, scenario.oci)
            calls = ",".join(f"?{call}" for call in READS + WRITES)
            done = subprocess.run(["strace", "-f", "-y", "-o", str(trace), "-e", f"trace={calls}", *line],
                                  capture_output=True, text=True, env=common.environment(), timeout=60)
            if done.returncode != scenario.code:
                raise SystemExit(f"{scenario.name} ended with {done.returncode}, not {scenario.code}: {done.stderr}")
            self.calls = points_in(trace.read_text(), str(place.folder))
            found = checker.look(place.root)
            self.after = found["state"]
            bad = common.unexpected(found["problems"], scenario)
            if scenario.fills and not list(place.root.glob("audit-*.jsonl")):
                bad.append("no new file of the log was begun")
            if bad:
                raise SystemExit(f"{scenario.name}, untouched: {bad}")
        if not self.calls:
            raise SystemExit(f"{scenario.name}: strace saw no call that could be a point")
        if self.before == self.after and scenario.name != "refuse" and not scenario.leaves:
            raise SystemExit(f"{scenario.name} changes nothing that crash-check sees")

    def state(self, root, checker):
        if not root.exists():
            # What a start makes of nothing.
            return common.NOTHING
        with Place(self, "before") as place:
            found = checker.look(place.root)
            bad = common.unexpected(found["problems"], self.scenario)
            if self.scenario.spoil:
                if found["state"] is not None:
                    raise SystemExit(f"{self.scenario.name}: it starts all the same")
                return None
            if bad:
                raise SystemExit(f"{self.scenario.name}, before: {bad}")
            return found["state"]


class Place:
    """A root and sources of one point's own."""

    def __init__(self, prepared, name):
        self.prepared = prepared
        self.folder = prepared.home / f"point-{name}"

    def __enter__(self):
        self.folder.mkdir()
        self.root, self.models = self.folder / "root", self.folder / "models"
        common.copy_tree(self.prepared.root, self.root)
        common.copy_tree(self.prepared.models, self.models)
        return self

    def __exit__(self, *_):
        common.remove(self.folder)


def points_in(trace, ours):
    """Which nth calls of which kind are about our folder, and whether they change it: {(call, nth): changes}."""
    counts, found = collections.Counter(), {}
    for line in trace.splitlines():
        match = CALL.match(line)
        if not match:
            continue
        thread, call, rest = match.groups()
        counts[thread, call] += 1
        if ours in rest:
            changes = call in WRITES or (call in CREATES and "O_CREAT" in rest)
            key = (call, counts[thread, call])
            found[key] = found.get(key, False) or changes
    return found


def points(prepared, kinds):
    """Every point of a scenario."""
    name, all_points = prepared.scenario.name, []
    for (call, nth), changes in sorted(prepared.calls.items()):
        if prepared.scenario.fills:
            # Each takes seconds: the kills alone, at what changes the disk.
            if changes and "kill" in kinds:
                all_points.append(Point(name, "kill", call, nth, False, changes))
            continue
        if "kill" in kinds:
            all_points.append(Point(name, "kill", call, nth, False, changes))
        if "enospc" in kinds and (call in FULL or (call in CREATES and changes)):
            all_points += [Point(name, "enospc", call, nth, lasting, changes) for lasting in (False, True)]
        if "eio" in kinds:
            all_points.append(Point(name, "eio", call, nth, False, changes))
            if call in LASTING:
                all_points.append(Point(name, "eio", call, nth, True, changes))
    return all_points


def strike(point, prepared, checker, number, extra=()):
    """Runs one point. None when it did not strike, else what is wrong and whether the change was made."""
    scenario = prepared.scenario
    with Place(prepared, number) as place:
        trace = place.folder / "trace"
        how = "signal=SIGKILL" if point.kind == "kill" else f"error={point.kind.upper()}"
        when = f"{point.nth}+" if point.lasting else str(point.nth)
        line = common.command_line(scenario.command, place.root, place.models, scenario.oci)
        inject = ["-e", f"trace={point.call}", "-e", f"inject={point.call}:{how}:when={when}"]
        try:
            # A signal given at a seccomp stop is dropped.
            fast = ["--seccomp-bpf"] if point.kind != "kill" else []
            done = subprocess.run(["strace", "-f", *fast, "-o", str(trace), *inject, *extra, *line],
                                  capture_output=True, text=True, env=common.environment(), timeout=60)
        except subprocess.TimeoutExpired:
            return ["it hangs"], None
        told = trace.read_text()
        if point.kind == "kill":
            if done.returncode != -9 and done.returncode != 137:
                return None
        elif "(INJECTED)" not in told:
            return None
        problems = []
        if point.kind != "kill" and (done.returncode < 0 or done.returncode == 101 or "panicked" in done.stderr):
            problems.append(f"it ended with {done.returncode}: {done.stderr[-500:]}")
        # Every write fails: those to its standard error too.
        mute = point.call == "write" and point.lasting
        if point.kind != "kill" and done.returncode != scenario.code and not done.stderr.strip() and not mute:
            problems.append(f"it failed with {done.returncode} and said nothing")
        found = checker.look(place.root)
        acknowledged = done.returncode == scenario.code and scenario.says in done.stdout
        if scenario.spoil and found["state"] is None and not acknowledged:
            # It was not put right, and could not start before: the command once more, untouched.
            again = subprocess.run(line, capture_output=True, text=True, env=common.environment(), timeout=60)
            found = checker.look(place.root)
            if again.returncode != scenario.code or not same(found["state"], prepared.after):
                problems.append(f"once more, and: {again.returncode} {again.stderr} {difference(found['state'], prepared.after)}")
            return problems + found["problems"], {"made": False, "failed_but_made": False, "garbage": 0}
        problems += common.unexpected(found["problems"], scenario)
        made = same(found["state"], prepared.after)
        if acknowledged and not made:
            problems.append(f"acknowledged and not there: {difference(found['state'], prepared.after)}")
        between = scenario.midway and found["state"] and same({**found["state"], "log": prepared.before["log"]}, prepared.before)
        if not made and not between and not same(found["state"], prepared.before):
            problems.append(f"half done: {difference(found['state'], prepared.before)}")
        if scenario.takes and not made:
            source, taken = prepared.models / scenario.takes, place.models / scenario.takes
            if not taken.exists() or taken.read_bytes() != source.read_bytes():
                problems.append("the source is gone and the model is not there")
        if found["garbage"] and scenario.leaves and acknowledged:
            problems.append(f"acknowledged, and {found['garbage']} files are left that nothing holds")
        if found["garbage"] and "gc" in common.verbs():
            problems += swept(place, checker, scenario)
        failed_but_made = made and not acknowledged and point.kind != "kill" and not same(prepared.before, prepared.after)
        if failed_but_made:
            problems += [] if may_be_made(point, scenario) else [f"it said that it failed ({done.stderr.strip()[-200:]}), and the change is made"]
        return problems, {"made": made, "failed_but_made": failed_but_made, "garbage": found["garbage"]}


def swept(place, checker, scenario):
    """What a crash left is taken by gc, and then fsck has nothing to tell but what the scenario damaged itself."""
    problems = []
    for words, codes in (["gc"], [0]), (["fsck"], [0, 3] if scenario.damaged else [0]):
        done = common.run(words, place.root, place.models)
        if done.returncode not in codes:
            problems.append(f"{words[0]} after it ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
    found = checker.look(place.root)
    if found["garbage"]:
        problems.append(f"gc left {found['garbage']} files that nothing holds")
    return problems + common.unexpected(found["problems"], scenario)


def may_be_made(point, scenario):
    """A sync that fails after the manifest was renamed: the change is made and may not survive a power cut, which is said. One whose
    every write fails cannot say on its standard output that it is done. A verification that cannot be written down has failed, but
    what it quarantined on its way stays quarantined. And a recovery that cannot be written down can be asked for again."""
    lenient = scenario.name == "verify-damaged" or scenario.spoil
    return point.call == "fsync" or (point.call == "write" and point.lasting) or lenient


def same(one, other):
    return one is not None and other is not None and comparable(one) == comparable(other)


def comparable(state):
    """What a recovery could not read it quarantines, as it should."""
    models = {name: {**m, "quarantine": None} if m["quarantine"] and m["quarantine"][1].startswith("recovered: ") else m
              for name, m in state["models"].items()}
    return json.dumps({**state, "models": models}, sort_keys=True)


def difference(one, other):
    if one is None or other is None:
        return "no state"
    return "; ".join(f"{k}: {one[k]} instead of {other[k]}" for k in one if one[k] != other[k])[:600]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--points", type=int, help="at most so many, spread evenly")
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--scenario", action="append", default=[])
    options.add_argument("--kind", action="append", choices=["kill", "enospc", "eio"])
    options.add_argument("--on", help="a folder of the file system to do it on [default: memory]")
    options = options.parse_args()
    kinds = options.kind or ["kill", "enospc", "eio"]
    home, started = common.scratch("crash-strace", options.on), time.monotonic()
    try:
        code = rig(options, kinds, home)
    finally:
        common.remove(home)
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    sys.exit(code)


def rig(options, kinds, home):
    common.make_models(home / "models")
    checkers = threading.local()

    def checker():
        if not hasattr(checkers, "one"):
            checkers.one = common.Checker(home / "models" / "probe.gguf")
        return checkers.one

    everything = common.scenarios(options.scenario)
    if options.points and not options.scenario:
        everything = [s for s in everything if not s.fills]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        prepared = {s.name: p for s, p in zip(everything, pool.map(lambda s: Prepared(s, home, checker()), everything))}
        todo = [point for p in prepared.values() for point in points(p, kinds)]
        if options.points and options.points < len(todo):
            step = len(todo) / options.points
            todo = [todo[int(i * step)] for i in range(options.points)]
        struck, changing, lost, made_anyway, garbage = (collections.Counter() for _ in range(5))
        outcomes = pool.map(lambda n: (todo[n], strike(todo[n], prepared[todo[n].scenario], checker(), n)), range(len(todo)))
        for point, outcome in outcomes:
            if outcome is None:
                continue
            struck[point.kind] += 1
            changing[point.kind] += point.changes
            problems, seen = outcome
            for problem in problems:
                print(f"LOST {describe(point)}: {problem}", flush=True)
            lost[point.kind] += bool(problems)
            if seen:
                made_anyway[point.call] += seen["failed_but_made"]
                garbage["points"] += seen["garbage"] > 0
        canary_ok = canary(prepared, home, checker())
    for kind in kinds:
        print(f"strace {kind}: {struck[kind]} points ({changing[kind]} at calls that change the disk), {lost[kind]} lost")
    made = {k: v for k, v in made_anyway.items() if v}
    print(f"strace: {len(todo) - sum(struck.values())} of {len(todo)} did not strike and do not count; failed, and made all the same: {made}; "
          f"{garbage['points']} left something for gc")
    if not all(struck[kind] for kind in kinds):
        print("strace: a kind struck nowhere")
        return 1
    return 0 if canary_ok and not any(lost.values()) else 1


def canary(prepared, home, checker):
    """A command that is told that its renames worked, and they did not: whoever calls that whole sees nothing."""
    one = prepared.get("promote") or Prepared(next(s for s in common.SCENARIOS if s.name == "promote"), home, checker)
    wrong = Point(one.scenario.name, "eio", "fstatfs", 1, False, False)
    lying = ["-e", "trace=renameat,fstatfs", "-e", "inject=renameat:retval=0", "-e", "inject=fstatfs:retval=0"]
    outcome = strike(wrong, one, checker, "canary", lying)
    caught = bool(outcome and outcome[0])
    print(f"strace canary: renames that do nothing are {'caught' if caught else 'NOT CAUGHT'}")
    return caught


def describe(point):
    return f"{point.scenario}: {point.kind} {point.call} #{point.nth}{'+' if point.lasting else ''}"


if __name__ == "__main__":
    main()
