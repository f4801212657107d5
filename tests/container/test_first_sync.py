# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first sync of a sandbox with a long history: whole, in order, once, in bounded memory.

Seconds are printed, never asserted: they belong to the machine.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Callable

import pytest

from support.daemon import Daemon
from support.ingest import EVENTS, Ingest, digest
from support.sandbox import openshell_0_0_111
from support.tree import make_tree

SESSIONS, LINES = 200, 500
MAX_RSS_KIB = 80 * 1024


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
def test_200_sessions_of_500_events_arrive_whole_and_in_order(
    tmp_path: Path, unique: str, cleanup: contextlib.ExitStack, gzip: bool, record_property: Callable[[str, object], None]
) -> None:
    sandbox = cleanup.enter_context(openshell_0_0_111(unique))
    tree = make_tree(sessions=SESSIONS, events=LINES, seed=1)
    sandbox.put_tree(tree)
    with Ingest(record=digest, keep_bodies=False) as ingest:
        if gzip:
            ingest.caps = {"blob_gzip": True}
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, sandboxes={"include": [unique]})
        started = time.monotonic()
        daemon.start()
        try:
            ingest.wait_events(SESSIONS * LINES, timeout_s=300)
            wall_s, cpu_s, rss_kib = time.monotonic() - started, daemon.cpu_s(), daemon.rss_kib()
        finally:
            daemon.kill()
            print(daemon.log())
        sent = ingest.bytes_received
        for session, events in tree.transcripts().items():
            ((arrived),) = [texts for (_source, name), texts in ingest.events.items() if name == session]
            assert arrived == [digest(event) for event in events]
        assert (ingest.duplicate_events, ingest.duplicate_batches) == (0, 0)
        ingest.check()
        megabytes = tree.transcript_bytes / 1e6
        record_property(
            "first sync, %s" % ("gzip" if gzip else "plain"),
            "%d events, %.1f MB read, %.1f MB sent in %d batches; %.2f CPU s (%.0f MB per CPU s), %.1f s, peak RSS %.1f MiB"
            % (
                tree.events,
                megabytes,
                sent / 1e6,
                ingest.count(EVENTS),
                cpu_s,
                megabytes / cpu_s,
                wall_s,
                rss_kib / 1024,
            ),
        )
        assert rss_kib <= MAX_RSS_KIB
