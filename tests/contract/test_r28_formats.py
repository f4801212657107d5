# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R28: every format that a release has left on hosts is taken over with all that is in it; a newer one is refused, with what to do."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import Any, Iterator

import pytest

from clawmetry_sync import wire
from clawmetry_sync.errors import StateError
from clawmetry_sync.queue import SCHEMA_VERSION, Queue, statefile
from clawmetry_sync.read.sent import line_hash
from clawmetry_sync.read.tail import marker
from clawmetry_sync.seal import Sealer, parse_key
from clawmetry_sync.ship.archive import FORMAT
from support.ingest import KEY_TEXT, Ingest
from support.node import Node, until
from support.tree import dumps, numbered

FORMATS = sorted((Path(__file__).parents[1] / "fixtures/state").glob("queue-v*.sql"))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        yield node
        node.daemon.kill()


def old_state(node: Node, script: Path) -> None:
    """Make the state directory as the release of that format left it: three lines sent, one batch waiting, one refused."""
    node.append("one", 3)
    path = node.path("one")
    seen = path.stat()
    sealer = Sealer(parse_key(KEY_TEXT))
    source = {"sandbox.name": "x", "sandbox.type": "bare", "agent": "main"}

    def sealed(seq: int) -> bytes:
        body = wire.events(node_id="test-node", session_file="old.jsonl", lines=[dumps(numbered(seq)).strip()], source=source)
        return bytes(sealer.seal(body))

    fd = os.open(path, os.O_RDONLY)
    values: dict[str, Any] = {
        "url": node.ingest.url,
        "sandbox": "bare:%s/.openclaw" % node.home,
        "agent": b".openclaw/agents/main/sessions",
        "ino": seen.st_ino,
        "dev": seen.st_dev,
        "offset": seen.st_size,
        "marker": marker(fd, seen.st_size),
        "mtime_ns": seen.st_mtime_ns,
        "ctime_ns": seen.st_ctime_ns,
        "hashes": b"".join(line_hash(line) for line in path.read_bytes().splitlines()),
        "payload": sealed(100),
        "refused": sealed(200),
    }
    os.close(fd)
    node.daemon.state_dir.mkdir(mode=0o700)
    place = node.daemon.state_dir / "queue.db"
    place.touch(mode=0o600)
    with sqlite3.connect(place) as db:
        db.execute("PRAGMA journal_mode=WAL")
        for statement in re.sub(r"--.*", "", script.read_text()).split(";"):
            db.execute(statement, {name: value for name, value in values.items() if ":" + name in statement})
    db.close()


@pytest.mark.parametrize("script", FORMATS, ids=lambda path: path.stem)
def test_r28_an_older_state_goes_on_where_it_was(node: Node, script: Path) -> None:
    old_state(node, script)
    node.daemon.start()
    node.append("one", 2)
    node.ingest.wait_events(3)
    until(lambda: node.daemon.status()["queue"]["pending"] == 0, 10, "empty outbox")
    status = node.daemon.status()
    received = node.received()
    assert len(received["old.jsonl"]) == 1, "what waited has gone out"
    assert received["one.jsonl"] == node.expected["one.jsonl"][3:], "what was sent before is not sent again"
    assert status["dead_letters"] == 1 and status["quarantined"] == 1
    (source,) = status["sources"]
    assert source["records"] == 5 and source["lag_bytes"] == 0
    # Rewritten: the hashes of then are those of now.
    node.write("one", node.path("one").read_bytes() + b"".join(node.lines("one", 1)), mode="wb")
    node.ingest.wait_events(4)
    assert node.received()["one.jsonl"] == node.expected["one.jsonl"][3:]
    node.ingest.check()
    assert node.daemon.terminate() == 0
    with sqlite3.connect(node.daemon.state_dir / "queue.db") as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    db.close()


def test_r28_every_format_has_its_sample_and_its_step() -> None:
    assert [path.name for path in FORMATS] == ["queue-v%d.sql" % number for number in range(1, SCHEMA_VERSION + 1)]
    assert sorted(statefile.STEPS) == list(range(1, SCHEMA_VERSION))


def test_r28_a_step_is_taken_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "queue.db")
    queue = Queue(path)
    queue.set_meta("kept", "value")
    queue.close()
    following = SCHEMA_VERSION + 1
    monkeypatch.setattr(statefile, "SCHEMA_VERSION", following)
    added = "ALTER TABLE source ADD COLUMN mood TEXT; "
    monkeypatch.setattr(statefile, "STEPS", {**statefile.STEPS, SCHEMA_VERSION: added + "INSERT INTO no_such_table VALUES(1)"})
    with pytest.raises(StateError):
        Queue(path)
    monkeypatch.setattr(statefile, "STEPS", {**statefile.STEPS, SCHEMA_VERSION: added + "UPDATE source SET mood='good'"})
    for _time in range(2):
        queue = Queue(path)
        assert queue.get_meta("kept") == "value"
        assert queue.db.execute("PRAGMA user_version").fetchone()[0] == following
        assert [row[1] for row in queue.db.execute("PRAGMA table_info(source)")].count("mood") == 1
        queue.close()


@pytest.mark.parametrize("kind", ["queue", "archive"])
def test_r28_a_newer_state_is_refused_with_what_to_do(node: Node, tmp_path: Path, kind: str) -> None:
    if kind == "archive":
        node.daemon.config["ingest_url"] = "file://%s" % (tmp_path / "kept")
        node.daemon.write_config()
    node.append("one", 2)
    assert node.daemon.cli("sync").returncode == 0
    place = tmp_path / "kept/archive.db" if kind == "archive" else node.daemon.state_dir / "queue.db"
    with sqlite3.connect(place) as db:
        db.execute("PRAGMA user_version=%d" % ((FORMAT if kind == "archive" else SCHEMA_VERSION) + 1))
    db.close()
    before = place.read_bytes()
    for verb in ("run", "sync"):
        done = node.daemon.cli(verb, timeout_s=20)
        text = done.stderr.decode()
        assert done.returncode == 2 and "newer clawmetry" in text and "Next: install the newer release" in text and str(place) in text
    assert place.read_bytes() == before
