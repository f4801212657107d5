# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Compressed transcripts: ``<session>.jsonl.deleted.<stamp>.<generation>.zst``, what OpenClaw leaves of a deleted session.

Inflating is left to a confined child (sqlitechild/): a decoder is a large target, and here are our keys. A piece that
begins in the middle is inflated from the beginning: these files are read once, mostly to find that all of it was sent.
"""

from __future__ import annotations

import json
import os
import struct

from ..errors import Unreadable, shown
from . import jsonl
from .opener import HeldDir
from .sqlitechild.frames import HEADER
from .sqlitestore import BUDGET_BYTES, NOBODY, child, identity

SUFFIX = b".zst"


def piece(root: HeldDir, directory: HeldDir, fd: int, offset: int, name: bytes) -> tuple[bytes, bool]:
    """Return whole lines of what the file FD holds from OFFSET on, and whether these are the last. Raises Unreadable.

    A line too long to be a record ends the file: nothing behind it is read.
    """
    for budget in (BUDGET_BYTES, jsonl.MAX_RECORD_BYTES + BUDGET_BYTES):
        data, whole = _inflated(root, directory, fd, offset, budget, name)
        if whole:
            return (data if data.endswith(b"\n") or not data else data + b"\n"), True
        end = data.rfind(b"\n") + 1
        if end:
            return data[:end], False
    raise Unreadable("a line longer than %d bytes" % jsonl.MAX_RECORD_BYTES, where=shown(name), cause="the rest is not read")


def _inflated(root: HeldDir, directory: HeldDir, fd: int, offset: int, budget: int, name: bytes) -> tuple[bytes, bool]:
    confined, uid, gid, _keep = identity(NOBODY, NOBODY)
    request = {"root": root.fd if confined else None, "directory": directory.fd, "uid": uid, "gid": gid, "keep": 0}
    request.update(inflate=fd, offset=offset, budget=budget)
    # The descriptor's position is shared with the child.
    os.lseek(fd, 0, os.SEEK_SET)
    output = child(request, [fd, directory.fd, root.fd] if confined else [fd, directory.fd], shown(name))
    try:
        kind, length = HEADER.unpack_from(output)
        data = output[HEADER.size : HEADER.size + length]
        last, _length = HEADER.unpack_from(output, HEADER.size + length)
        end = json.loads(output[2 * HEADER.size + length :])
        if (kind, last) != (b"d", b"e") or len(data) != length or length > budget or not isinstance(end, dict):
            raise ValueError("frames")
    except (ValueError, RecursionError, struct.error) as exc:
        raise Unreadable("the answer of the reader is not valid", where=shown(name), cause=type(exc).__name__) from None
    if end.get("reason") is not None:
        raise Unreadable("a compressed transcript is not read", where=shown(name), cause=shown(str(end["reason"]), 200))
    return data, end.get("whole") is True
