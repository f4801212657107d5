# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a held home to the queue: what is read when, under which key, and what a bad source may not do."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from clawmetry_sync import wire
from clawmetry_sync.errors import StateError
from clawmetry_sync.model import HomePlace, Sandbox
from clawmetry_sync.queue import Queue, cursors
from clawmetry_sync.read import routes, tail
from clawmetry_sync.seal import Sealer
from clawmetry_sync.sync import Context, SandboxSync
from clawmetry_sync.sync.state import signature_of
from clawmetry_sync.sync.watch import LAYOUT_INTERVAL_S
from support.tree import dumps, numbered

SESSION = "2f8344fb-0000-4000-8000-000000000001"


class Bench:
    """A home, a queue, and a reader that can be restarted; the clock is told."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.sessions = self.home / ".openclaw/agents/main/sessions"
        self.sessions.mkdir(parents=True)
        self.sealer = Sealer(bytes(32))
        self.now = 1000.0
        self.queue = Queue(str(directory / "queue.db"))
        self.sync: SandboxSync
        self.open()

    def open(self) -> None:
        """A new life of the process over the same state."""
        box = Sandbox(uid="bare:x", name="openclaw@me", type="bare", home=HomePlace(str(self.home).encode(), b".openclaw"))
        context = Context(self.queue, self.sealer, "n", lambda: False, lambda: self.now)
        self.sync = SandboxSync(routes.open_sandbox(box, routes=("volume",)), context)

    def restart(self) -> None:
        self.sync.close()
        self.open()

    def write(self, name: str, *numbers: int, mode: str = "ab") -> None:
        with open(self.sessions / name, mode) as stream:
            stream.write(b"".join(dumps(numbered(number)) for number in numbers))

    def read(self) -> int:
        """Read until nothing is new; return the number of turns."""
        turns = 0
        while True:
            self.now += 1
            found = self.sync.scan()
            if not found:
                return turns
            for item in found:
                self.sync.turn(*item)
                turns += 1

    def sent(self) -> list[dict[str, Any]]:
        """Every plaintext of an events batch in the outbox so far, in order."""
        rows = self.queue.db.execute("SELECT payload FROM outbox WHERE endpoint=? ORDER BY id", (wire.EVENTS,))
        return [json.loads(self.sealer.open(payload)) for (payload,) in rows]

    def numbers(self) -> list[int]:
        return [event["seq"] for batch in self.sent() for event in batch["events"]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.sync.close()
    bench.queue.close()


def test_new_lines_are_read_once(bench: Bench) -> None:
    bench.write("one.jsonl", 0, 1)
    assert bench.read() == 1 and bench.read() == 0
    bench.write("one.jsonl", 2)
    assert bench.read() == 1
    assert bench.numbers() == [0, 1, 2]
    (first, second) = bench.sent()
    assert first["session_file"] == "one.jsonl" and first["node_id"] == "n"
    assert first["source"] == {"sandbox.name": "openclaw@me", "sandbox.type": "bare", "sandbox.id": "bare:x", "agent": "main"}
    assert (bench.sync.events, bench.sync.batches) == (3, 2) and second["source"] == first["source"]


def test_p2_restart_reads_nothing_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        bench.write("s%02d.jsonl" % number, 0, 1)
    bench.read()
    bench.restart()
    monkeypatch.setattr(tail, "read_turn", None)
    assert bench.read() == 0


def test_session_of_two_files_is_read_in_order_and_repeats_nothing(bench: Bench) -> None:
    """Nothing was sent yet, and compaction has left the same lines in both."""
    bench.write(SESSION + ".jsonl.bak.2026-11-21T10-00-00.000Z", *range(10))
    bench.write(SESSION + ".jsonl", 7, 8, 9, 10)
    bench.read()
    assert bench.numbers() == list(range(11))
    bench.restart()
    bench.write(SESSION + ".jsonl", 11)
    bench.read()
    assert bench.numbers() == list(range(12))


def test_rewrite_is_a_generation_with_keys_of_its_own(bench: Bench) -> None:
    bench.write("one.jsonl", *range(5))
    bench.read()
    bench.write("one.jsonl", 100, 101, mode="wb")
    bench.read()
    assert bench.numbers() == [0, 1, 2, 3, 4, 100, 101]
    (source,) = bench.queue.source_status()
    assert source["generation"] == 1
    keys = [key for (key,) in bench.queue.db.execute("SELECT key FROM outbox WHERE endpoint=?", (wire.EVENTS,))]
    assert len(set(keys)) == 2


def test_rewrite_half_written_when_we_look_sends_nothing_twice(bench: Bench) -> None:
    """Truncated, then written again in pieces, with a restart in the middle."""
    data = b"".join(dumps(numbered(number)) for number in range(50))
    path = bench.sessions / "one.jsonl"
    path.write_bytes(data)
    bench.read()
    for cut in (0, 100, 1000, len(data) - 3):
        path.write_bytes(data[:cut])
        bench.read()
        bench.restart()
        bench.read()
    path.write_bytes(data + dumps(numbered(50)))
    bench.read()
    assert bench.numbers() == list(range(51))


@pytest.mark.parametrize("moment", [-(2**33), 2**33, 13_600_000_000])
def test_times_sqlite_has_no_room_for(bench: Bench, moment: int) -> None:
    """A sandbox sets any time it likes; it can not make the commit fail for ever."""
    bench.write("one.jsonl", 0)
    os.utime(bench.sessions / "one.jsonl", (moment, moment))
    assert bench.read() == 1 and bench.read() == 0
    bench.restart()
    assert bench.read() == 0
    bench.write("one.jsonl", 1)
    bench.read()
    assert bench.numbers() == [0, 1]


def test_inode_numbers_sqlite_has_no_room_for() -> None:
    """Network file systems use all 64 bits."""
    seen: Any = SimpleNamespace(st_ino=2**64 - 1, st_dev=2**64 - 2, st_size=10, st_mtime_ns=-5, st_ctime_ns=2**64)
    assert all(0 <= part < 2**63 for part in signature_of(seen))


def test_what_is_no_file_is_refused_and_named(bench: Bench) -> None:
    os.mkfifo(bench.sessions / "fifo.jsonl")
    (bench.sessions / "dir.jsonl").mkdir()
    (bench.sessions / "link.jsonl").symlink_to("/etc/passwd")
    bench.write("one.jsonl", 0)
    os.link(bench.sessions / "one.jsonl", bench.home / "other-name")
    bench.write("two.jsonl", 1)
    bench.read()
    assert bench.numbers() == [1]
    assert set(bench.sync.problems) == {"fifo.jsonl", "dir.jsonl", "link.jsonl", "one.jsonl"}
    # One line of each, however often we look.
    before = dict(bench.sync.problems)
    bench.read()
    assert bench.sync.problems == before
    (bench.home / "other-name").unlink()
    bench.read()
    assert bench.numbers() == [1, 0] and "one.jsonl" not in bench.sync.problems


def test_r20_failed_commit_is_as_if_nothing_was_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("one.jsonl", 0, 1)
    bench.read()
    bench.write("one.jsonl", 2, 3)

    def full(*_arguments: object) -> None:
        raise StateError("cannot write queue.db", cause="disk full")

    monkeypatch.setattr(bench.queue, "commit_turn", full)
    for _time in range(3):
        bench.now += 1
        with pytest.raises(StateError):
            for item in bench.sync.scan():
                bench.sync.turn(*item)
    monkeypatch.undo()
    bench.read()
    assert bench.numbers() == [0, 1, 2, 3]


def test_surprise_stays_with_its_source_and_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something nobody thought of, after the lines were read and before they were stored."""
    bench.write("bad.jsonl", 0)
    bench.write("good.jsonl", 1)
    real = wire.events

    def surprising(**given: Any) -> bytes:
        if given["session_file"] == "bad.jsonl":
            raise UnicodeError("secret content")
        return real(**given)

    monkeypatch.setattr(wire, "events", surprising)
    for _time in range(2):
        bench.now += 1
        for item in bench.sync.scan():
            bench.sync.turn(*item)
    assert bench.numbers() == [1] and bench.sync.problems == {"bad.jsonl": "unexpected UnicodeError"}
    monkeypatch.undo()
    bench.write("bad.jsonl", 2)
    bench.read()
    assert bench.numbers() == [1, 0, 2] and not bench.sync.problems


