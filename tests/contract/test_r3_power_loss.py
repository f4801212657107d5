# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R3: what was acknowledged to ourselves survives power loss, whatever else the disk has kept or dropped."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync.queue import Queue
from support.daemon import ENGINE, ENVIRONMENT
from support.powerloss import Call, Disk, traced

BOX = "bare:/home/someone/.openclaw"
# Commits turns, acknowledges some, checkpoints now and then, and marks each as soon as the call has returned.
PROGRAM = """
import importlib.util, os, sys
root, state, marks, box = sys.argv[1:]
spec = importlib.util.spec_from_file_location("clawmetry_sync", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["clawmetry_sync"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from clawmetry_sync.queue import Queue, Sealed, SourceRow, prepare_state_dir
prepare_state_dir(state)
mark = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
queue = Queue(state + "/queue.db")
os.write(mark, b"made")
row = SourceRow(0, 0, b"one.jsonl", 7, 1)
for number in range(14):
    row.offset += 100
    batch = Sealed("/ingest/events", "k%d" % number, bytes([number]) * (500 + 9000 * (number % 3)), 1)
    queue.commit_turn(row, (box, b"main", b"one"), [batch], b"%08d" % number, (), "{}")
    os.write(mark, b"stored %d" % number)
    if number % 2:
        first = queue.next()
        queue.ack(first)
        os.write(mark, b"acked " + first.key.encode())
    if number == 6:
        queue.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    if number == 10:
        queue.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
queue.close()
"""


def run_traced(scratch: Path, program: str) -> list[Call]:
    argv = [sys.executable, "-I", "-B", "-c", program, str(ENGINE), str(scratch / "state"), str(scratch / "marks"), BOX]
    return traced(argv, scratch / "state", scratch / "marks", scratch / "log", env=ENVIRONMENT)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    return run_traced(tmp_path_factory.mktemp("traced"), PROGRAM)


def holds(image: dict[str, bytes], marks: list[str], place: Path) -> None:
    """Open what a power cut has left: all that was marked is there, and cursor and outbox tell the same story."""
    place.mkdir(mode=0o700)
    for name, data in image.items():
        (place / name).write_bytes(data)
    if "made" not in marks and "queue.db" not in image:
        Queue(str(place / "queue.db")).close()  # the first start died: the next one begins
        shutil.rmtree(place)
        return
    queue = Queue(str(place / "queue.db"))
    found = queue.sources(BOX, b"main")
    offset = sum(row.offset for _session, rows in found.values() for row in rows)
    waiting = {key for (key,) in queue.db.execute("SELECT key FROM outbox")}
    hashes = sum(len(run) for session, _rows in found.values() for run in queue.sent_hashes(session, 1000))
    queue.close()
    shutil.rmtree(place)
    stored = [int(mark.split()[1]) for mark in marks if mark.startswith("stored")]
    acked = {mark.split()[1] for mark in marks if mark.startswith("acked")}
    assert offset // 100 >= len(stored), "a stored batch is gone"
    assert not waiting & acked, "an acknowledged row is back"
    assert hashes == 8 * (offset // 100)
    # Rows go in order, and an ack that was on its way may have been the last thing written.
    known = {"k%d" % number for number in range(offset // 100)}
    gone = known - waiting
    assert waiting <= known and gone == {"k%d" % number for number in range(len(gone))}
    assert len(acked) <= len(gone) <= len(acked) + 1


def cut_everywhere(calls: list[Call], scratch: Path, more: int) -> int:
    """Open every different state that the disk may be in after each call, MORE random ones among them. Returns how many."""
    disk, marks, chance = Disk(), [], random.Random(3)
    seen = set()
    for number, call in enumerate(calls):
        if call.what == "mark":
            marks.append(call.name)
        else:
            disk.apply(call)
        for image in [disk.least(), disk.most(), *(disk.some(chance) for _time in range(more))]:
            known = hash((len(marks), tuple(sorted(image.items()))))
            if known in seen:
                continue
            seen.add(known)
            try:
                holds(image, marks, scratch / "cut")
            except Exception as exc:
                raise AssertionError("after call %d (%s %s, marks %s): %r" % (number, call.what, call.name, marks[-2:], exc)) from exc
    assert marks[0] == "made" and len([mark for mark in marks if mark.startswith("stored")]) == 14
    return len(seen)


def test_r3_reopened_after_a_power_cut_at_every_call(calls: list[Call], tmp_path: Path, record_property: Any) -> None:
    images = cut_everywhere(calls, tmp_path, 1)
    record_property("R3", "%d calls, %d states of the disk opened again" % (len(calls), images))
    assert images > 300


def test_r3_a_queue_that_does_not_sync_is_caught(tmp_path: Path) -> None:
    """The same with the syncs switched off: this very test must notice."""
    hasty = PROGRAM.replace("row = SourceRow", 'queue.db.execute("PRAGMA synchronous=OFF")\nrow = SourceRow')
    calls = run_traced(tmp_path, hasty)
    with pytest.raises(AssertionError, match="a stored batch is gone"):
        cut_everywhere(calls, tmp_path, 0)


def test_r3_order_of_the_calls(calls: list[Call]) -> None:
    """Nothing is acknowledged to ourselves while anything of it is only in memory."""
    unsynced: set[str] = set()
    for call in calls:
        if call.what == "mark":
            # The log is what counts; after a checkpoint the file itself is synced before the log is used again.
            assert not unsynced, "%s: not synced: %s" % (call.name, unsynced)
        elif call.what == "sync":
            unsynced.discard(call.name)
        elif call.what in ("write", "truncate"):
            if call.name == "queue.db" and call.what == "write":
                assert "queue.db-wal" not in unsynced, "the file is written before its log is on the disk"
            if call.name == "queue.db-wal" and call.offset == 0:
                assert "queue.db" not in unsynced, "the log begins anew before the file is on the disk"
            if not call.name.endswith("-shm") and not (call.name == "queue.db-wal" and call.what == "truncate"):
                unsynced.add(call.name)
        elif call.what == "rename":
            assert call.name not in unsynced, "renamed before its content is on the disk"
            unsynced.add(".")
