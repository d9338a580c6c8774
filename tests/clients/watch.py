"""Kills a server in mid-upload: waits until what its root holds has grown by so many bytes, then SIGKILL.

    watch.py ROOT PIDFILE BYTES

Prints how many bytes had come. Fails when they did not come within a minute.
"""

import os
import signal
import sys
import time


def held(root):
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:  # moved meanwhile
                pass
    return total


root, pidfile, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
pid, started = open(pidfile).read().split()
before, end = held(root), time.monotonic() + 60
while (grown := held(root) - before) < wanted:
    if time.monotonic() > end:
        sys.exit(f"only {grown} bytes came within a minute")
    time.sleep(0.002)
now = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[19]
if now != started:
    sys.exit("the server is another process")
os.kill(int(pid), signal.SIGKILL)
while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
    time.sleep(0.002)
print(grown)