def test_r20_state_that_cannot_even_be_read_moves_no_cursor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("one.jsonl", 0, 1)
    bench.read()
    bench.write("one.jsonl", 2, 3)

    def broken(*_arguments: object) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(bench.queue, "commit_turn", broken)
    monkeypatch.setattr(bench.queue, "sources", broken)
    for _time in range(3):
        bench.now += LAYOUT_INTERVAL_S
        with pytest.raises(sqlite3.Error):
            for item in bench.sync.scan():
                bench.sync.turn(*item)
    monkeypatch.undo()
    bench.now += LAYOUT_INTERVAL_S
    bench.read()
    assert bench.numbers() == [0, 1, 2, 3]


def test_unreadable_moment_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    bench.write("bad.jsonl", 0)
    bench.write("good.jsonl", 1)
    monkeypatch.setattr(os, "pread", failing)
    bench.now += 1
    for item in bench.sync.scan():
        bench.sync.turn(*item)
    assert "Input/output" in bench.sync.problems["bad.jsonl"] and not bench.numbers()
    monkeypatch.undo()
    bench.read()
    assert sorted(bench.numbers()) == [0, 1] and not bench.sync.problems


def index(bench: Bench, **entries: dict[str, Any]) -> None:
    (bench.sessions / "sessions.json").write_text(json.dumps(entries))


