# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""queue.db: what is stored together, what goes when, and what is refused."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest

from clawmetry_sync import peek
from clawmetry_sync import queue as room
from clawmetry_sync.errors import ConfigError, StateError
from clawmetry_sync.model import Poison
from clawmetry_sync.queue import InstanceLock, Queue, Sealed, SourceRow, cursors, idempotency_key, prepare_state_dir

EVENTS = "/ingest/events"
BOX = "bare:/home/someone/.openclaw"


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(str(tmp_path / "queue.db"))
    yield queue
    queue.close()


def batch(key: str, size: int = 10, *, slot: Optional[str] = None, records: int = 1) -> Sealed:
    return Sealed(EVENTS, key, b"x" * size, records, slot=slot)


def read(queue: Queue, session: bytes, ino: int, *keys: str, row: Optional[SourceRow] = None, **more: Any) -> SourceRow:
    """Commit a turn that found the batches KEYS in a file of SESSION."""
    row = row or SourceRow(0, 0, session + b".jsonl", ino, 1)
    row.offset += 100 * len(keys)
    given = {"hashes": b"", "poison": (), "stats": None, **more}
    queue.commit_turn(row, (BOX, b"main", session), [batch(key) for key in keys], given["hashes"], given["poison"], given["stats"])
    return row


def shipped(queue: Queue) -> list[str]:
    """The keys in the order they go out when all is acknowledged."""
    keys = []
    while (row := queue.next()) is not None:
        keys.append(row.key)
        queue.ack(row)
    return keys


# -- cursor and outbox in one transaction -----------------------------------------------------------------------------------


def test_cursor_moves_with_its_batch_and_both_survive(queue: Queue, tmp_path: Path) -> None:
    row = read(queue, b"one", 7, "k1", "k2", stats='{"events":2}', hashes=b"12345678")
    queue.close()
    again = Queue(str(tmp_path / "queue.db"))
    ((session_id, (stored,)),) = again.sources(BOX, b"main").values()
    assert stored == row and stored.offset == 200 and again.stats(session_id) == '{"events":2}'
    assert again.sent_hashes(session_id, 100) == [b"12345678"]
    assert again.outbox_size() == (2, 20) and shipped(again) == ["k1", "k2"]
    again.close()


