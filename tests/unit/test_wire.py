# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bodies of the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync import wire

SOURCE = {"sandbox.name": "build-7", "sandbox.type": "nemoclaw", "agent": "main"}
EVENT = st.dictionaries(st.text(max_size=5), st.none() | st.integers(-(2**60), 2**60) | st.text(max_size=10), max_size=3)


def test_events_go_in_byte_for_byte() -> None:
    lines = [b'{"a" : 1}', '{"b":"h\u00e9 \u2028"}'.encode(), b'{"c":"\\ud800"}']
    plain = wire.events(node_id="n", session_file="one.jsonl", lines=lines, source=SOURCE)
    assert all(line in plain for line in lines)
    body = json.loads(plain)
    assert body == {"session_file": "one.jsonl", "node_id": "n", "source": SOURCE, "events": [json.loads(line) for line in lines]}


def test_subagent_is_named_only_when_there_is_one() -> None:
    body = json.loads(wire.events(node_id="n", session_file="s", lines=[b"{}"], source=SOURCE, subagent_id="sub"))
    assert body["subagent_id"] == "sub"


@pytest.mark.parametrize("name", ["\ud800", "\u202e\n\x1b[31m", '"},{', "\0"])
def test_names_cannot_break_out(name: str) -> None:
    plain = wire.events(node_id=name, session_file=name, lines=[b'{"a":1}'], source={**SOURCE, "agent": name})
    body = json.loads(plain.decode("ascii"))
    assert (body["session_file"], body["source"]["agent"], body["events"]) == (name, name, [{"a": 1}])


@given(st.lists(EVENT, min_size=2, max_size=9))
def test_halves_are_the_whole(events: list[dict[str, Any]]) -> None:
    lines = [json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass") for event in events]
    if any(b"\xed" in line for line in lines):
        lines = [json.dumps(event).encode() for event in events]
    whole = wire.events(node_id="n", session_file="s.jsonl", lines=lines, source=SOURCE)
    parts = [whole]
    while True:
        halves = [wire.split(part) for part in parts]
        if all(half is None for half in halves):
            break
        parts = [piece for part, half in zip(parts, halves) for piece in (half or (part,))]
    bodies = [json.loads(part) for part in parts]
    assert [body["events"] for body in bodies] == [[event] for event in events]
    assert all({**body, "events": events} == json.loads(whole) for body in bodies)


def test_session_rows_split_too_and_other_bodies_do_not() -> None:
    rows = wire.dumps({"node_id": "n", "sessions": [{"session_id": "a"}, {"session_id": "b"}, {"session_id": "c"}]})
    first, second = wire.split(rows) or (b"", b"")
    assert len(json.loads(first)["sessions"]) == 1 and len(json.loads(second)["sessions"]) == 2
    memory = wire.memory(node_id="n", files=[{"name": "A", "size": 1, "modified": "x", "content": "c"}] * 2, source=SOURCE)
    assert wire.split(memory) is None
    assert wire.split(wire.dumps({"events": [{}]})) is None


def test_memory_has_listing_and_contents() -> None:
    file = {"name": "MEMORY.md", "size": 9, "modified": "2026-11-21T00:00:00Z", "content": "# \ud800"}
    body = json.loads(wire.memory(node_id="n", files=[file], source=SOURCE))
    assert body["memory_state"]["files"] == [{"name": "MEMORY.md", "size": 9, "modified": "2026-11-21T00:00:00Z"}]
    assert body["memory_content"] == [{"path": "MEMORY.md", "content": "# \ud800"}]


def test_sealed_body_is_the_envelope_and_nothing_else() -> None:
    assert json.loads(b"".join(wire.sealed_body('n"1', b"AAAA"))) == {"node_id": 'n"1', "encrypted": True, "blob": "AAAA"}
