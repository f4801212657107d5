# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""An agent that keeps its transcripts in SQLite, in a real sandbox, written while we read and are killed."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any, Callable

import pytest

from support import agentdb
from support.daemon import Daemon
from support.ingest import Ingest
from support.sandbox import HOST_IMAGE, STATE, Sandbox, docker, run_container, until

ROWS, PER_SECOND = 120, 10
DIRECTORY = STATE + "/agents/main/agent"


def sqlite_sandbox(name: str) -> Sandbox:
    """A sandbox whose image has a Python with sqlite3, to write with."""
    labels = {
        "openshell.ai/managed-by": "openshell",
        "openshell.ai/sandbox-id": str(uuid.uuid4()),
        "openshell.ai/sandbox-name": name,
        "openshell.ai/sandbox-namespace": "default",
    }
    options = ["--entrypoint", "/bin/sleep", "--stop-signal", "SIGKILL"]
    sandbox = run_container(name, "openshell-%s-sqlite" % name, HOST_IMAGE, labels=labels, options=options, command=["86400"])
    sandbox.sh('mkdir -p "$1" /opt/t && chown -R 998:998 /sandbox && cat >/opt/t/agentdb.py', DIRECTORY, user="0",
               stdin=Path(agentdb.__file__).read_bytes())  # fmt: skip
    return sandbox


def test_r30_rows_arrive_once_while_they_are_written_and_we_are_killed(
    unique: str, cleanup: contextlib.ExitStack, ingest: Ingest, node: Callable[..., Daemon], capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox = cleanup.enter_context(sqlite_sandbox(unique))
    daemon = node()
    path = DIRECTORY + "/" + agentdb.NAME
    sandbox.start_sh('python3 /opt/t/agentdb.py "$1" live %d %d >/tmp/told 2>&1' % (ROWS, PER_SECOND), path)
    began = time.monotonic()
    daemon.start()
    kills = largest = 0
    while time.monotonic() - began < ROWS / PER_SECOND:
        time.sleep(1.7)
        daemon.kill()
        kills += 1
        daemon.start()
        size = sandbox.sh('stat -c %s "$1" 2>/dev/null || echo 0', path + "-wal", check=False).split()
        largest = max(largest, int(size[0]) if size else 0)
    until(lambda: sandbox.sh("cat /tmp/told", check=False).startswith(b"{"), 60, "end of the writer")
    told = json.loads(sandbox.sh("cat /tmp/told"))
    ingest.wait_events(ROWS, timeout_s=30)
    ((source, texts),) = [(source, texts) for (source, name), texts in ingest.events.items() if name == "live.jsonl"]
    assert [json.loads(text)["seq"] for text in texts] == list(range(ROWS))
    assert ingest.duplicate_events == 0
    assert (source.type, source.agent) == ("docker", "main") or source.name == unique
    assert told["longest_ms"] < 1000
    # A checkpoint of the writer goes through: nobody holds on to the WAL.
    assert told["checkpoint"][0] == 0
    assert largest < 8 << 20
    facts = daemon.json("snapshot")
    (found,) = [item for item in facts["sandboxes"] if item["name"] == unique]
    assert (found["store"], found["sessions"]["count"], found["reason"]) == ("sqlite", 1, None)
    assert b"AUTH-PROFILE-SECRET" not in b"".join(_files(daemon.directory))
    # Nothing of ours is left in the sandbox.
    owners = sandbox.sh('cd "$1" && stat -c "%n %u" *', DIRECTORY).decode().split("\n")
    assert {line for line in owners if line} <= {"%s%s 998" % (agentdb.NAME, suffix) for suffix in ("", "-wal", "-shm")}
    with capsys.disabled():
        cpu_s = daemon.cpu_s()
        print("\n  sqlite: %d rows, %d kills, writer's longest commit %.1f ms, largest WAL %d KiB, last life %.2f CPU s, RSS %d KiB"
              % (ROWS, kills, told["longest_ms"], largest >> 10, cpu_s, daemon.rss_kib()))  # fmt: skip


def test_a_crafted_database_in_a_sandbox_gains_nothing_and_hurts_nobody(
    unique: str, cleanup: contextlib.ExitStack, ingest: Ingest, node: Callable[..., Daemon], tmp_path: Path
) -> None:
    """One database is a view without end, one links its WAL to a file of the host, one is fine."""
    sandbox = cleanup.enter_context(sqlite_sandbox(unique))
    secret = tmp_path / "host-secret"
    secret.write_bytes(os.urandom(64))
    script = """
import os, sqlite3, sys
sys.path.insert(0, "/opt/t")
from agentdb import *
for agent in ("view", "linked", "good"):
    place = Path("%s/agents") / agent / "agent"
    if agent == "view":
        place.mkdir(parents=True)
        db = sqlite3.connect(str(place / NAME))
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE VIEW transcript_events AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n)"
                   " SELECT 'a' AS session_id, i AS seq, '{}' AS event_json FROM n")
        db.close()
        continue
    database = AgentDatabase(place / NAME)
    database.session("a")
    database.add("a", [line(numbered(i)) for i in range(3)])
    database.close()
    if agent == "linked":
        (place / (NAME + "-wal")).symlink_to(sys.argv[1])
""" % STATE  # fmt: skip
    sandbox.sh("cat >/tmp/craft.py && python3 /tmp/craft.py " + str(secret), stdin=script.encode())
    before = sandbox.sh('find "$1" -type f -exec md5sum {} +', STATE)
    daemon = node()
    daemon.start()
    ingest.wait_events(3, timeout_s=30)
    time.sleep(3)
    status = daemon.status()
    problems: dict[str, Any] = status["problems"].get(unique, {})
    assert any("not a plain table" in text for text in problems.values()), problems
    assert any("link" in text for text in problems.values()), problems
    assert {source.agent for source, _name in ingest.events} == {"good"}
    assert sandbox.sh('find "$1" -type f -exec md5sum {} +', STATE) == before
    assert docker("inspect", "-f", "{{.State.Running}}", sandbox.id).strip() == b"true"


def _files(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
