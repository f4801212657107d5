# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""sessions.json is attacker input: what it may tell, and what of it may leave in the clear."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.read import index

SESSION = "4e1a7b62-58c3-4f0d-9a3e-d6b1c2f3a4e5"


def pseudonym(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def parse(document: object) -> dict[str, index.Entry]:
    found = index.parse(json.dumps(document).encode())
    assert found is not None
    return found


def test_title_channel_and_key_of_a_session() -> None:
    found = parse(
        {"agent:main:main": {"sessionId": SESSION, "label": "Plan the week", "lastChannel": "telegram", "origin": {"chatType": "direct"}}}
    )
    assert found == {SESSION: index.Entry("agent:main:main", "Plan the week", "telegram", "direct", None)}


def test_a_subagent_is_told_by_its_key() -> None:
    found = parse({"agent:main:subagent:ab12": {"sessionId": SESSION}})
    assert found[SESSION].subagent_id == "ab12"


def test_the_file_name_may_differ_from_the_session_id() -> None:
    found = parse({"k": {"sessionId": SESSION, "sessionFile": "/sandbox/.openclaw/agents/main/sessions/other.jsonl"}})
    assert set(found) == {SESSION, "other"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a":{"sessionId":' + b"9" * 100_000 + b"}}",
        b"\0" * 100,
    ],
)
def test_what_is_no_index_is_none(data: bytes) -> None:
    assert index.parse(data) is None


@pytest.mark.parametrize(
    "entry", [None, 1, [], "x", {}, {"sessionId": 7}, {"sessionId": ""}, {"sessionId": "x" * 256}, {"sessionId": None}]
)
def test_a_bad_entry_is_passed_over(entry: object) -> None:
    assert parse({"bad": entry, "good": {"sessionId": SESSION}}) == {SESSION: index.Entry("good")}


def test_texts_are_cut() -> None:
    found = parse({"k" * 10_000: {"sessionId": SESSION, "displayName": "t" * 100_000, "channel": "c" * 1000, "chatType": "x" * 1000}})[
        SESSION
    ]
    assert (len(found.key), len(found.title or ""), len(found.channel or ""), len(found.chat_type or "")) == (500, 300, 60, 60)


def test_the_number_of_entries_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_ENTRIES", 10)
    assert len(parse({"k%d" % number: {"sessionId": "s%d" % number} for number in range(50)})) == 10


def test_numbers_of_people_leave_as_pseudonyms() -> None:
    shown = index.public_key("agent:main:telegram:direct:15550100", pseudonym)
    assert shown == "agent:main:telegram:direct:h-" + pseudonym("15550100")
    assert index.public_key("agent:main:subagent:" + SESSION, pseudonym) == "agent:main:subagent:" + SESSION


@given(st.text(st.characters(), max_size=200))
def test_a_public_key_is_plain_text_on_one_line(key: str) -> None:
    shown = index.public_key(key, pseudonym)
    assert shown.isascii() and shown.isprintable()
    assert len(shown) <= 500


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=20), inner),
    )
)
def test_no_json_value_makes_it_raise(value: object) -> None:
    index.parse(json.dumps(value).encode())
    index.parse(json.dumps({"k": value, "l": {"sessionId": "s", "origin": value, "label": value}}).encode())
