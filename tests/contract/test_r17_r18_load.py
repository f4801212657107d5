# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R17, R18: an outage or a huge file costs neither memory nor disk nor the other files' time."""

from __future__ import annotations

import time
from pathlib import Path

from support.ingest import Ingest, digest
from support.node import Node, until
from support.tree import dumps, numbered

MIB = 1 << 20


def state_bytes(node: Node) -> int:
    return sum(path.stat().st_size for path in node.daemon.state_dir.iterdir() if path.is_file())


def test_r17_outage_is_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    """40 MB are written while the ingest is down; the queue may hold 2 MiB. Then everything arrives."""
    with Ingest(keep_bodies=False, record=digest) as ingest:
        node = Node(tmp_path, ingest, queue_max_bytes=2 * MIB)
        node.daemon.start()
        ingest.stop()
        chunks = 40
        for _number in range(chunks):
            lines = b"".join(dumps(numbered(number, 1000)) for number in range(_number * 1000, _number * 1000 + 1000))
            node.write("big", lines)
        until(lambda: node.daemon.status()["queue"]["pending_bytes"] >= 2 * MIB, 20, "full queue")
        time.sleep(3)
        status, disk, peak = node.daemon.status(), state_bytes(node), node.daemon.rss_kib()
        print("R17: queue %d bytes, state %d bytes, peak RSS %d KiB" % (status["queue"]["pending_bytes"], disk, peak))
        assert status["state"] == "degraded" and status["target"]["state"] == "retrying"
        assert status["queue"]["pending_bytes"] < 10 * MIB  # what one turn may add to a queue that was not full yet
        assert disk < 40 * MIB and peak < 80 * 1024
        (source,) = status["sources"]
        assert source["lag_bytes"] > 20 * MIB
        # Small files are held back as well, but not lost.
        node.write("small", dumps(numbered(1)))
        ingest.start()
        ingest.wait_events(chunks * 1000 + 1, 90)
        ingest.check()
        cpu = node.daemon.cpu_s()
        print("R17: %d MB after the outage, CPU %.1f s, peak RSS %d KiB" % (chunks, cpu, node.daemon.rss_kib()))
        assert node.daemon.rss_kib() < 80 * 1024
        assert ingest.duplicate_events == 0
        until(lambda: node.daemon.status()["queue"]["pending"] == 0, 10, "empty outbox")
        node.daemon.kill()


def test_r18_huge_file_delays_no_other(tmp_path: Path) -> None:
    """A one-line file beside 300 MB that were there first: asked right away, and again when a backlog has built up."""
    with Ingest(keep_bodies=False, record=lambda event: str(event["id"])) as ingest:
        node = Node(tmp_path, ingest)
        lines = b"".join(dumps(numbered(number, 1000)) for number in range(1000))
        with open(node.path("aaa-huge"), "wb") as stream:
            for _number in range(300):
                stream.write(lines)
        node.daemon.start()
        delays = []
        for number in range(3):
            began = time.monotonic()
            node.write("small-%d" % number, dumps(numbered(number)))
            ingest.wait(lambda me, name="small-%d.jsonl" % number: any(key[1] == name for key in list(me.events)), 30, "the one line")
            delays.append(time.monotonic() - began)
            time.sleep(2)
        waiting = node.daemon.status()["queue"]
        huge = sum(len(events) for key, events in list(ingest.events.items()) if key[1] == "aaa-huge.jsonl")
        print("R18: one line after %s s beside %d events of the huge file, %s" % (["%.2f" % delay for delay in delays], huge, waiting))
        node.daemon.kill()
        ingest.check()
        assert max(delays) < 5
        assert huge < 300_000, "the huge file was over before the question was asked"
