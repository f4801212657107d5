# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wire protocol, key by key: what each body of the essential subset has, and what a stranger's answers do.

The ingest of the bed checks envelopes and headers of every request anyway; here are the shapes inside.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest

from support.ingest import AUTH, EVENTS, HEARTBEAT, MEMORY, SESSIONS, SNAPSHOT, Fault, Ingest, Request
from support.node import Node

SESSION_ROW = {
    "session_id", "display_name", "display_name_blob", "session_key", "channel", "chat_type", "status", "ended_at", "end_reason",
    "model", "recent_model", "runtime", "thinking_level", "total_tokens", "total_cost", "started_at", "updated_at", "event_count",
    "size_bytes",
}  # fmt: skip
STAMP = "2026-11-21T10:%02d:00.000Z"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Ingest() as ingest:
        yield Node(tmp_path, ingest)


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def plain(node: Node, endpoint: str) -> list[Any]:
    return [request.plain for request in node.ingest.requests if request.endpoint == endpoint and request.plain]


def fill(node: Node) -> None:
    usage = {"input": 1, "output": 2, "totalTokens": 3, "cost": {"total": 0.25}}
    node.write(
        "one",
        lines(
            {"type": "session", "version": 3, "id": "one", "timestamp": STAMP % 0, "cwd": "/w"},
            {"type": "thinking_level_change", "id": "aaaaaaaa", "thinkingLevel": "low", "timestamp": STAMP % 1},
            {"type": "message", "id": "bbbbbbbb", "timestamp": STAMP % 2, "message": {"role": "assistant", "model": "m-1", "usage": usage}},
        ),
    )
    node.write("many", b"".join(lines({"type": "message", "id": "%08x" % number}) for number in range(450)))
    index = {"agent:main:main": {"sessionId": "one", "displayName": "A title"}}
    (node.sessions / "sessions.json").write_text(json.dumps(index))
    workspace = node.home / ".openclaw/workspace"
    (workspace / "memory").mkdir(parents=True)
    (workspace / "MEMORY.md").write_text("é" * 120_000)
    (workspace / "memory/2026-11-21.md").write_bytes(b"day \xff\n")


def test_bodies_have_the_keys_of_the_essential_subset(node: Node) -> None:
    node.daemon.config.pop("node_id")
    node.daemon.write_config()
    node.ingest.node_id = "given-by-the-ingest"
    fill(node)
    assert node.daemon.json("sync")["ok"]
    node.ingest.check()
    (auth,) = [json.loads(request.body) for request in node.ingest.requests if request.endpoint == AUTH]
    assert set(auth) == {"api_key", "hostname", "machine_id"}
    assert re.fullmatch(r"([0-9a-f]{32})?", auth["machine_id"])
    (heartbeat,) = node.ingest.heartbeats
    assert {"node_id", "ts", "platform", "version", "e2e", "node_meta", "detected_runtimes", "agent_install"} <= set(heartbeat)
    assert heartbeat["node_id"] == "given-by-the-ingest" and heartbeat["e2e"] is True

    batches = plain(node, EVENTS)
    assert all(set(batch) == {"session_file", "node_id", "source", "events"} for batch in batches)
    assert all(batch["node_id"] == "given-by-the-ingest" and len(batch["events"]) <= 200 for batch in batches)
    assert all({"sandbox.name", "sandbox.type", "agent"} <= set(batch["source"]) for batch in batches)
    assert [len(batch["events"]) for batch in batches if batch["session_file"] == "many.jsonl"] == [200, 200, 50]

    (memory,) = plain(node, MEMORY)
    assert set(memory) == {"node_id", "source", "memory_state", "memory_content"}
    assert {frozenset(entry) for entry in memory["memory_state"]["files"]} == {frozenset(("name", "size", "modified"))}
    content = {entry["path"]: entry["content"] for entry in memory["memory_content"]}
    assert content == {"MEMORY.md": "é" * 100_000, "memory/2026-11-21.md": "day �\n"}

    (snapshot,) = plain(node, SNAPSHOT)
    assert {"node_id", "system", "infra", "sessionCount", "model", "provider", "memoryFiles", "sandbox"} <= set(snapshot)
    assert snapshot["sessionCount"] == 2 and set(snapshot["infra"]) >= {"machine", "runtime", "storage", "os_name", "arch"}


def test_session_rows_have_the_columns_the_cloud_knows(node: Node) -> None:
    fill(node)
    assert node.daemon.json("sync")["ok"]
    (upload,) = [json.loads(request.body) for request in node.ingest.requests if request.endpoint == SESSIONS]
    assert set(upload) == {"node_id", "sessions"}
    rows = {row["session_id"]: row for row in upload["sessions"]}
    assert all(set(row) == SESSION_ROW | {"sandbox.name", "sandbox.type"} for row in rows.values())
    row = rows["one"]
    assert (row["display_name"], row["session_key"], row["model"], row["thinking_level"]) == ("agent:main:main",) * 2 + ("m-1", "low")
    assert (row["total_tokens"], row["total_cost"], row["event_count"]) == (3, 0.25, 3)
    assert (row["status"], row["ended_at"], row["started_at"]) == ("ended", STAMP % 2, STAMP % 0)
    assert row["display_name_blob"] and b"A title" not in b"".join(request.body for request in node.ingest.requests)


def test_what_auth_answers_counts_as_any_other_answer(node: Node) -> None:
    """``sync_allowed`` and ``caps`` may come with every endpoint's answer, the first one included."""

    def policy(request: Request) -> Optional[Fault]:
        return Fault(body={"sync_allowed": False}) if request.endpoint == AUTH else None

    fill(node)
    node.ingest.policy = policy
    node.ingest.script(HEARTBEAT, Fault(status=503))
    outcome = node.daemon.json("sync", "--timeout", "5")
    assert not outcome["ok"] and "sync_allowed" in " ".join(outcome["errors"])
    assert not node.ingest.all_events() and node.ingest.count(EVENTS) == 0


def test_a_node_id_and_a_key_that_no_header_can_carry_send_nothing(node: Node) -> None:
    fill(node)
    for name, value in (("CLAWMETRY_NODE_ID", "a\rX-Admin: yes"), ("CLAWMETRY_API_KEY", "cm_canary\r\nX-Admin: yes")):
        node.daemon.config.pop("api_key_file", None)
        node.daemon.write_config()
        done = node.daemon.cli("--log-level", "debug", "sync", env={name: value})
        assert done.returncode == 2 and b"cm_canary" not in done.stderr + done.stdout
    assert not node.ingest.requests


def test_a_sync_waits_out_a_moment_s_refusal_and_tells_a_lasting_one(node: Node) -> None:
    fill(node)
    node.ingest.script(EVENTS, Fault(status=503, headers={"Retry-After": "1"}), Fault(drop="before"))
    outcome = node.daemon.json("sync")
    assert outcome["ok"] and outcome["pending"] == 0 and not outcome["errors"]
    node.append("later", 1)
    node.ingest.policy = lambda request: Fault(status=401) if request.endpoint == EVENTS else None
    before = node.ingest.count(EVENTS)
    done = node.daemon.cli("sync", "--json")
    outcome = json.loads(done.stdout)
    assert done.returncode == 1 and not outcome["ok"] and "401" in outcome["errors"][0]
    assert node.ingest.count(EVENTS) == before + 1  # a key that is refused is not tried again at once
    node.ingest.policy = lambda request: Fault(status=503, headers={"Retry-After": "3600"}) if request.endpoint == EVENTS else None
    assert not node.daemon.json("sync", "--timeout", "20")["ok"]
    assert node.ingest.count(EVENTS) == before + 2
