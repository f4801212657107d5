# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""One turn over one transcript: from its cursor to a bounded amount of new complete records.

The cursor is a byte offset with an identity (inode, generation) and a marker, a hash of the first
and last bytes before the offset; before anything new is read the marker is checked, so a file that
was truncated, replaced or rewritten in place is noticed and read again as a new generation, leaving
out what was sent before. Nothing is stored here: the caller commits what a turn returns, or forgets it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Optional

from ..errors import Unreadable, shown
from ..model import Poison
from ..queue import SourceRow
from . import jsonl
from .sent import HASH_BYTES, SentLines, line_hash

CHUNK_BYTES = 1 << 20
MARKER_BYTES = 4096
MAX_BATCH_RECORDS = 200  # what ClawMetry's own client sends at the most (reference/clawmetry.md §1)
MAX_BATCH_BYTES = 1 << 20
# How much of one source may be handled before the others get their turn.
TURN_BYTES = 4 << 20
TURN_SCAN_BYTES = 64 << 20
# As many lines at once, and as many in a turn about: lines of two bytes are not to fill our memory.
WINDOW_LINES = 20_000
TURN_LINES = 20_000


@dataclass
class Batch:
    """Records that will be sealed together, and the bytes of the source they span."""

    start: int
    end: int
    lines: list[bytes] = field(default_factory=list)
    size: int = 0


@dataclass
class Skip:
    """An over-long line that is being passed over: hashed as it goes by, never kept."""

    start: int
    scanned: int
    digest: Any


@dataclass
class Turn:
    """What one turn found; ``row`` is the source as it will stand once this is committed."""

    row: SourceRow
    batches: list[Batch]
    poison: list[Poison]
    hashes: bytes
    counts: jsonl.Counts
    more: bool  # there is more to take at once
    skip: Optional[Skip]


