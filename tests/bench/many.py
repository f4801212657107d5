# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""P4, P5, P6: twenty sandboxes of fifty files, idle; the start; what is installed. Prints JSON; claims nothing by itself.

    python tests/bench/many.py [--sandboxes 20] [--files 50] [--idle 30] [--venv /opt/clawmetry/venv]

The sandboxes are state directories of homes, so that no engine is needed; they are listed and read as volumes are.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

importlib.import_module("conftest")  # maps the engine
from support.daemon import Daemon, running
from support.ingest import EVENTS, Ingest
from support.node import until
from support.tree import dumps, numbered

STARTS = 5


def size_mb(directory: str) -> float:
    files = (os.path.join(place, name) for place, _folders, names in os.walk(directory) for name in names)
    return round(sum(os.lstat(path).st_size for path in files) / 1e6, 1)


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--sandboxes", type=int, default=20)
    arguments.add_argument("--files", type=int, default=50)
    arguments.add_argument("--idle", type=float, default=30.0, metavar="SECONDS")
    arguments.add_argument("--venv", default="/opt/clawmetry/venv", help="of an installed daemon, for its size")
    args = arguments.parse_args()
    figures: dict[str, object] = {"sandboxes": args.sandboxes, "files": args.files}
    with tempfile.TemporaryDirectory() as scratch, Ingest(keep_bodies=False) as ingest:
        homes = []
        for box in range(args.sandboxes):
            sessions = Path(scratch) / ("home%d" % box) / ".openclaw/agents/main/sessions"
            sessions.mkdir(parents=True)
            homes.append(str(sessions.parents[3]))
            for number in range(args.files):
                (sessions / ("s%d.jsonl" % number)).write_bytes(b"".join(dumps(numbered(line, 300)) for line in range(20)))
        node = Daemon(Path(scratch) / "node", ingest_url=ingest.url, discover=["openclaw"], homes=homes, poll_interval=1)
        with running(node):
            until(lambda: len(ingest.all_events()) == args.sandboxes * args.files * 20, 300, "first sync")
            time.sleep(20)
            passes, cpu = node.status()["passes"], node.cpu_s()
            time.sleep(args.idle)
            used = node.cpu_s() - cpu
            passes = node.status()["passes"] - passes
            figures["P5"] = {"cpu_ms_per_pass": round(1000 * used / passes, 2), "passes": passes}
            figures["P4"] = {"rss_idle_kib": node.rss_kib("VmRSS"), "rss_peak_kib": node.rss_kib()}
        starts = []
        for number in range(STARTS):
            with open(Path(homes[0]) / ".openclaw/agents/main/sessions/s0.jsonl", "ab") as stream:
                stream.write(dumps(numbered(1000 + number)))
            before, began = ingest.count(EVENTS), time.monotonic()
            node.start(wait_s=0)
            ingest.wait(lambda me, before=before: me.count(EVENTS) > before, 30, "first batch")
            starts.append(time.monotonic() - began)
            node.kill()
        figures["P6"] = {
            "start_to_first_arrival_s": round(statistics.median(starts), 2),
            "venv_mb": size_mb(args.venv) if os.path.isdir(args.venv) else None,
        }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
