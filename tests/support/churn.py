# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transcripts that come and go by the thousand, and what is left of them in the daemon (contract R24)."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support.ingest import Ingest
from support.node import Node, until

# What is gone for three seconds is forgotten, instead of an hour; pages are given back all the time. Nothing is
# synced to the disk, and the target is the archive: what that and a loopback ingest cost is not the question here.
PRELUDE = """
import sqlite3
from clawmetry_sync import daemon
from clawmetry_sync.sync import watch
class Quick(sqlite3.Connection):
    def execute(self, statement, *values):
        return super().execute(statement.replace("synchronous=FULL", "synchronous=OFF"), *values)
real = sqlite3.connect
sqlite3.connect = lambda *a, **k: real(*a, factory=Quick, **k)
watch.FORGET_AFTER_S = 3.0
watch.LAYOUT_INTERVAL_S = 0.5
daemon.TRIM_INTERVAL_S = 0.5
daemon.ROWS_INTERVAL_S = 0.5
"""


class Churn:
    """One daemon, one transcript that stays, and FILES others, AT_ONCE of them there at a time."""

    def __init__(self, directory: Path, ingest: Ingest, *, files: int, at_once: int) -> None:
        self.files, self.at_once = files, at_once
        self.node = Node(directory, ingest, poll_interval=0.1)
        self.node.daemon.config["ingest_url"] = "file://%s" % (directory / "kept")
        self.node.daemon.write_config()
        self.node.daemon.prelude = PRELUDE

    def rows(self) -> dict[str, int]:
        """Rows of each table of queue.db, but meta."""
        path = "file:%s?mode=ro" % (self.node.daemon.state_dir / "queue.db")
        with contextlib.closing(sqlite3.connect(path, uri=True, timeout=10)) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'")]
            return {name: int(db.execute("SELECT count(*) FROM " + name).fetchone()[0]) for name in names if name != "meta"}

    def settled(self) -> bool:
        rows = self.rows()
        return rows["source"] == rows["session"] == 1 and rows["outbox"] == 0

    def measure(self) -> dict[str, Any]:
        daemon = self.node.daemon
        if daemon.process is None:
            raise AssertionError("it does not run")
        fds = []
        for _time in range(20):
            fds.append(len(os.listdir("/proc/%d/fd" % daemon.process.pid)))
            time.sleep(0.02)
        size = sum(os.path.getsize(daemon.state_dir / ("queue.db" + end)) for end in ("", "-wal", "-shm"))
        return {"rows": self.rows(), "bytes": size, "fds": min(fds), "rss_kib": daemon.rss_kib("VmRSS")}

    def wave(self, first: int) -> None:
        """AT_ONCE files come, are read, and go; one in a thousand is poison."""
        sessions = self.node.sessions
        place = sessions.with_name("new")
        place.mkdir()
        for name in range(first, first + self.at_once):
            (place / ("f%06d.jsonl" % name)).write_bytes(b'{"id":%d}\n' % name if name % 1000 else b"not json\n")
        for path in place.iterdir():
            path.rename(sessions / path.name)
        place.rmdir()
        until(lambda: self.rows()["source"] == self.at_once + 1, 300, "files from %d on" % first)
        for path in sessions.glob("f*.jsonl"):
            path.unlink()
        until(self.settled, 300, "forgetting of the files from %d on" % first)

    def run(self) -> dict[str, Any]:
        """Return what was measured before, after the first wave, and at the end; the daemon still runs."""
        self.node.append("stays", 3)
        self.node.daemon.start()
        until(self.settled, 30, "start")
        found = {"before": self.measure()}
        for first in range(0, self.files, self.at_once):
            self.wave(first)
            found.setdefault("after the first", self.measure())
        limit = found["before"]["bytes"] + (16 << 20)
        until(lambda: self.measure()["bytes"] <= limit, 60, "smaller queue.db")
        return {**found, "after": self.measure(), "peak_rss_kib": self.node.daemon.rss_kib(), "cpu_s": self.node.daemon.cpu_s()}


@contextlib.contextmanager
def churning(directory: Path, *, files: int, at_once: int) -> Any:
    with Ingest() as ingest:
        churn = Churn(directory, ingest, files=files, at_once=at_once)
        try:
            yield churn
        finally:
            churn.node.daemon.kill()


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--files", type=int, default=100_000)
    arguments.add_argument("--at-once", type=int, default=2500)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch, churning(Path(scratch), files=args.files, at_once=args.at_once) as churn:
        sys.stdout.write(json.dumps(churn.run(), indent=2) + "\n")
    return 0
