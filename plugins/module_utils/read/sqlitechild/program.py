# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""From the request to the answer: what runs in the child once its modules are there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from typing import Any, Optional

from .confinement import MEMORY_BYTES, confine
from .database import open_database, readable_tables, restrict, signature
from .frames import HEADER, NotNow, Refusal
from .reader import Reader
from .zstd import Decoder, decoder, read

READ_S = 0.6  # all transactions together; the writer's WAL is not held up longer than this
LIFE_S = 0.95  # from opening to closing, whatever happens
OLDEST_SQLITE = (3, 37)  # knows STRICT tables


def answer(request: dict[str, Any], inflate: Optional[Decoder]) -> list[bytes]:
    """Return the frames for REQUEST; the last one is always "e", with a reason when nothing else is to be believed."""
    deadline = time.monotonic() + READ_S
    end: dict[str, Any] = {"rowid": request["rowid"], "after": None, "lost": False, "reason": None, "refused": False}
    name = os.fsencode(request["name"])
    frames: list[bytes] = []
    try:
        with contextlib.ExitStack() as stack:
            db, must_hold = open_database(name, deadline)
            stack.callback(db.close)
            tables = readable_tables(db)
            restrict(db, tables)
            reader = Reader(db, tables, deadline, request["budget"], inflate)
            for index, want in enumerate(request["want"]):
                if reader.late():
                    break
                mark = len(reader.frames)
                try:
                    reader.read(index, *want)
                except sqlite3.Error as exc:
                    del reader.frames[mark:]
                    if time.monotonic() > deadline:
                        break
                    reader.put_json(b"s", [index, want[1], want[2], want[3], "%s: %s" % (type(exc).__name__, str(exc)[:100])])
            _look_around(reader, request, end)
            frames = reader.frames
            db.close()
            if must_hold is not None and signature(name) != must_hold:
                raise NotNow("it was opened by its owner meanwhile; it is tried again")
    except Refusal as exc:
        frames, end["reason"], end["refused"] = [], str(exc), True
    except NotNow as exc:
        frames, end["reason"] = [], str(exc)
    except MemoryError:
        frames, end["reason"] = [], "more memory than %d bytes" % MEMORY_BYTES
    except (sqlite3.Error, OSError, UnicodeError) as exc:
        frames, end["reason"] = [], "%s: %s" % (type(exc).__name__, str(exc)[:200])
        if isinstance(exc, sqlite3.DatabaseError) and sqlite3.sqlite_version_info < OLDEST_SQLITE:
            end["reason"] = "this host's SQLite %s is too old for it (%s)" % (sqlite3.sqlite_version, end["reason"])
    payload = json.dumps(end).encode("ascii")
    return [*frames, HEADER.pack(b"e", len(payload)), payload]


def _look_around(reader: Reader, request: dict[str, Any], end: dict[str, Any]) -> None:
    """Tell which sessions have changed: those of new rows, or in a walk over all of them."""
    try:
        if request["walk"] is None:
            sessions, end["rowid"], end["lost"] = reader.touched(request["rowid"])
        else:
            if not request["walk"]:
                end["rowid"] = reader.newest_row()
            sessions, after = reader.walk(bytes.fromhex(request["walk"]), request["heads"])
            if after is not None:
                # No honest id is that long; behind its beginning there is no other one.
                end["after"] = (after if len(after) <= 1000 else after[:1000] + b"\xff").hex()
        reader.heads(sessions)
    except sqlite3.Error as exc:
        end["lost"] = True
        if time.monotonic() <= reader.deadline:
            raise NotNow("%s: %s" % (type(exc).__name__, str(exc)[:200])) from None


def inflated(request: dict[str, Any], inflate: Optional[Decoder]) -> list[bytes]:
    """Return the frames for a request about a compressed file: a piece "d" of what it holds from an offset on, then "e"."""
    end: dict[str, Any] = {"whole": False, "reason": None}
    data = b""
    try:
        if inflate is None:
            raise NotNow("it needs the Python package zstandard")
        with open(request["inflate"], "rb", closefd=False) as packed:
            stream = inflate(packed)
            left = request["offset"]
            while left > 0:
                passed = len(stream.read(min(left, 1 << 20)))
                if not passed:
                    raise NotNow("it holds less than before")
                left -= passed
            data = read(stream, request["budget"])
            end["whole"] = len(data) < request["budget"]
    except NotNow as exc:
        end["reason"] = str(exc)
    except Exception as exc:  # each decoder has its own class of error
        end["reason"] = "damaged zstd data (%s)" % type(exc).__name__
    payload = json.dumps(end).encode("ascii")
    return [HEADER.pack(b"d", len(data)), data, HEADER.pack(b"e", len(payload)), payload]


def main() -> None:
    """Read the request, confine ourselves, answer. Any way out but the last line is an answer that is not complete."""
    request = json.loads(sys.stdin.buffer.read())
    sys.path.extend(sys.argv[1:])
    inflate = decoder()
    confine(request["root"], request["directory"], request["uid"], request["gid"], request["keep"])
    # A transaction that hangs (a stuck disk, a stopped process) must not pin the writer's WAL: the kernel ends us, locks and all.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, LIFE_S)
    frames = inflated(request, inflate) if "inflate" in request else answer(request, inflate)
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.buffer.writelines(frames)
    sys.stdout.buffer.flush()