def row_of(bench: Bench) -> dict[str, Any]:
    (stored,) = bench.queue.changed_sessions(10)
    row = bench.sync.session_row(stored)
    assert row is not None
    return row


def test_titles_are_sealed_and_phone_numbers_do_not_leave(bench: Bench) -> None:
    index(
        bench,
        **{"agent:main:telegram:direct:15550100": {"sessionId": SESSION, "displayName": "Call with 15550100", "lastChannel": "telegram"}},
    )
    bench.write(SESSION + ".jsonl", 0)
    bench.read()
    row = row_of(bench)
    assert "15550100" not in json.dumps(row) and row["session_key"].startswith("agent:main:telegram:direct:h-")
    assert (row["session_id"], row["event_count"], row["channel"], row["runtime"]) == (SESSION, 1, "telegram", "openclaw")
    assert (row["sandbox.name"], row["sandbox.type"]) == ("openclaw@me", "bare")


def test_subagent_is_named_in_its_batches(bench: Bench) -> None:
    index(bench, **{"agent:main:subagent:abc": {"sessionId": SESSION}})
    bench.write(SESSION + ".jsonl", 0)
    bench.read()
    assert bench.sent()[0]["subagent_id"] == "abc"


def memory_uploads(bench: Bench) -> list[Any]:
    rows = bench.queue.db.execute("SELECT payload FROM outbox WHERE endpoint=?", (wire.MEMORY,))
    return [json.loads(bench.sealer.open(payload)) for (payload,) in rows]


