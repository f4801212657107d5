# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""From an open database to frames: which sessions are there, and their events from a cursor on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sqlite3
import time
from typing import Any, Iterator, Optional

from .database import COLUMNS, EVENTS, NODES, WATERMARKS, WINDOWS
from .frames import HEADER, MAX_EVENT_BYTES, MAX_SEQ, ROW, NotNow, Unfit
from .zstd import Decoder, read

MAX_ROWS = 5000  # of one session and transaction
MAX_TOUCHED = 2000
ANCHOR_BYTES = 8


class Reader:
    """Answers one request from an open database into a list of frames, headers and payloads by turns."""

    def __init__(self, db: Any, tables: dict[str, frozenset[str]], deadline: float, budget: int, inflate: Optional[Decoder]) -> None:
        self.db = db
        self.tables = tables
        self.deadline = deadline
        self.budget = budget
        self.frames: list[bytes] = []
        self.inflate = inflate
        events = tables[EVENTS]
        self._cell = "SELECT rowid, event_json, %s, %s FROM transcript_events WHERE session_id=CAST(? AS TEXT) AND seq=?" % (
            "event_zstd" if "event_zstd" in events else "NULL",
            "event_utf8_bytes" if "event_utf8_bytes" in events else "NULL",
        )

    def put_json(self, kind: bytes, value: Any) -> None:
        payload = json.dumps(value, separators=(",", ":")).encode("ascii")
        self.frames += (HEADER.pack(kind, len(payload)), payload)
        self.budget -= len(payload)

    def put_row(self, index: int, seq: int, data: bytes) -> None:
        self.frames += (HEADER.pack(b"r", ROW.size + len(data)) + ROW.pack(index, seq), data)
        self.budget -= ROW.size + len(data)

    def late(self) -> bool:
        return time.monotonic() > self.deadline or self.budget <= 0

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        self.db.execute("BEGIN")
        try:
            yield
        finally:
            self.db.execute("ROLLBACK")

    # -- which sessions are there ------------------------------------------------------

    def touched(self, after: int) -> tuple[list[str], int, bool]:
        """Return the sessions of rows added since row id AFTER, the last row id seen, and whether that cannot be trusted.

        Row ids grow with every insert unless the newest rows were deleted, so now and then all sessions are walked through.
        """
        newest = self.db.execute("SELECT rowid FROM transcript_events ORDER BY rowid DESC LIMIT 1").fetchone()
        if newest is None or newest[0] < after:
            return [], 0, True
        query = "SELECT rowid, session_id FROM transcript_events WHERE rowid>? ORDER BY rowid LIMIT ?"
        rows = self.db.execute(query, (after, MAX_TOUCHED)).fetchall()
        found = dict.fromkeys(filter(None, (sane(raw) for _rowid, raw in rows)))
        return list(found), rows[-1][0] if rows else after, len(rows) == MAX_TOUCHED

    def newest_row(self) -> int:
        row = self.db.execute("SELECT rowid FROM transcript_events ORDER BY rowid DESC LIMIT 1").fetchone()
        return int(row[0]) if row is not None else 0

    def walk(self, after: bytes, most: int) -> tuple[list[str], Optional[bytes]]:
        """Return up to MOST session ids that come after AFTER, and where to go on (None: that was all)."""
        found: list[str] = []
        query = "SELECT session_id FROM transcript_events WHERE session_id>CAST(? AS TEXT) ORDER BY session_id LIMIT 1"
        while len(found) < most and time.monotonic() < self.deadline:
            row = self.db.execute(query, (after,)).fetchone()
            # Text sorts before blobs; nothing but text can be a session's name. A damaged index must not lead us in circles.
            if row is None or not isinstance(row[0], bytes) or row[0] <= after:
                return found, None
            after = row[0]
            session = sane(after)
            if session is not None:
                found.append(session)
        return found, after

    def heads(self, sessions: list[str]) -> None:
        """Tell of each session its generation, its last seq, and what the index says of it."""
        heads = []
        for session in sessions:
            row = self.db.execute(
                "SELECT seq FROM transcript_events WHERE session_id=CAST(? AS TEXT) ORDER BY seq DESC LIMIT 1", (session.encode(),)
            ).fetchone()
            if row is not None and isinstance(row[0], int) and 0 <= row[0] < MAX_SEQ:
                heads.append([session, self.generation(session), row[0], self.entry(session)])
        for start in range(0, len(heads), 200):
            self.put_json(b"h", heads[start : start + 200])

    def generation(self, session: str) -> str:
        if not {"session_id", "generation"} <= self.tables.get(WATERMARKS, frozenset()):
            return ""
        row = self.db.execute(
            "SELECT generation FROM transcript_rewrite_watermarks WHERE session_id=CAST(? AS TEXT)", (session.encode(),)
        ).fetchone()
        if row is None or row[0] is None:
            return ""
        raw = row[0] if isinstance(row[0], bytes) else str(row[0]).encode()
        return raw.decode("ascii") if re.fullmatch(rb"[0-9A-Za-z._:-]{1,80}", raw) else "sha256:" + hashlib.sha256(raw).hexdigest()

    def entry(self, session: str) -> Optional[list[Optional[str]]]:
        """Return [key, title, channel, chat type, status] of the session, None when the index has nothing."""
        key: Any = None
        channel = chat_type = None
        windows, nodes = self.tables.get(WINDOWS, frozenset()), self.tables.get(NODES, frozenset())
        if {"session_id", "session_key", "channel", "chat_type"} <= windows:
            row = self.db.execute(
                "SELECT session_key, channel, chat_type FROM session_windows WHERE session_id=CAST(? AS TEXT)", (session.encode(),)
            ).fetchone()
            if row is not None:
                key, channel, chat_type = row
        row = None
        if set(COLUMNS[NODES]) <= nodes:
            column, value = ("session_key", key) if isinstance(key, bytes) else ("current_session_id", session.encode())
            row = self.db.execute(
                "SELECT session_key, display_name, label, status FROM session_nodes WHERE %s=CAST(? AS TEXT) LIMIT 1" % column, (value,)
            ).fetchone()
        if row is None:
            return [text(key, 500), None, text(channel, 60), text(chat_type, 60), None] if key is not None else None
        return [text(row[0], 500), text(row[1], 300) or text(row[2], 300), text(channel, 60), text(chat_type, 60), text(row[3], 20)]

    # -- rows ----------------------------------------------------------------------------------

    def read(self, index: int, session: str, generation: str, following: int, anchor: str) -> None:
        """Put the events of one session from seq FOLLOWING on; "rewritten" when what is before them is not what was passed."""
        name = session.encode()
        state, last = "ok", b""
        with self.snapshot():
            now = self.generation(session)
            if following and (now != generation or not self._fits(name, following - 1, anchor)):
                self.put_json(b"s", [index, now, following, anchor, "rewritten"])
                return
            query = "SELECT seq FROM transcript_events WHERE session_id=CAST(? AS TEXT) AND seq>=? ORDER BY seq LIMIT ?"
            rows = self.db.execute(query, (name, following, MAX_ROWS)).fetchall()
            for (seq,) in rows:
                if not isinstance(seq, int) or not following <= seq < MAX_SEQ:
                    state = "seq is not a number that grows"
                    break
                if self.late():
                    state = "more"
                    break
                try:
                    data = self._event(name, seq)
                    if self.budget < len(data) and self.frames:
                        state = "more"
                        break
                    self.put_row(index, seq, data)
                    last = data
                except Unfit as exc:
                    self.put_json(b"p", [index, seq, *exc.args])
                    last = b""
                except NotNow as exc:
                    state = str(exc)
                    break
                following, anchor = seq + 1, ""
            else:
                state = "more" if len(rows) == MAX_ROWS else "ok"
        if last:
            anchor = hashlib.sha256(last).digest()[:ANCHOR_BYTES].hex()
        self.put_json(b"s", [index, now, following, anchor, state])

    def _fits(self, session: bytes, seq: int, anchor: str) -> bool:
        if not anchor:
            return True
        try:
            return hashlib.sha256(self._event(session, seq)).digest()[:ANCHOR_BYTES].hex() == anchor
        except Unfit:
            return False

    def _event(self, session: bytes, seq: int) -> bytes:
        """Return the JSON text of one event. Raises Unfit when it never will be one, NotNow when it cannot be told here."""
        try:
            row = self.db.execute(self._cell, (session, seq)).fetchone()
        except (sqlite3.DataError, MemoryError):
            raise self._too_long(session, seq) from None
        except sqlite3.OperationalError as exc:
            if "too big" not in str(exc):
                raise
            raise self._too_long(session, seq) from None
        if row is None:
            raise _unfit(b"%s:%d" % (session, seq), 0, "gone")
        plain, packed, size = row[1:]
        if isinstance(plain, bytes):
            if len(plain) > MAX_EVENT_BYTES:
                raise _unfit(plain, len(plain), "longer than %d bytes" % MAX_EVENT_BYTES)
            return plain
        if not isinstance(packed, bytes):
            raise _unfit(b"%s:%d" % (session, seq), 0, "no text")
        if self.inflate is None:
            raise NotNow("compressed events need the Python package zstandard")
        most = min(MAX_EVENT_BYTES, size) if isinstance(size, int) and size > 0 else MAX_EVENT_BYTES
        try:
            data = read(self.inflate(io.BytesIO(packed)), most + 1)
        except MemoryError:
            raise _unfit(packed, len(packed), "cannot be decompressed in the memory allowed") from None
        except Exception:  # each decoder has its own class of error
            raise _unfit(packed, len(packed), "damaged zstd data") from None
        if len(data) > most:
            raise _unfit(packed, len(packed), "decompresses to more than %d bytes" % most)
        if isinstance(size, int) and len(data) != size:
            raise _unfit(packed, len(packed), "damaged zstd data")
        return data

    def _too_long(self, session: bytes, seq: int) -> Unfit:
        length = 0
        with contextlib.suppress(sqlite3.Error, MemoryError, AttributeError, TypeError, ValueError):
            query = "SELECT rowid FROM transcript_events WHERE session_id=CAST(? AS TEXT) AND seq=?"
            row = self.db.execute(query, (session, seq)).fetchone()
            with self.db.blobopen(EVENTS, "event_json", row[0], readonly=True) as blob:
                length = len(blob)
        return _unfit(b"%s:%d" % (session, seq), length, "longer than %d bytes" % MAX_EVENT_BYTES)


def _unfit(stands_for: bytes, length: int, reason: str) -> Unfit:
    return Unfit(length, hashlib.sha256(stands_for).hexdigest(), reason)


def sane(raw: Any) -> Optional[str]:
    """Return a session id as text, None when it could not be the name of one."""
    if not isinstance(raw, bytes) or not 0 < len(raw) <= 255 or b"\0" in raw:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def text(raw: Any, most: int) -> Optional[str]:
    return raw.decode("utf-8", "replace")[:most] if isinstance(raw, bytes) and raw else None
