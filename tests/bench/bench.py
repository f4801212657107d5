# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole-process figures of the daemon: CPU seconds, peak RSS, bytes. Prints JSON; claims nothing by itself.

    python tests/bench/bench.py [--sessions 200] [--events 500] [--idle 30] [--target ingest|archive]

P1 first full sync, P2 idle, P3 one new line in each of ten files (P8: the same over whatever history there is).
The ingest is the strict one of the tests, in this process; only the daemon's own CPU is counted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

importlib.import_module("conftest")  # maps the engine
from support.daemon import Daemon, running
from support.ingest import Ingest
from support.tree import make_tree


def wait(condition, timeout_s: float) -> float:
    """Return the seconds until CONDITION held."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise SystemExit("not reached within %g s" % timeout_s)
        time.sleep(0.01)
    return time.monotonic() - began


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sessions", type=int, default=200)
    arguments.add_argument("--events", type=int, default=500)
    arguments.add_argument("--idle", type=float, default=30.0, metavar="SECONDS")
    arguments.add_argument("--target", choices=("ingest", "archive"), default="ingest")
    args = arguments.parse_args()
    figures: dict[str, object] = {"sessions": args.sessions, "events_per_session": args.events, "target": args.target}
    with tempfile.TemporaryDirectory() as scratch, Ingest() as ingest:
        home = Path(scratch) / "home"
        tree = make_tree(sessions=args.sessions, events=args.events)
        for path, content in tree.files.items():
            place = home / ".openclaw" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        total, size = tree.events, tree.transcript_bytes
        names = sorted(path for path in tree.files if path.endswith(".jsonl"))[:10]
        del tree
        url = ingest.url if args.target == "ingest" else "file://%s/archive" % scratch
        node = Daemon(Path(scratch) / "node", ingest_url=url, discover=["openclaw"], homes=[str(home)], poll_interval=1)

        def arrived() -> int:
            if args.target == "archive":
                return int(sum(source["records"] for source in node.status()["sources"]))
            return sum(map(len, ingest.events.values()))

        with running(node):
            took = wait(lambda: arrived() >= total, 600)
            cpu = node.cpu_s()
            figures["P1"] = {
                "bytes": size, "events": total, "cpu_s": round(cpu, 2), "mb_per_cpu_s": round(size / 1e6 / cpu, 1),
                "wall_s": round(took, 1), "peak_rss_kib": node.rss_kib(),
            }  # fmt: skip
            time.sleep(20)  # session rows, snapshot and the tail of acks are not "idle"
            before = node.cpu_s()
            time.sleep(args.idle)
            used = node.cpu_s() - before
            figures["P2"] = {"idle_percent_of_core": round(100 * used / args.idle, 3), "rss_kib": node.rss_kib("VmRSS")}
            before = node.cpu_s()
            for number, name in enumerate(names):
                with open(home / ".openclaw" / name, "ab") as stream:
                    stream.write(json.dumps({"type": "message", "seq": 10_000_000 + number}).encode() + b"\n")
            first = wait(lambda: arrived() > total, 30)
            wait(lambda: arrived() >= total + len(names), 30)
            cpu_ms = round(1000 * (node.cpu_s() - before))
            figures["P3"] = {"cpu_ms": cpu_ms, "first_arrival_s": round(first, 2), "events": arrived() - total}
        if args.target == "ingest":
            ingest.check()
            figures["duplicate_events"] = ingest.duplicate_events
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
