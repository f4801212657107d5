# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Imported cursors: line counts become offsets once, and never at the price of a line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, Optional

import pytest

from clawmetry_sync.queue import Queue, SourceRow
from clawmetry_sync.read import imported
from clawmetry_sync.read.jsonl import Counts
from clawmetry_sync.read.sent import SentLines, line_hash

LINE = b'{"type":"message","id":"%d"}\n'
FIVE = b"".join(LINE % number for number in range(5))
STEP = len(LINE % 0)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    (tmp_path / "state").mkdir(mode=0o700)
    opened = Queue(str(tmp_path / "state/queue.db"))
    yield opened
    opened.close()


def opened(tmp_path: Path, data: bytes) -> int:
    (tmp_path / "file").write_bytes(data)
    return os.open(tmp_path / "file", os.O_RDONLY)


@pytest.mark.parametrize(
    "data, lines, offset, records",
    [
        (FIVE, 3, 3 * STEP, 3),
        (FIVE, 5, 5 * STEP, 5),
        (FIVE, 6, None, 0),  # one line fewer than was counted: rewritten since
        (FIVE + b'{"half', 6, 5 * STEP, 5),  # counted by the old client, never sent
        (FIVE + b'{"half', 7, None, 0),
        (b"\n \n" + FIVE, 3, 3 + STEP, 1),  # blank lines count as lines
        (b"not json\n" + FIVE, 2, 9 + STEP, 1),
        (b'{"a":"' + b"x" * (3 << 20) + b'"}\n' + FIVE, 2, 9 + (3 << 20) + STEP, 2),
        (b"", 1, None, 0),
    ],
)
def test_line_count_becomes_an_offset(tmp_path: Path, data: bytes, lines: int, offset: Optional[int], records: int) -> None:
    fd = opened(tmp_path, data)
    covered = imported.cover(fd, len(data), lines, Counts())
    os.close(fd)
    assert (covered.offset if covered else None) == offset
    assert covered is None or covered.records == records


def test_covered_lines_are_known_as_sent(tmp_path: Path) -> None:
    fd = opened(tmp_path, FIVE)
    covered = imported.cover(fd, len(FIVE), 2, Counts())
    os.close(fd)
    assert covered is not None
    sent = SentLines([covered.hashes])
    assert sent.take(line_hash((LINE % 1).rstrip())) and not sent.take(line_hash((LINE % 2).rstrip()))


def begun(queue: Queue, fd: int, name: bytes, kind: tuple[str, str], agent: bytes = b"main", first: bool = True) -> int:
    """Return the offset at which a new source begins."""
    row = SourceRow(0, 0, name, 11, 22)
    imported.start(fd, len(FIVE), row, queue, ("uid", agent, name), kind, agent, first)
    return row.offset


def test_cursor_is_used_once_and_only_in_its_place(tmp_path: Path, queue: Queue) -> None:
    fd = opened(tmp_path, FIVE)
    with queue.transaction():
        for scope, agent, name in (("host", "main", "a.jsonl"), ("sandbox:box", "advisor", "a.jsonl"), ("mirror", "", "m.jsonl")):
            queue.set_meta(imported.meta_key(scope, agent, name), imported.meta_value(2, ""))
    assert begun(queue, fd, b"a.jsonl", ("docker", "box")) == 0  # another agent of the sandbox
    assert begun(queue, fd, b"a.jsonl", ("docker", "other"), b"advisor") == 0
    assert begun(queue, fd, b"a.jsonl", ("bare", "box"), b"other") == 0
    assert begun(queue, fd, b"a.jsonl", ("docker", "box"), b"advisor") == 2 * STEP
    assert begun(queue, fd, b"a.jsonl", ("docker", "box"), b"advisor") == 0
    assert begun(queue, fd, b"a.jsonl", ("bare", "me")) == 2 * STEP
    assert begun(queue, fd, b"m.jsonl", ("bare", "me")) == 0
    assert begun(queue, fd, b"m.jsonl", ("nemoclaw", "box")) == 2 * STEP
    assert not queue.db.execute("SELECT count(*) FROM meta WHERE key LIKE 'imported:%'").fetchone()[0]
    os.close(fd)


def test_file_that_was_read_before_takes_no_cursor(tmp_path: Path, queue: Queue) -> None:
    fd = opened(tmp_path, FIVE)
    queue.set_meta(imported.meta_key("host", "main", "a.jsonl"), imported.meta_value(2, ""))
    assert begun(queue, fd, b"a.jsonl", ("bare", "me"), first=False) == 0
    assert begun(queue, fd, b"a.jsonl", ("bare", "me")) == 0
    os.close(fd)


@pytest.mark.parametrize(
    "as_of, stamp, taken", [("20261121090000", b"2026-11-21T10-00-00.000Z", True), ("20261121090000", b"2026-11-21T08-00-00.000Z", False),
                            ("", b"2026-11-21T10-00-00.000Z", False), ("20261121090000", b"later", False)]
)  # fmt: skip
def test_count_follows_a_file_that_was_set_aside_since(tmp_path: Path, queue: Queue, as_of: str, stamp: bytes, taken: bool) -> None:
    fd = opened(tmp_path, FIVE)
    queue.set_meta(imported.meta_key("host", "main", "a.jsonl"), imported.meta_value(2, as_of))
    assert begun(queue, fd, b"a.jsonl.reset." + stamp, ("bare", "me")) == (2 * STEP if taken else 0)
    os.close(fd)
