"""Kills a server in mid-upload: waits until it has written so many bytes, then SIGKILL.

    watch.py PIDFILE BYTES READY

Makes the file READY once it looks. Prints how many bytes had been written. Fails when they were not within 30 seconds.
"""

import os
import pathlib
import signal
import sys
import time

pid, started = pathlib.Path(sys.argv[1]).read_text().split()


def stat():
    """The fields after the program's name: the state, and the time of its start."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


def runs():
    """Whether it has not ended yet: it can be reaped at any moment, also while it is looked at."""
    try:
        return stat()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def written():
    with open(f"/proc/{pid}/io") as io:
        return next(int(line.split()[1]) for line in io if line.startswith("wchar:"))


if stat()[1] != started:
    sys.exit("the server is another process")
before, end = written(), time.monotonic() + 30
pathlib.Path(sys.argv[3]).touch()
while (grown := written() - before) < int(sys.argv[2]):
    if time.monotonic() > end:
        sys.exit(f"only {grown} bytes were written within 30 seconds")
    time.sleep(0.001)
os.kill(int(pid), signal.SIGKILL)
while runs():
    time.sleep(0.001)
print(grown)
