# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""One turn over a transcript: cursor, marker, batches, over-long lines, and files that change under the reader."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawmetry_sync.errors import Unreadable
from clawmetry_sync.queue import SourceRow
from clawmetry_sync.read import jsonl, tail
from clawmetry_sync.read.sent import SentLines
from support.tree import dumps, numbered


def new_row() -> SourceRow:
    return SourceRow(0, 1, b"one.jsonl", 1, 1)


class File:
    """A real file read turn by turn, as the engine does it: a generation ends when the marker no longer fits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.row = new_row()
        self.skip: Optional[tail.Skip] = None
        self.sent: Optional[SentLines] = None
        self.got: list[bytes] = []
        self.poison: list[Any] = []
        self.hashes: list[bytes] = []

    def turn(self) -> tail.Turn:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if self.row.offset and not tail.still_fits(fd, self.row, size):
                self.row.generation += 1
                self.row.offset, self.row.marker = 0, b""
                self.skip, self.sent = None, SentLines(self.hashes)
            turn = tail.read_turn(fd, self.row, size, jsonl.Counts(), self.sent, self.skip)
        finally:
            os.close(fd)
        self.skip = turn.skip
        self.hashes.append(turn.hashes)
        self.poison += turn.poison
        for batch in turn.batches:
            self.got += batch.lines
        return turn

    def drain(self) -> None:
        while self.turn().more:
            pass


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "one.jsonl")


def lines(first: int, last: int, size_bytes: int = 0) -> list[bytes]:
    return [dumps(numbered(number, size_bytes))[:-1] for number in range(first, last)]


def join(parts: list[bytes]) -> bytes:
    return b"".join(part + b"\n" for part in parts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.one_of(st.text(max_size=40), st.just("\u2028\r"), st.just("x" * 3000)), max_size=25),
    cuts=st.lists(st.integers(0, 5000), max_size=30),
    restarts=st.sets(st.integers(0, 30)),
)
def test_any_way_of_appending_gives_every_line_once_in_order(tmp_path: Path, texts: list[str], cuts: list[int], restarts: set[int]) -> None:
    file = File(tmp_path / "appended.jsonl")
    file.path.write_bytes(b"")
    wanted = [dumps({"text": text})[:-1] for text in texts]
    data = join(wanted)
    for number, cut in enumerate([*cuts, len(data)]):
        with open(file.path, "ab") as stream:
            stream.write(data[:cut])
        data = data[cut:]
        file.drain()
        if number in restarts:
            file.skip = None
        assert wanted[: len(file.got)] == file.got
    assert file.got == wanted
    assert file.row.offset == file.path.stat().st_size and not file.poison and file.row.generation == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lives=st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=6),
    pieces=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_any_rewrite_sends_each_line_as_often_as_a_file_held_it(tmp_path: Path, lives: list[list[int]], pieces: list[bool]) -> None:
    """Each life replaces the whole content: a line is sent max(count over the lives) times, never more, never less."""
    file = File(tmp_path / "rewritten.jsonl")
    most: dict[bytes, int] = {}
    for number, life in enumerate(lives):
        content = [dumps({"n": value})[:-1] for value in life]
        for line in content:
            most[line] = max(most.get(line, 0), content.count(line))
        file.path.write_bytes(join(content))
        if pieces[number % len(pieces)]:
            file.drain()
            file.drain()
        else:
            # Not read in this life at all: nothing of it is owed.
            most = {line: file.got.count(line) for line in set(file.got)}
    file.drain()
    last = [dumps({"n": value})[:-1] for value in lives[-1]]
    for line in set(last):
        assert file.got.count(line) >= last.count(line)
    for line in set(file.got):
        assert file.got.count(line) <= max(most.get(line, 0), last.count(line))


def test_half_line_waits_for_its_newline(file: File) -> None:
    file.path.write_bytes(b'{"a":1}\n{"b"')
    file.drain()
    assert file.got == [b'{"a":1}'] and file.row.offset == 8
    file.turn()
    assert file.row.offset == 8
    with open(file.path, "ab") as stream:
        stream.write(b":2}\n")
    file.drain()
    assert file.got == [b'{"a":1}', b'{"b":2}']


def test_batches_hold_at_most_200_records_and_a_mebibyte(file: File) -> None:
    file.path.write_bytes(join(lines(0, 450)) + join(lines(450, 470, 100_000)))
    turn = file.turn()
    assert all(len(batch.lines) <= 200 and batch.size <= tail.MAX_BATCH_BYTES for batch in turn.batches)
    assert [len(batch.lines) for batch in turn.batches[:2]] == [200, 200]
    assert turn.batches[0].start == 0 and all(a.end <= b.start for a, b in zip(turn.batches, turn.batches[1:]))
    assert turn.batches[-1].end == file.row.offset


def test_turn_ends_after_its_share_and_says_there_is_more(file: File) -> None:
    file.path.write_bytes(join(lines(0, 10_000, 1000)))
    turn = file.turn()
    assert turn.more and tail.TURN_BYTES <= file.row.offset <= tail.TURN_BYTES + tail.CHUNK_BYTES
    file.drain()
    assert file.got == lines(0, 10_000, 1000)


@pytest.mark.parametrize("length", [jsonl.MAX_RECORD_BYTES - 1, jsonl.MAX_RECORD_BYTES, jsonl.MAX_RECORD_BYTES + 1, 20 << 20])
def test_over_long_line_is_passed_over_with_its_hash(file: File, length: int) -> None:
    line = b'{"x":"' + b"y" * (length - 8) + b'"}'
    file.path.write_bytes(join([b'{"a":1}', line, b'{"b":2}']))
    file.drain()
    if length <= jsonl.MAX_RECORD_BYTES:
        assert file.got == [b'{"a":1}', line, b'{"b":2}'] and not file.poison
    else:
        assert file.got == [b'{"a":1}', b'{"b":2}']
        (bad,) = file.poison
        assert (bad.offset, bad.length, bad.sha256) == (8, length, hashlib.sha256(line).hexdigest())


def test_over_long_line_without_an_end_is_scanned_once(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "TURN_SCAN_BYTES", 2 << 20)
    with open(file.path, "wb") as stream:
        stream.write(b"x" * (9 << 20))
    file.drain()
    assert file.row.offset == 0 and file.skip is not None and file.skip.scanned == 9 << 20 and not file.poison
    read: list[int] = []
    real = os.pread

    def counting(fd: int, length: int, offset: int) -> bytes:
        read.append(length)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    with open(file.path, "ab") as stream:
        stream.write(b'x\n{"a":1}\n')
    file.drain()
    assert file.got == [b'{"a":1}'] and file.poison[0].length == (9 << 20) + 1
    assert sum(read) < 100_000, "what was passed over was read again"


def test_sparse_gigabytes_cost_nothing(file: File) -> None:
    with open(file.path, "wb") as stream:
        stream.write(b'{"a":1}\n')
        stream.truncate(10 << 30)
        stream.seek(0, os.SEEK_END)
        stream.write(b'\n{"b":2}\n')
    file.drain()
    assert file.got == [b'{"a":1}', b'{"b":2}']
    (bad,) = file.poison
    assert bad.offset == 8 and bad.length == (10 << 30) - 8


@pytest.mark.parametrize(
    "change, again",
    [
        (lambda data: data, False),
        (lambda data: data + b'{"more":1}\n', False),
        (lambda data: b"[" + data[1:], True),
        (lambda data: data[:-5] + b"#" + data[-4:], True),
        (lambda data: data[:-10], True),
        (lambda data: b"", True),
    ],
)
@pytest.mark.parametrize("size", [1, 100, 500])
def test_marker_sees_the_beginning_the_end_and_the_length(file: File, size: int, change: Any, again: bool) -> None:
    data = join(lines(0, size))
    file.path.write_bytes(data)
    file.drain()
    file.path.write_bytes(change(data))
    fd = os.open(file.path, os.O_RDONLY)
    try:
        assert tail.still_fits(fd, file.row, os.fstat(fd).st_size) is not again
    finally:
        os.close(fd)


@pytest.fixture
def rewritten_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Rewrite a file in place between two reads of one turn."""

    def arrange(path: Path, content: bytes, at_call: int) -> None:
        real, calls = os.pread, [0]

        def reading(fd: int, length: int, offset: int) -> bytes:
            calls[0] += 1
            if calls[0] == at_call:
                path.write_bytes(content)
            return real(fd, length, offset)

        monkeypatch.setattr(os, "pread", reading)

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("at_call", range(1, 8))
@pytest.mark.parametrize("begun", [False, True], ids=["from-zero", "from-a-cursor"])
def test_rewrite_in_the_middle_of_a_turn_mixes_no_two_lives(file: File, rewritten_at: Any, at_call: int, begun: bool) -> None:
    """Wherever it happens, in the end everything of the last life has been sent, and no cut line with it."""
    before, after = lines(0, 2500, 1000), lines(5000, 7700, 990)
    if begun:
        file.path.write_bytes(join(before[:100]))
        file.drain()
    file.path.write_bytes(join(before))
    rewritten_at(file.path, join(after), at_call)
    cursor = SourceRow(**vars(file.row))
    got = list(file.got)
    try:
        file.turn()
    except Unreadable:
        file.row, file.got = cursor, got  # what the engine does: the stored cursor is the truth
    for _again in range(3):
        file.drain()
    assert set(after) <= set(file.got)
    assert set(file.got) <= set(before) | set(after) and not file.poison


def test_count_prefix_takes_what_a_second_reading_has_passed(file: File) -> None:
    content = [b'{"a":1}', b'{"a":1}', b"", b'{"b":2}', b'{"a":1}']
    file.path.write_bytes(join(content))
    file.drain()
    sent = SentLines(file.hashes)
    fd = os.open(file.path, os.O_RDONLY)
    try:
        tail.count_prefix(fd, len(join(content[:2])), sent)
    finally:
        os.close(fd)
    digest = hashlib.sha256(b'{"a":1}').digest()[:8]
    assert [sent.take(digest), sent.take(digest)] == [True, False]


def test_read_error_is_unreadable(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    file.path.write_bytes(join(lines(0, 3)))
    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(Unreadable, match="Input/output"):
        file.turn()