def test_memory_is_uploaded_when_it_changed(bench: Bench) -> None:
    workspace = bench.home / ".openclaw/workspace"
    (workspace / "memory").mkdir(parents=True)
    (workspace / "MEMORY.md").write_text("# one")
    (workspace / "memory/2026-11-21.md").write_bytes(b"caf\xff")
    (workspace / "SOUL.md").symlink_to("/etc/passwd")
    bench.sync.held.refresh()
    assert bench.sync.memory(at_once=True) and not bench.sync.memory(at_once=True)
    ((upload),) = memory_uploads(bench)
    assert [(entry["path"], entry["content"]) for entry in upload["memory_content"]] == [
        ("MEMORY.md", "# one"),
        ("memory/2026-11-21.md", "caf\ufffd"),
    ]
    bench.restart()
    assert not bench.sync.memory(at_once=True), "a restart is no change"
    (workspace / "MEMORY.md").write_text("# two")
    assert bench.sync.memory(at_once=True)
    assert len(memory_uploads(bench)) == 1, "the unsent older one is replaced"
    assert memory_uploads(bench)[0]["memory_content"][0]["content"] == "# two"


def test_home_made_anew_is_noticed(bench: Bench) -> None:
    assert bench.sync.held.alive()
    shutil.rmtree(bench.home)
    assert not bench.sync.held.alive()
    bench.sessions.mkdir(parents=True)
    assert not bench.sync.held.alive()
    bench.restart()
    assert bench.sync.held.alive()


def test_new_agent_and_state_are_found_in_time(bench: Bench) -> None:
    other = bench.home / ".openclaw/agents/writer/sessions"
    other.mkdir(parents=True)
    (other / "w.jsonl").write_bytes(dumps(numbered(5)))
    bench.read()
    bench.now += LAYOUT_INTERVAL_S
    bench.read()
    assert [batch["source"]["agent"] for batch in bench.sent()] == ["writer"]


def test_gone_files_are_forgotten_after_an_hour(bench: Bench) -> None:
    bench.write("one.jsonl", 0)
    bench.write("two.jsonl", 1)
    bench.read()
    while (row := bench.queue.next()) is not None:
        bench.queue.ack(row)
    bench.queue.db.execute("UPDATE session SET sent_version=version")
    (bench.sessions / "one.jsonl").unlink()
    for _minute in range(70):
        bench.now += 60
        bench.sync.scan()
    names = {source["file"]: source for source in bench.queue.source_status()}
    assert set(names) == {"two.jsonl"}


# -- bounded, whatever is in the file ---------------------------------------------------------------------------------------


def test_r15_poison_of_a_replaced_file_is_put_aside_once(bench: Bench) -> None:
    path = bench.sessions / "one.jsonl"
    path.write_bytes(b"not json\n" + dumps(numbered(0)))
    bench.read()
    for number in range(3):
        copy = bench.sessions / "copy.tmp"
        copy.write_bytes(path.read_bytes() + dumps(numbered(number + 1)))
        copy.rename(path)
        bench.read()
    assert bench.numbers() == [0, 1, 2, 3]
    assert bench.queue.counts()["quarantined"] == 1 and len(bench.queue.quarantined()) == 1
    # Its first file is forgotten: the entry stays with the session, and goes with it.
    ids = [source["id"] for source in bench.queue.source_status()]
    assert len(ids) > 1, "a file system that gives a freed inode out again makes two of them, others four"
    for number, source in enumerate(ids):
        bench.queue.db.execute("DELETE FROM outbox")
        bench.queue.forget_sources([source])
        assert bench.queue.counts()["quarantined"] == len(bench.queue.quarantined()) == (1 if number < len(ids) - 1 else 0)


def test_s10_lines_of_two_bytes_are_taken_some_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "WINDOW_LINES", 7)
    monkeypatch.setattr(tail, "TURN_LINES", 20)
    bench.write("one.jsonl", *range(100))
    assert bench.read() >= 5
    assert bench.numbers() == list(range(100))


def test_poison_without_end_is_counted_not_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "MAX_QUARANTINE", 10)
    path = bench.sessions / "one.jsonl"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(25)))
    bench.read()
    with open(path, "ab") as stream:
        stream.write(b"".join(b"%d\n" % number for number in range(25, 40)))
    bench.read()
    assert bench.queue.counts()["quarantined"] == 40 and len(bench.queue.quarantined()) == 11
    (source,) = bench.queue.source_status()
    assert source["quarantined"] == 40


