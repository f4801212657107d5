# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Where reading a file begins on a host that was connected before: behind the lines the old client has sent.

Line counts were put aside by ``clawmetry adopt``. When a file is read for the first time its count becomes a
byte offset, once, in one transaction with the hashes of the lines it covers, so that a later rewrite of
the file does not send them again. A file that no longer has so many lines was rewritten since: it is read from its start.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Optional

from ..errors import Unreadable
from ..queue import Queue, SourceRow
from . import jsonl, layout
from .sent import HASH_BYTES, MAX_HASHES
from .tail import CHUNK_BYTES, marker

PREFIX = "imported:"
# A sandbox's file is read in one go here; above this its lines are rather sent twice.
MAX_SCAN_BYTES = 512 << 20


@dataclass(frozen=True)
class Covered:
    """The part of a file the old cursor covers."""

    offset: int
    records: int
    hashes: bytes


def meta_key(scope: str, agent: str, name: str) -> str:
    return PREFIX + json.dumps([scope, agent, name])


def meta_value(lines: int, as_of: str) -> str:
    return json.dumps([lines, as_of])


def cover(fd: int, size: int, lines: int, counts: jsonl.Counts) -> Optional[Covered]:
    """Return what LINES physical lines of FD span, None when the file has not got them. Raises Unreadable.

    A last line without its newline was counted by the old client and not sent: it is left to us.
    COUNTS takes the records, so that the session's totals stay what they were.
    """
    offset = seen = records = 0
    window = CHUNK_BYTES
    hashes: list[bytes] = []
    while seen < lines and offset < size:
        try:
            data = os.pread(fd, min(window, size - offset), offset)
        except OSError as exc:
            raise Unreadable("cannot read", cause=os.strerror(exc.errno or 0)) from exc
        end = data.rfind(b"\n") + 1
        if not end:
            if len(data) < window:
                break
            window *= 4
            if window > MAX_SCAN_BYTES:
                return None
            continue
        window = CHUNK_BYTES
        for line in data[: end - 1].split(b"\n")[: lines - seen]:
            seen += 1
            offset += len(line) + 1
            if jsonl.is_blank(line):
                continue
            hashes.append(hashlib.sha256(line).digest()[:HASH_BYTES])
            if len(line) <= jsonl.MAX_RECORD_BYTES:
                try:
                    counts.add(jsonl.judge(line), len(line) + 1)
                    records += 1
                except jsonl.NotARecord:
                    pass
        if offset > MAX_SCAN_BYTES:
            return None
    if seen < lines and not (seen == lines - 1 and offset < size):
        return None
    return Covered(offset, records, b"".join(hashes[-MAX_HASHES:]))


def start(
    fd: int, size: int, row: SourceRow, queue: Queue, identity: tuple[str, bytes, bytes], kind: tuple[str, str], agent: bytes, first: bool
) -> bool:
    """Put a source that is read for the first time behind the lines an imported cursor covers. True when it was.

    KIND is (type, name) of the sandbox; FIRST is False when the name has been read before under another inode.
    """
    key = _find(queue, kind, agent, row.name)
    if key is None:
        return False
    counts = jsonl.Counts(queue.stats(row.session))
    covered = cover(fd, size, json.loads(queue.get_meta(key) or "[0]")[0], counts) if first else None
    if covered is None:
        queue.forget_meta(key)
        return False
    row.offset, row.marker, row.records = covered.offset, marker(fd, covered.offset), covered.records
    queue.commit_turn(row, identity, (), covered.hashes, (), counts.text(), imported=key)
    return True


def _find(queue: Queue, kind: tuple[str, str], agent: bytes, name: bytes) -> Optional[str]:
    """Return the meta key of the cursor for a file, None when there is none."""
    text, owner = name.decode("utf-8", "surrogateescape"), agent.decode("utf-8", "surrogateescape")
    if kind[0] == "bare":
        places = [("host", owner)]
    else:
        places = [("sandbox:" + kind[1], owner)] + ([("mirror", "")] if owner in ("main", "advisor") else [])
    for place in places:
        key = meta_key(*place, text)
        if queue.get_meta(key) is not None:
            return key
    meaning = layout.parse_session_name(name)
    if meaning is None or meaning.kind == "live":
        return None
    # Set aside since the old client wrote its state down: then the count under the live name is this file's.
    moved = "".join(filter(str.isdigit, meaning.stamp.decode("ascii", "replace")))[:14]
    live = meaning.session.decode("utf-8", "surrogateescape") + ".jsonl"
    for place in places:
        key = meta_key(*place, live)
        value = queue.get_meta(key)
        as_of = json.loads(value)[1] if value is not None else ""
        if as_of and len(moved) == 14 and moved > as_of:
            return key
    return None
