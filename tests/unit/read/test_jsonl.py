# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Cutting and judging lines, with orjson and without it."""

from __future__ import annotations

import json
from typing import Any, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.read import jsonl


@pytest.fixture(params=["orjson", "standard library"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "orjson":
        pytest.importorskip("orjson")
    else:
        monkeypatch.setattr(jsonl, "_fast_loads", None)
    yield request.param


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_cut_is_the_complete_lines_and_their_length(first: bytes, second: bytes) -> None:
    """Reference: a loop over single bytes. What is left over begins the next buffer."""
    buffer = first + b"\n" + second
    wanted, current = [], bytearray()
    for byte in buffer:
        if byte == 10:
            wanted.append(bytes(current))
            current.clear()
        else:
            current.append(byte)
    lines, used = jsonl.cut(buffer)
    assert lines == wanted and used == len(buffer) - len(current)
    assert b"".join(line + b"\n" for line in lines) + buffer[used:] == buffer


@given(st.binary(max_size=100).filter(lambda data: b"\n" not in data))
def test_cut_without_a_newline_takes_nothing(data: bytes) -> None:
    assert jsonl.cut(data) == ([], 0)


def test_only_a_newline_ends_a_line() -> None:
    assert jsonl.cut("a\r\u2028\u0085\x0b\x0cb\n".encode())[0] == ["a\r\u2028\u0085\x0b\x0cb".encode()]


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b' {"a": 1}\r',
        '{"text":"h\u00e9llo \u2028 \U0001f99e"}'.encode(),
        b'{"a":"\\ud83e\\udd9e"}',
        b'{"a":"\\ud800"}',  # a lone surrogate escape: strange, but every parser we ship to takes it
        b'{"a":1,"a":2}',
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a":12345678901234567890123}',
        b'{"a":-0.0e-7}',
        b'{"":""}',
    ],
)
def test_records(parser: str, line: bytes) -> None:
    assert isinstance(jsonl.judge(line), dict)


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a":1}{"b":2}', "not JSON"),
        (b"[]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),  # a surrogate in UTF-8
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        (b"\0" * 50, "NUL bytes"),
        (b'{"a":"\0"}', "NUL bytes"),
        (b'{"a":"\x01"}', "not JSON"),
        (b'{"a":NaN}', "not JSON: NaN"),
        (b'{"a":-Infinity}', "not JSON: -Infinity"),
        (b'{"a":' + b"9" * 5000 + b"}", "number of 5000 characters"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "nested too deep"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
        (b"{'a':1}", "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":1,}', "not JSON"),
    ],
)
def test_poison_has_a_reason_without_content(parser: str, line: bytes, reason: str) -> None:
    with pytest.raises(jsonl.NotARecord) as caught:
        jsonl.judge(line)
    assert str(caught.value).startswith(reason) and len(str(caught.value)) < 60


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(JSON)
def test_judge_takes_every_json_object_and_nothing_else(value: Any) -> None:
    line = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        taken = jsonl.judge(line)
    except jsonl.NotARecord:
        text = line.decode("utf-8", "surrogatepass")
        assert not isinstance(value, dict) or any(0xD800 <= ord(char) < 0xE000 for char in text)
    else:
        assert isinstance(value, dict) and set(taken) == set(value)


@given(st.binary(max_size=60))
def test_no_bytes_make_judge_fail_otherwise(line: bytes) -> None:
    for data in (line, b'{"a":"' + line + b'"}', b'{"a":' + line + b"}"):
        try:
            jsonl.judge(data)
        except jsonl.NotARecord as reason:
            assert str(reason)


@given(JSON)
def test_counts_take_any_record(value: Any) -> None:
    counts = jsonl.Counts()
    counts.add({"message": value}, 10)
    counts.add({"message": {"usage": value, "model": value}}, 10)
    counts.add({"timestamp": value, "type": "model_change", "modelId": value}, 10)
    assert (counts.events, counts.bytes) == (3, 30)
    again = jsonl.Counts(counts.text())
    assert vars(again) == vars(counts)


def test_counts_of_a_session() -> None:
    counts = jsonl.Counts()
    usage = {"totalTokens": 100, "cost": {"total": 0.5}}
    for record in (
        {"type": "session", "timestamp": "2026-11-21T10:00:00Z"},
        {"type": "thinking_level_change", "thinkingLevel": "high"},
        {"type": "model_change", "modelId": "small-1", "timestamp": "2026-11-21T10:00:01Z"},
        {"type": "message", "message": {"role": "assistant", "model": "big-1", "usage": usage}, "timestamp": "2026-11-21T10:00:02Z"},
        {"type": "message", "message": {"role": "assistant", "model": "gateway-injected", "usage": {}}},
        {"type": "message", "message": {"role": "assistant", "model": "small-1", "usage": {"totalTokens": 3}}},
    ):
        counts.add(record, 1)
    assert (counts.tokens, counts.cost, counts.model, counts.main_model) == (103, 0.5, "small-1", "big-1")
    assert (counts.started, counts.updated) == ("2026-11-21T10:00:00Z", "2026-11-21T10:00:02Z")
    assert (counts.thinking, counts.end_reason) == ("high", None)


def test_counts_note_why_a_session_ended() -> None:
    counts = jsonl.Counts()
    counts.add({"type": "session", "endReason": "idle"}, 1)
    assert jsonl.Counts(counts.text()).end_reason == "idle"
    counts.add({"type": "thinking_level_change", "thinkingLevel": ["high"]}, 1)
    assert counts.thinking is None


@pytest.mark.parametrize("tokens", [-1, 1 << 50, "5", None, 1.5])
def test_counts_leave_nonsense_out(tokens: Any) -> None:
    counts = jsonl.Counts()
    counts.add({"message": {"usage": {"totalTokens": tokens, "cost": {"total": float("1e300")}}}}, 1)
    assert (counts.tokens, counts.cost) == (0, 0)