def test_second_reading_may_take_as_long_as_it_takes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes between two turns, as in an outage with a full queue: what was sent is left out to the very end."""
    monkeypatch.setattr(tail, "WINDOW_LINES", 10)
    monkeypatch.setattr(tail, "TURN_LINES", 10)
    bench.write("one.jsonl", *range(100))
    bench.read()
    bench.write("one.jsonl", 1000, *range(100), 1001, mode="wb")
    while found := bench.sync.scan():
        bench.now += 3600
        for item in found:
            bench.sync.turn(*item)
        bench.restart()
    assert bench.numbers() == [*range(100), 1000, 1001]


def test_writer_that_pauses_in_the_middle_of_a_rewrite_repeats_nothing(bench: Bench) -> None:
    """Nine minutes between its pieces, for hours; in the end the comparison is over, and a line may repeat itself."""
    bench.write("one.jsonl", *range(30))
    bench.read()
    bench.write("one.jsonl", 1000, mode="wb")
    for number in range(29):
        bench.read()
        bench.now += 540
        bench.write("one.jsonl", number)
    bench.read()
    assert bench.numbers() == [*range(30), 1000]
    bench.now += 700
    bench.write("one.jsonl", 2000)
    bench.read()
    bench.now += 1
    bench.write("one.jsonl", 29)
    bench.read()
    assert bench.numbers() == [*range(30), 1000, 2000, 29]


@pytest.mark.parametrize("restarted", [False, True])
def test_r10_inode_in_use_again_repeats_nothing_of_the_file_between(bench: Bench, restarted: bool) -> None:
    """Replaced twice by a longer copy; the third file has the inode of the first, so its old cursor seems to fit."""
    path = bench.sessions / "one.jsonl"
    kept = bench.sessions / "kept"
    bench.write("one.jsonl", 0, 1)
    bench.read()
    kept.hardlink_to(path)  # the first inode, at hand when it is wanted again
    data = path.read_bytes()
    copy = bench.sessions / "copy.tmp"
    copy.write_bytes(data + dumps(numbered(2)))
    copy.rename(path)
    bench.read()
    if restarted:
        bench.restart()
    kept.write_bytes(data + dumps(numbered(2)) + dumps(numbered(3)))
    kept.rename(path)
    bench.read()
    assert bench.numbers() == [0, 1, 2, 3]


def test_r24_file_that_went_while_a_batch_waited_is_forgotten_later(bench: Bench) -> None:
    bench.write("one.jsonl", 0)
    bench.write("two.jsonl", 1)
    bench.read()
    (bench.sessions / "one.jsonl").unlink()
    for _hour in range(2):
        bench.now += 3700
        bench.read()
        assert len(bench.queue.source_status()) == 2, "a batch of it waits"
    bench.queue.db.execute("DELETE FROM outbox")
    for _time in range(2):
        bench.now += 11
        bench.read()
    (source,) = bench.queue.source_status()
    assert source["file"] == "two.jsonl"


def test_p4_what_was_sent_is_not_held_for_files_that_were_set_aside(bench: Bench) -> None:
    """A session of many rotations: each new file is compared with all that was sent, and holds that only while it is written."""
    bench.write(SESSION + ".jsonl", *range(10))
    bench.read()
    for number in range(5):
        (bench.sessions / (SESSION + ".jsonl")).rename(bench.sessions / (SESSION + ".jsonl.reset.2026-11-21T10-00-0%d.000Z" % number))
        bench.write(SESSION + ".jsonl", 100 + number)
        bench.read()
    (agent,) = bench.sync._agents.values()
    assert [file.sent for file in agent.files.values() if file.sent is not None]
    bench.now += 130
    bench.read()
    assert not [file.sent for file in agent.files.values() if file.sent is not None]
    # Within ten minutes of it the comparison is taken up again.
    bench.write(SESSION + ".jsonl", 3, 200)
    bench.read()
    assert bench.numbers() == [*range(10), *range(100, 105), 200]
