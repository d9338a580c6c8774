"""The table of docs/benchmarks.md, out of what registry-bench printed: table.py RESULTS

Medians over the rounds; beside each figure of securereg, its ratio to the best of the others in that column.
"""

import collections
import json
import statistics
import sys

runs = collections.defaultdict(list)
for line in open(sys.argv[1]):
    run = json.loads(line)
    runs[run["section"], run["connections"], run["server"]].append(run)
if not runs:
    sys.exit("no figures")

# What, its unit, and whether more is better.
COLUMNS = (
    ("operations/s", lambda run: run["operations"] / run["seconds"], max),
    ("MB/s", lambda run: run["bytes"] / run["seconds"] / 1e6, max),
    ("p50, ms", lambda run: run["p50_ms"], min),
    ("p99, ms", lambda run: run["p99_ms"], min),
    ("memory, MiB", lambda run: run["peak_kib"] / 1024, min),
)


def text(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


servers = list(dict.fromkeys(server for _, _, server in runs))
print("| | registry | " + " | ".join(name for name, _, _ in COLUMNS) + " |")
print("|---|---|" + "---|" * len(COLUMNS))
for section, connections in dict.fromkeys((section, connections) for section, connections, _ in runs):
    medians = {server: [statistics.median(map(of, runs[section, connections, server])) for _, of, _ in COLUMNS]
               for server in servers if (section, connections, server) in runs}
    kind, _, size = section.partition(":")
    number = runs[section, connections, servers[0]][0]["operations"]
    what = " ".join(filter(None, [kind.replace("-", ", "), size])) + f" ({number}, {connections} at once)"
    for server, values in medians.items():
        cells = [text(value) for value in values]
        peers = [others for name, others in medians.items() if name != server]
        if server == "securereg" and peers:
            best = [better(other[i] for other in peers) for i, (_, _, better) in enumerate(COLUMNS)]
            cells = [f"{cell} ({value / other:.2f}x)" for cell, value, other in zip(cells, values, best)]
        print(f"| {what} | {server} | " + " | ".join(cells) + " |")
        what = ""
