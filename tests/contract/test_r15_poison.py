# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R15: records we cannot take are put aside once; their neighbours arrive, and no file can stop the rest."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from support.decoder import decode_key, open_blob
from support.ingest import EVENTS, KEY_TEXT, Fault, Ingest
from support.node import Node, until
from support.tree import dumps, numbered

MIB = 1 << 20
POISON = {
    "over-long": b'{"x":"' + b"y" * (9 * MIB) + b'"}',
    "not-utf-8": b'{"x":"\xff\xfe"}',
    "not-json": b'{"x":',
    "nuls": b"\0" * 3000,
    "not-an-object": b'["x"]',
}


def quarantine(node: Node) -> list[tuple[int, int, str, str]]:
    """(offset, length, sha256, reason) as stored, read with our own connection."""
    with sqlite3.connect("file:%s?mode=ro" % (node.daemon.state_dir / "queue.db"), uri=True) as db:
        return [tuple(row) for row in db.execute("SELECT offset, length, sha256, reason FROM quarantine ORDER BY id")]


def test_r15_poison_is_quarantined_once(tmp_path: Path) -> None:
    wanted = []
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        for kind, bad in POISON.items():
            node.append(kind, 50)
            wanted.append((node.path(kind).stat().st_size, len(bad), hashlib.sha256(bad).hexdigest()))
            node.write(kind, bad + b"\n")
            node.append(kind, 49)
        node.daemon.start()
        node.arrived()
        until(lambda: len(quarantine(node)) == len(POISON), 10, "quarantine of all")
        peak = node.daemon.rss_kib()
        first_log = node.daemon.log()
        for _restart in range(2):
            assert node.daemon.terminate() == 0
            node.daemon.start()
            node.append("not-json", 1)
            node.arrived()
        status = node.daemon.status()
        assert node.daemon.terminate() == 0
        found = quarantine(node)
        assert sorted(row[:3] for row in found) == sorted(wanted)
        assert all(row[3] for row in found)
        assert status["quarantined"] == len(POISON)
        assert {source["quarantined"] for source in status["sources"]} == {1}
        # No warning loop, and no content in the log.
        assert all(node.daemon.log().count(kind) <= 3 for kind in POISON) and first_log.count("\n") < 20
        assert "yyyy" not in node.daemon.log()
        print("R15: peak RSS %d KiB with a 9 MiB line" % peak)
        assert peak < 80 * 1024
        node.no_more(0)


def test_r15_poison_of_a_replaced_file_is_quarantined_once(tmp_path: Path) -> None:
    """Repaired, compacted or copied over itself: the same bad line in a new file, and in the next life, is the same bad line."""
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.append("one", 3)
        node.write("one", b"not json\n")
        node.daemon.start()
        for _number in range(3):
            copy = node.path("one").with_name("one.jsonl.repair-77-1795000000000.tmp")
            copy.write_bytes(node.path("one").read_bytes() + b"".join(node.lines("one", 2)))
            copy.rename(node.path("one"))
            node.arrived()
        assert node.daemon.terminate() == 0
        node.daemon.start()
        node.append("one", 1)
        node.arrived()
        status = node.daemon.status()
        node.no_more(0.3)
        node.daemon.kill()
        assert status["quarantined"] == 1 and len(quarantine(node)) == 1 and status["state"] == "ok"


def test_r15_json_bombs_and_times_of_other_centuries_stop_nothing(tmp_path: Path) -> None:
    """What a hostile agent may write, beside a neighbour that must go on; then a 413 makes us take it all apart again."""
    bombs: list[bytes] = [
        b'{"a":' + b"[" * 990 + b"]" * 990 + b"}",
        b'{"a":' + b"[" * 1020 + b"]" * 1020 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b'{"a":1,"a":2}',
        b'{"timestamp":"\\ud800","message":{"usage":{"totalTokens":1e400,"cost":{"total":-1}},"model":"\\udfff"}}',
    ]
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.append("neighbour", 3)
        node.write("bombs", b"".join(bomb + b"\n" for bomb in bombs))
        node.write("\u202e\x1b[31m%s", b"{}\n")
        for number, moment in enumerate((-(2**33), 2**33, 13_600_000_000, 0)):
            node.write("time-%d" % number, dumps(numbered(number)))
            os.utime(node.path("time-%d" % number), (moment, moment))
        ingest.script(EVENTS, *([Fault(status=413)] * 2))
        ingest.policy = lambda request: Fault(status=413) if request.endpoint == EVENTS and not alone(request) else None
        node.daemon.start()
        ingest.wait(lambda me: all(any(key[1] == "time-%d.jsonl" % number for key in me.events) for number in range(4)), 30, "old files")
        node.append("neighbour", 2)
        ingest.wait(lambda me: any(key[1] == "neighbour.jsonl" and len(events) >= 2 for key, events in me.events.items()), 30, "neighbour")
        node.daemon.status()
        assert node.daemon.process is not None and node.daemon.process.poll() is None
        assert node.daemon.terminate() == 0
        assert not [text for text in ingest.violations if "not JSON" not in text]
        assert "Traceback" not in node.daemon.log()


def alone(request: Any) -> bool:
    try:
        return len(open_blob(json.loads(request.body)["blob"], decode_key(KEY_TEXT))["events"]) == 1
    except RecursionError:
        return False


@pytest.mark.parametrize("answer", [400, 404, 413])
def test_r16_refused_records_become_dead_letters(tmp_path: Path, answer: int) -> None:
    """One record the ingest never takes: it is kept sealed, the others arrive; nothing is asked twice for ever."""

    def policy(request: Any) -> Any:
        if request.endpoint != EVENTS:
            return None
        plain = open_blob(json.loads(request.body)["blob"], decode_key(KEY_TEXT))
        return Fault(status=answer) if {"bad": 1} in plain["events"] else None

    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.append("one", 5)
        node.write("one", dumps({"bad": 1}))
        node.append("one", 5)
        ingest.policy = policy
        node.daemon.start()
        if answer == 413:
            ingest.wait_events(10)
        status = until(lambda: (now := node.daemon.status()) and now["dead_letters"] and now, 20, "dead letter")
        node.daemon.kill()
        assert status["state"] == "degraded" and status["dead_letters"] == 1
        with sqlite3.connect("file:%s?mode=ro" % (node.daemon.state_dir / "queue.db"), uri=True) as db:
            ((reason, records, size),) = db.execute("SELECT reason, records, length(payload) FROM dead_letter").fetchall()
        assert str(answer) in reason and size > 28
        assert records == (1 if answer == 413 else 11)
        ingest.check()
        if answer == 413:
            node.exact()
            assert ingest.count(EVENTS) <= 2 * 5 + 1