def test_r2_failed_commit_moves_neither(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    row = read(queue, b"one", 7, "k1")
    before = queue.sources(BOX, b"main")

    def full(_row: SourceRow) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(queue, "_store_cursor", full)
    with pytest.raises(StateError, match="full"):
        read(queue, b"one", 7, "k2", row=row, poison=[Poison(0, 1, "00", "bad")], hashes=b"12345678")
    with pytest.raises(StateError):
        read(queue, b"two", 8, "k3")
    assert queue.sources(BOX, b"main") == before
    assert queue.outbox_size()[0] == 1 and queue.counts()["quarantined"] == 0 and queue.sent_hashes(1, 10) == []
    monkeypatch.undo()
    read(queue, b"two", 8, "k3")
    assert shipped(queue) == ["k1", "k3"]


def test_sandboxes_and_agents_share_nothing(queue: Queue) -> None:
    read(queue, b"one", 7, "k1")
    assert queue.sources("docker:" + "a" * 64, b"main") == {} == queue.sources(BOX, b"writer")


def test_poison_is_kept_once(queue: Queue) -> None:
    bad = Poison(5, 3, "ab" * 32, "not JSON")
    row = read(queue, b"one", 7, poison=[bad])
    read(queue, b"one", 7, row=row, poison=[bad, Poison(9, 3, "cd" * 32, "not UTF-8")])
    assert queue.counts()["quarantined"] == 2
    assert [entry["reason"] for entry in queue.quarantined()] == ["not UTF-8", "not JSON"]


# -- outbox -------------------------------------------------------------------------------------------------------------------


def test_r2_row_stays_until_its_ack(queue: Queue) -> None:
    read(queue, b"one", 7, "k1")
    first, second = queue.next(), queue.next()
    assert first == second and first is not None
    queue.ack(first)
    assert queue.next() is None and queue.counts()["last_ack"]
    assert queue.source_status()[0]["last_ack"]


def test_sources_take_turns_each_in_its_order(queue: Queue) -> None:
    read(queue, b"hot", 1, *("h%d" % number for number in range(6)))
    read(queue, b"small", 2, "s0")
    queue.enqueue(batch("snapshot", slot="snapshot"))
    read(queue, b"late", 3, "l0", "l1")
    keys = shipped(queue)
    assert [key for key in keys if key[0] == "h"] == ["h%d" % number for number in range(6)]
    assert keys.index("s0") <= 3 and keys.index("l0") <= 3 and keys.index("snapshot") <= 3 and keys.index("l0") < keys.index("l1")


def test_files_of_one_session_go_in_the_order_they_were_read(queue: Queue) -> None:
    old = read(queue, b"one", 1, "a0")
    read(queue, b"one", 2, "b0")
    read(queue, b"other", 3, "o0", "o1", "o2")
    read(queue, b"one", 1, "a1", row=old)
    keys = shipped(queue)
    assert [key for key in keys if key[0] in "ab"] == ["a0", "b0", "a1"]
    assert keys.index("o0") < keys.index("a1"), "two files of one session starve nobody"


def test_parts_of_a_split_row_take_its_place(queue: Queue) -> None:
    read(queue, b"one", 7, "k1", "k2")
    row = queue.next()
    assert row is not None
    queue.split(row, [batch("k1a"), batch("k1b")])
    row = queue.next()
    assert row is not None and row.key == "k1a" and row.source == 1
    queue.split(row, [batch("k1aa"), batch("k1ab")])
    assert shipped(queue) == ["k1aa", "k1ab", "k1b", "k2"]


def test_dead_letter_keeps_the_payload(queue: Queue) -> None:
    read(queue, b"one", 7, "k1")
    row = queue.next()
    assert row is not None
    queue.dead_letter(row, "HTTP 400")
    assert queue.next() is None and queue.counts()["dead_letters"] == 1
    assert queue.db.execute("SELECT key, reason, payload FROM dead_letter").fetchall() == [("k1", "HTTP 400", b"x" * 10)]


def test_slot_keeps_the_newest_only(queue: Queue) -> None:
    for key in ("old", "new"):
        queue.enqueue(batch(key, slot="snapshot"), meta=("seen", key))
    assert shipped(queue) == ["new"] and queue.get_meta("seen") == "new"


def test_session_rows_are_sent_again_when_they_changed_meanwhile(queue: Queue) -> None:
    row = read(queue, b"one", 7, "k1", stats="{}")
    (stored,) = queue.changed_sessions(50)
    read(queue, b"one", 7, "k2", row=row, stats='{"events":1}')
    queue.enqueue_rows(batch("rows"), [stored])
    (again,) = queue.changed_sessions(50)
    assert again.version > stored.version and again.stats == '{"events":1}'
    queue.enqueue_rows(batch("rows2"), [again])
    assert queue.changed_sessions(50) == []


def test_forgetting_waits_for_the_ack(queue: Queue) -> None:
    row = read(queue, b"one", 7, "k1", stats="{}", hashes=b"12345678")
    assert queue.forget_sources([row.id]) == {row.id}
    assert queue.sources(BOX, b"main")
    shipped(queue)
    queue.enqueue_rows(batch("rows"), queue.changed_sessions(10))
    assert queue.forget_sources([row.id]) == set()
    assert queue.sources(BOX, b"main") == {} and queue.sent_hashes(row.session, 10) == []


def test_session_without_files_goes_once_its_last_row_is_sent(queue: Queue) -> None:
    row = read(queue, b"one", 7, stats="{}", hashes=b"12345678")
    queue.forget_sources([row.id])
    assert queue.sources(BOX, b"main") and queue.forget_sandboxes([BOX], queue.clock_s, 1.0) == 0
    queue.enqueue_rows(batch("rows"), queue.changed_sessions(10))
    queue.forget_sandboxes([BOX], queue.clock_s, 1.0)
    assert queue.sources(BOX, b"main") == {} and queue.sent_hashes(row.session, 10) == []


def test_only_a_sandbox_long_gone_is_forgotten(queue: Queue) -> None:
    row = read(queue, b"one", 7, "k1", stats="{}", hashes=b"12345678")
    now, day = 2e9, 86400.0
    assert queue.forget_sandboxes([], now, 7 * day) == 0, "a batch of it waits"
    shipped(queue)
    # Silent for weeks, but there; then away for a while; then an impatient start that cannot know.
    assert queue.forget_sandboxes([BOX], now, 7 * day) == 0
    assert queue.forget_sandboxes([], now + 6 * day, 7 * day) == 0
    assert queue.forget_sandboxes([], now + 600 * day, float("inf")) == 0
    assert queue.sources(BOX, b"main")
    assert queue.forget_sandboxes([], now + 8 * day, 7 * day) == 1
    assert queue.sources(BOX, b"main") == {} and queue.sent_hashes(row.session, 10) == []


def test_r25_seen_is_told_in_time_of_our_own_running(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's clock jumps by years, both ways; what is long gone is decided by how long we have run since."""
    row = read(queue, b"one", 7, "k1")
    shipped(queue)
    day = 86400.0
    for jump in (-20 * 365 * day, 20 * 365 * day):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1.8e9 + jump)
        queue.tick(600.5)
        assert queue.forget_sandboxes([], queue.clock_s, 7 * day) == 0
        kept = queue.clock_s
        queue.close()
        queue = Queue(str(tmp_path / "queue.db"))
        assert kept - 601 <= queue.clock_s <= kept
        row = read(queue, b"one", 7, row=row)
    for _day in range(8):
        queue.tick(day)
    assert queue.forget_sandboxes([], queue.clock_s, 7 * day) == 1
    queue.close()


def test_r24_hashes_that_are_never_asked_for_again_go(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "MAX_HASHES", 10)
    monkeypatch.setattr(cursors, "_LOOK_EVERY", 8)
    row = read(queue, b"one", 7)
    for number in range(40):
        row.records += 4
        read(queue, b"one", 7, row=row, hashes=b"%08d" % number * 4)
    runs = queue.sent_hashes(row.session, 1000)
    assert runs[0] == b"00000039" * 4 and 3 <= len(runs) <= 5


def test_r24_file_gives_pages_back(queue: Queue, tmp_path: Path) -> None:
    for number in range(200):
        queue.enqueue(batch("k%d" % number, 100_000))
    shipped(queue)
    for _time in range(10):
        queue.trim()
    queue.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert (tmp_path / "queue.db").stat().st_size < 10 << 20


# -- the file -------------------------------------------------------------------------------------------------------------------


def test_file_is_private_and_durable(queue: Queue, tmp_path: Path) -> None:
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert queue.db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert queue.db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert not (tmp_path / "queue.db.new").exists()


def test_half_made_file_of_a_killed_start_is_no_damage(tmp_path: Path) -> None:
    for name in ("queue.db.new", "queue.db.new-wal", "queue.db.new-shm"):
        (tmp_path / name).write_bytes(b"half")
    queue = Queue(str(tmp_path / "queue.db"))
    queue.enqueue(batch("k1"))
    queue.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["queue.db"]


@pytest.mark.parametrize("content, told", [(b"", "empty"), (b"not a database at all" * 500, "cannot be used")])
def test_r4_damage_is_told_and_left_alone(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(content)
    with pytest.raises(StateError, match=told) as caught:
        Queue(str(path))
    assert path.read_bytes() == content and caught.value.next_step


@pytest.mark.parametrize("version, told", [(99, "newer"), (0, "no format version")])
def test_r4_other_versions_are_refused(queue: Queue, tmp_path: Path, version: int, told: str) -> None:
    queue.db.execute("PRAGMA user_version=%d" % version)
    with pytest.raises(StateError, match=told):
        Queue(str(tmp_path / "queue.db"))


def test_peek_writes_nothing(queue: Queue, tmp_path: Path) -> None:
    queue.set_meta("node_id", "n1")
    path = str(tmp_path / "queue.db")
    assert peek.meta(path, "node_id") == "n1" and peek.meta(path, "other") is None
    assert peek.meta(str(tmp_path / "absent.db"), "node_id") is None and not (tmp_path / "absent.db").exists()
    assert Queue.peek_status(path)["pending"] == 0
    (tmp_path / "bad.db").write_bytes(b"x" * 5000)
    assert "cannot be read" in Queue.peek_status(str(tmp_path / "bad.db"))["reason"]
    queue.close()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert peek.meta(path, "node_id") == "n1" and Queue.peek_status(path)["pending"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # not even the log a reader of SQLite makes


def test_r22_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    lock = InstanceLock(str(tmp_path))
    with pytest.raises(StateError, match="process [0-9]+ holds its lock"):
        InstanceLock(str(tmp_path))
    lock.release()
    InstanceLock(str(tmp_path)).release()


def test_a_directory_of_others_is_not_closed_to_them(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "somebody's").touch()
    with pytest.raises(ConfigError, match="holds other things"):
        prepare_state_dir(str(shared))
    assert shared.stat().st_mode & 0o7777 == 0o1777
    (shared / "somebody's").rename(shared / "lost+found")
    prepare_state_dir(str(shared))
    assert shared.stat().st_mode & 0o777 == 0o700


def test_state_directory_is_ours_and_private(tmp_path: Path) -> None:
    made = tmp_path / "a/b"
    prepare_state_dir(str(made))
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    prepare_state_dir(str(made))
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(made)
    (tmp_path / "file").write_text("")
    for bad in ("link", "file", "file/below"):
        with pytest.raises(ConfigError):
            prepare_state_dir(str(tmp_path / bad))


def test_r5_key_is_a_function_of_its_parts() -> None:
    parts = ("box", b"agents/main/sessions", b"one", 7, 0, 100, 200)
    assert idempotency_key(*parts) == idempotency_key(*parts) and len(idempotency_key(*parts)) == 32
    others = [parts[:-1], (*parts, 0), ("boxa", b"gents/main/sessions", *parts[2:]), (*parts[:3], 8, *parts[4:]), (1, "\ud800")]
    assert len({idempotency_key(*other) for other in [*others, parts]}) == 6
    assert room.SCHEMA_VERSION >= 1