def _pread(fd: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(fd, length, offset)
    except OSError as exc:
        raise Unreadable("cannot read", cause=os.strerror(exc.errno or 0)) from exc


def marker(fd: int, offset: int) -> bytes:
    """Return 16 bytes that stand for what is before OFFSET: its first and last 4 KiB."""
    if offset <= 0:
        return b""
    digest = hashlib.sha256(_pread(fd, min(MARKER_BYTES, offset), 0))
    if offset > MARKER_BYTES:
        start = max(MARKER_BYTES, offset - MARKER_BYTES)
        digest.update(_pread(fd, offset - start, start))
    return digest.digest()[:16]


def still_fits(fd: int, row: SourceRow, size: int) -> bool:
    """Does the file still begin with what the cursor has passed?"""
    return size >= row.offset and marker(fd, row.offset) == row.marker


def next_data(fd: int, offset: int, size: int) -> int:
    """Return where the next allocated byte at or after OFFSET is; SIZE when only a hole follows."""
    seek_data = getattr(os, "SEEK_DATA", None)
    if seek_data is None:
        return offset
    try:
        return min(size, os.lseek(fd, offset, seek_data))
    except OSError as exc:
        # ENXIO: no data up to the end of the file. Anything else: no hole support, just read.
        return size if exc.errno == 6 else offset


def read_turn(
    fd: int,
    row: SourceRow,
    size: int,
    counts: jsonl.Counts,
    sent: Optional[SentLines] = None,
    skip: Optional[Skip] = None,
    budget: int = TURN_BYTES,
) -> Turn:
    """Take complete records of FD from the cursor of ROW up to SIZE bytes, about BUDGET bytes of them, and a chunk at the least.

    ``sent`` is given while a file is read again: lines it holds are passed without being sent.
    ROW is changed; on an exception the caller must drop it. Raises Unreadable.
    """
    turn = Turn(row, [], [], b"", counts, False, None)
    hashes: list[bytes] = []
    taken = count = 0
    last_line_end = b""
    began, passed = row.offset, row.marker
    head = b"" if began else _pread(fd, min(MARKER_BYTES, size), 0)
    while row.offset < size:
        if skip is not None:
            turn.skip = _pass_over(fd, row, size, skip, turn)
            if turn.skip is not None:
                # Either the line's end is not written yet, or this turn has scanned enough.
                turn.more = turn.skip.scanned < size
                break
            skip = None
            last_line_end = b"\n"
            continue
        if taken >= min(budget, TURN_BYTES) or count >= TURN_LINES:
            turn.more = True
            break
        data, used, whole_window = _window(fd, row.offset, size)
        if not used:
            if not whole_window:
                break  # half a line: it waits for its newline, however long that takes
            skip = Skip(row.offset, row.offset, hashlib.sha256())
            continue
        lines = data.split(b"\n", WINDOW_LINES)
        used = len(data) - len(lines.pop())
        last_line_end = data[max(0, used - MARKER_BYTES) : used]
        count += len(lines)
        del data  # a line of 8 MiB is not to be there twice
        take(spans(lines, row.offset), turn, hashes, sent)
        row.offset += used
        taken += used
    row.marker = marker(fd, row.offset)
    # What lies on both sides of what was taken must still be there, or lines of two lives of the file were mixed.
    behind = marker(fd, began) == passed if began else _pread(fd, len(head), 0) == head
    if last_line_end and not (behind and _pread(fd, len(last_line_end), row.offset - len(last_line_end)) == last_line_end):
        raise Unreadable("rewritten while it was read", where=shown(row.name))
    turn.hashes = b"".join(hashes)
    return turn


def _window(fd: int, offset: int, size: int) -> tuple[bytes, int, bool]:
    """Return bytes from OFFSET that hold at least one whole line if one is there, the length of its whole
    lines, and whether the largest window was full without a newline."""
    want = CHUNK_BYTES
    while True:
        data = _pread(fd, min(want, size - offset), offset)
        end = data.rfind(b"\n") + 1
        if end or len(data) < want:
            return data, end, False
        if want > jsonl.MAX_RECORD_BYTES:
            return b"", 0, True
        want = min(want * 4, jsonl.MAX_RECORD_BYTES + 1)


def spans(lines: list[bytes], position: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (start, end, line) of whole LINES, the first of which begins at POSITION; blank ones are left out."""
    for line in lines:
        start = position
        position += len(line) + 1
        if line and not line.isspace():
            yield start, position, line


def take(records: Iterable[tuple[int, int, bytes]], turn: Turn, hashes: list[bytes], sent: Optional[SentLines]) -> None:
    """Judge RECORDS, each with where it starts and ends in its source, and put them into batches.

    The hot path: some 10 µs of CPU per record of 1 KB.
    """
    row = turn.row
    batch = turn.batches[-1] if turn.batches else None
    judge, count, sha256 = jsonl.judge, turn.counts.add, hashlib.sha256
    for start, end, line in records:
        size = len(line) + 1
        digest = sha256(line).digest()
        if sent is not None and sent.take(digest[:HASH_BYTES]):
            continue
        try:
            record = judge(line)
        except jsonl.NotARecord as reason:
            turn.poison.append(Poison(start, size - 1, digest.hex(), str(reason)))
            continue
        hashes.append(digest[:HASH_BYTES])
        count(record, size)
        if batch is None or len(batch.lines) >= MAX_BATCH_RECORDS or (batch.lines and batch.size + size > MAX_BATCH_BYTES):
            batch = Batch(start, start)
            turn.batches.append(batch)
        batch.lines.append(line)
        batch.size += size
        batch.end = end
        row.records += 1


def _pass_over(fd: int, row: SourceRow, size: int, skip: Skip, turn: Turn) -> Optional[Skip]:
    """Hash an over-long line up to its newline; None when it is done and quarantined, else where it stands."""
    budget = TURN_SCAN_BYTES
    while skip.scanned < size and budget > 0:
        data_at = next_data(fd, skip.scanned, size)
        if data_at > skip.scanned:
            # A hole is all zero bytes: no newline there. Its length goes into the hash, not its zeros.
            skip.digest.update(b"hole:%d" % (data_at - skip.scanned))
            skip.scanned = data_at
            continue
        piece = _pread(fd, min(CHUNK_BYTES, size - skip.scanned), skip.scanned)
        if not piece:
            break
        budget -= len(piece)
        newline = piece.find(b"\n")
        if newline < 0:
            skip.digest.update(piece)
            skip.scanned += len(piece)
            continue
        skip.digest.update(piece[:newline])
        end = skip.scanned + newline
        turn.poison.append(Poison(skip.start, end - skip.start, skip.digest.hexdigest(), "longer than %d bytes" % jsonl.MAX_RECORD_BYTES))
        row.offset = end + 1
        return None
    return skip


def count_prefix(fd: int, offset: int, sent: SentLines) -> None:
    """Take the lines before OFFSET out of SENT: after a restart in the middle of a second reading."""
    position = 0
    while position < offset:
        data, used, too_long = _window(fd, position, offset)
        if not used:
            if not too_long:
                break
            position = min(offset, position + jsonl.MAX_RECORD_BYTES)
            continue
        for line in data[: used - 1].split(b"\n"):
            if not jsonl.is_blank(line):
                sent.take(line_hash(line))
        position += used
