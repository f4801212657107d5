# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows of /ingest/sessions: what a dashboard counts and shows of a session, and whose session is nobody's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.daemon import Daemon
from support.decoder import decode_key, open_blob
from support.ingest import KEY_TEXT, Ingest
from support.tree import dumps

PHONE, CHAT = "+491701234567", "987654321"


def assistant(number: int, cost: float) -> dict[str, Any]:
    usage = {"input": 100, "output": 20, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 120, "cost": {"total": cost}}
    said = {"role": "assistant", "content": [], "provider": "nvidia", "model": "nemotron-3", "usage": usage, "stopReason": "stop"}
    return {"type": "message", "id": "%08x" % number, "timestamp": "2026-11-21T19:40:0%d.000Z" % number, "message": said}


def index(**sessions: dict[str, Any]) -> bytes:
    return json.dumps({entry.pop("key"): {"sessionId": name, **entry} for name, entry in sessions.items()}).encode()


def test_rows_tell_cost_tokens_model_and_status_and_name_nobody(tmp_path: Path) -> None:
    sessions = tmp_path / "home/.openclaw/agents/main/sessions"
    sessions.mkdir(parents=True)
    header = {"type": "session", "version": 3, "id": "s", "timestamp": "2026-11-21T19:40:00.000Z"}
    for name in ("phone", "group", "child", "nemoclaw-onboard-warmup-4711-1795290000"):
        (sessions / (name + ".jsonl")).write_bytes(dumps(header) + dumps(assistant(1, 0.25)) + dumps(assistant(2, 0.5)))
    (sessions / "child.trajectory.jsonl").write_bytes(dumps({"type": "prompt", "text": "canary"}))
    (sessions / "phone.jsonl.lock").write_bytes(b'{"pid": 1}')
    (sessions / "sessions.json").write_bytes(
        index(
            phone={"key": "agent:main:whatsapp:direct:" + PHONE, "displayName": "Anna's phone", "origin": {"from": PHONE}},
            group={"key": "agent:main:telegram:group:" + CHAT},
            child={"key": "agent:main:subagent:3f1c2b7a-9d44-4c1e-8a55-000000000001", "spawnedBy": "agent:main:main"},
        )
    )
    with Ingest() as ingest:
        ingest.canaries += [PHONE.encode(), PHONE[1:].encode(), b"canary"]
        daemon = Daemon(tmp_path / "node", ingest_url=ingest.url, discover=["openclaw"], homes=[str(tmp_path / "home")])
        assert daemon.json("sync")["ok"]
        ingest.check()
        # The warm-up's lines are kept like any others; nobody counts it as a session.
        assert {name for _source, name in ingest.events} == {
            "phone.jsonl", "group.jsonl", "child.jsonl", "nemoclaw-onboard-warmup-4711-1795290000.jsonl",
        }  # fmt: skip
        rows = dict(ingest.sessions)
        assert set(rows) == {"phone", "group", "child"}
        for row in rows.values():
            assert (row["total_cost"], row["total_tokens"], row["model"], row["status"]) == (0.75, 240, "nemotron-3", "ended")
            assert (row["event_count"], row["updated_at"]) == (3, "2026-11-21T19:40:02.000Z")
        keys = {name: row["session_key"] for name, row in rows.items()}
        assert keys["phone"].startswith("agent:main:whatsapp:direct:") and keys["group"].startswith("agent:main:telegram:group:")
        assert PHONE not in json.dumps(rows) and CHAT not in json.dumps(rows)
        title = open_blob(rows["phone"]["display_name_blob"], decode_key(KEY_TEXT))
        assert title == {"display_name": "Anna's phone"} and "Anna" not in json.dumps(rows)
        assert ingest.snapshots[-1]["sessionCount"] == 3
        # Nor later, when it has been noted once that nobody is to hear of it.
        assert daemon.json("sync")["ok"] and set(ingest.sessions) == {"phone", "group", "child"}
