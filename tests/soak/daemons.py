"""The daemons of a soak or a measurement, and what can be seen of them from outside.

Owns: starting, killing and stopping `securereg mount`, `serve` and `up`; HTTP calls with a token; descriptors, memory, mounts.
Promises: a daemon is up when it says so; one that ends by itself is a failure. Leaves out: what is done with them.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "crash"))
import common  # noqa: E402


class Daemon:
    """One process, from its ready line to its end."""

    def __init__(self, words, log):
        self.words, self.log = words, open(log, "ab")
        self.process = None

    def start(self):
        line = [common.programs()[0], *map(str, self.words), "--json"]
        self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env=common.environment())
        ready, depth = "", 0
        # One JSON value, over several lines.
        for text in self.process.stdout:
            ready += text
            depth += text.count("{") - text.count("}")
            if ready.strip() and depth == 0:
                break
        if not ready.strip():
            raise SystemExit(f"{self.words[0]} did not get ready: {self.process.wait()}")
        self.ready = json.loads(ready)
        return self

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        """As the kernel does when memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """As systemd does; what it ends with."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            return "it does not stop"

    def is_up(self):
        return self.process.poll() is None

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Resident, in KiB, without file pages."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon:")).split()[1])


class Http:
    """Calls on one connection, which is opened again when it was closed."""

    def __init__(self, address, root):
        self.host, self.port = address.rsplit(":", 1)
        self.root, self.connection = root, None

    def call(self, method, path, scope, body=None):
        token = (self.root / "tokens" / f"{scope}.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        for attempt in (1, 2):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection(self.host, int(self.port), timeout=60)
                self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, OSError):
                self.connection = None
                if attempt == 2:
                    raise

    def quarantine(self, name, reason, incident):
        body = {"action": "quarantine", "incident_id": incident, "model_name": name, "reason": reason}
        status, told = self.call("POST", "/api/v1/quarantine", "containment", body)
        if status != 200:
            raise RuntimeError(f"quarantine of {name}: {status} {told[:300]}")


def securereg(root, *words):
    """One command: exit code, standard output, standard error."""
    line = [common.programs()[0], *map(str, words), "--root", str(root)]
    done = subprocess.run(line, capture_output=True, text=True, env=common.environment(), timeout=300)
    return done.returncode, done.stdout, done.stderr


def mounts_at(folder):
    """How often something is mounted there."""
    return sum(line.split()[1] == str(folder) for line in Path("/proc/self/mounts").read_text().splitlines())


def wait_until(what, limit, every=0.01):
    """Seconds until `what()` holds; none after `limit`."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit:
        if what():
            return time.monotonic() - begun
        time.sleep(every)
    return None
