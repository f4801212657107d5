# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Adoption end to end: a hand-made home of the old client, real transcripts, the real program, a loopback ingest."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon
from support.decoder import open_blob, seal_blob
from support.ingest import Ingest, canonical
from support.tree import dumps, numbered
from support.upstream import LEGACY_KEY, NODE_ID, OLD_API_KEY, PASSPHRASE, make_upstream_home

STAMP = "2026-11-21T09-00-00.000Z"  # after the old client's last_sync


def lines(session: str, first: int, last: int) -> bytes:
    return b"".join(dumps({**numbered(number), "of": session}) for number in range(first, last))


class Host:
    """A bare OpenClaw host: its home, the old client's home in it, and our daemon beside it."""

    def __init__(self, tmp_path: Path, ingest: Ingest, **upstream: Any) -> None:
        self.home = tmp_path / "home"
        self.sessions = self.home / ".openclaw/agents/main/sessions"
        self.sessions.mkdir(parents=True)
        (self.home / ".openclaw/workspace").mkdir()
        self.old = make_upstream_home(self.home, endpoint=ingest.url, **upstream)
        self.daemon = Daemon(tmp_path / "ours", ingest_url=ingest.url, discover=["openclaw"], homes=[str(self.home)])
        for name in ("api_key", "encryption_key"):
            (self.daemon.directory / name).unlink()
        for name in ("node_id", "ingest_url"):
            del self.daemon.config[name]
        self.daemon.write_config()
        self.ingest = ingest

    def received(self, name: str) -> list[int]:
        found = [text for (_source, file), texts in self.ingest.events.items() if file == name for text in texts]
        return [json.loads(text)["seq"] for text in found]

    def adopt(self, *arguments: str) -> Any:
        return self.daemon.json("adopt", "--from", str(self.home), *arguments)

    def sync(self) -> None:
        answer = self.daemon.json("sync")
        assert answer["ok"], answer
        self.ingest.check()


@pytest.fixture
def ingest() -> Any:
    with Ingest(key=base64.urlsafe_b64encode(LEGACY_KEY).decode(), api_key=OLD_API_KEY) as running:
        yield running


def test_nothing_covered_is_sent_again_and_nothing_is_skipped(tmp_path: Path, ingest: Ingest) -> None:
    counted = {"one.jsonl": 40, "all.jsonl": 10, "shrunk.jsonl": 50, "torn.jsonl": 6, "moved.jsonl": 7, "gone.jsonl": 3}
    host = Host(tmp_path, ingest, cursors=counted)
    (host.sessions / "one.jsonl").write_bytes(lines("one", 0, 20) + b"\n  \n" + lines("one", 20, 60))
    (host.sessions / "all.jsonl").write_bytes(lines("all", 0, 10))
    (host.sessions / "shrunk.jsonl").write_bytes(lines("shrunk", 0, 12))
    (host.sessions / "torn.jsonl").write_bytes(lines("torn", 0, 6)[:-30])
    (host.sessions / "new.jsonl").write_bytes(lines("new", 0, 5))
    # Set aside since the old client looked: its count was kept under the live name.
    (host.sessions / ("moved.jsonl.reset." + STAMP)).write_bytes(lines("moved", 0, 9))
    (host.sessions / "moved.jsonl").write_bytes(lines("moved", 100, 104))

    result = host.adopt()
    assert result["ok"] and result["node_id"] == NODE_ID and result["cursors"] == 6
    host.sync()
    assert host.received("one.jsonl") == list(range(38, 60))  # two of the forty counted lines were blank
    assert host.received("all.jsonl") == []
    assert host.received("shrunk.jsonl") == list(range(12))
    assert host.received("torn.jsonl") == []
    assert host.received("new.jsonl") == list(range(5))
    assert host.received("moved.jsonl") == [7, 8, 100, 101, 102, 103]

    (host.sessions / "torn.jsonl").write_bytes(lines("torn", 0, 8))
    (host.sessions / "all.jsonl").write_bytes(lines("all", 0, 11))
    host.sync()
    assert host.received("torn.jsonl") == [5, 6, 7]
    assert host.received("all.jsonl") == [10]

    # A rewrite in which the covered lines come back: they are known.
    data = (host.sessions / "one.jsonl").read_bytes()
    (host.sessions / "one.jsonl").unlink()
    (host.sessions / "one.jsonl.new").write_bytes(lines("one", 200, 201) + data)
    os.rename(host.sessions / "one.jsonl.new", host.sessions / "one.jsonl")
    host.sync()
    assert host.received("one.jsonl") == [*range(38, 60), 200]
    assert ingest.duplicate_events == 0
    assert {request.headers.get("x-node-id") for request in ingest.requests} == {NODE_ID}
    assert not [request for request in ingest.requests if request.endpoint == "/auth"]
    assert {session: row["event_count"] for session, row in ingest.sessions.items()}["all"] == 11


def test_old_blobs_still_open_and_the_key_is_written_down_as_one(tmp_path: Path, ingest: Ingest) -> None:
    host = Host(tmp_path, ingest)
    old_blob = seal_blob({"session_file": "a.jsonl", "events": [{"id": "1"}]}, LEGACY_KEY)
    (host.sessions / "a.jsonl").write_bytes(lines("a", 0, 3))
    done = host.daemon.cli("adopt", "--from", str(host.home))
    assert done.returncode == 0, done.stderr
    for text in (PASSPHRASE, OLD_API_KEY, base64.urlsafe_b64encode(LEGACY_KEY).decode()):
        assert text.encode() not in done.stdout + done.stderr
    key_file = host.daemon.directory / "encryption_key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert (host.daemon.directory / "api_key").stat().st_mode & 0o777 == 0o600
    key = base64.urlsafe_b64decode(key_file.read_text().strip())
    assert open_blob(old_blob, key)["events"] == [{"id": "1"}]
    host.sync()
    assert canonical({**numbered(0), "of": "a"}) in [text for texts in ingest.events.values() for text in texts]
    assert json.loads(json.dumps(host.adopt("--dry-run")))["steps"][-2]["result"] == "kept"  # a second time changes nothing
