# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""An agent database as OpenClaw 2026.9 keeps it: the tables that matter here, in the same shape, and a secret one.

Run as a program it is a live writer: ``python agentdb.py FILE SESSION ROWS PER_SECOND`` commits numbered rows one by one
and prints the longest it had to wait for a commit, in milliseconds.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, Iterable, Optional

SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA user_version=23;
CREATE TABLE schema_meta(meta_key TEXT NOT NULL PRIMARY KEY, role TEXT NOT NULL, schema_version INTEGER NOT NULL) STRICT;
CREATE TABLE session_nodes(
  session_key TEXT NOT NULL PRIMARY KEY, current_session_id TEXT NOT NULL, entry_json TEXT NOT NULL,
  updated_at INTEGER NOT NULL, status TEXT CHECK (status IS NULL OR status IN ('running', 'done', 'failed', 'killed', 'timeout')),
  parent_session_key TEXT, spawned_by TEXT, label TEXT, display_name TEXT) STRICT;
CREATE INDEX nodes_by_session ON session_nodes(current_session_id);
CREATE TABLE session_windows(
  session_id TEXT NOT NULL PRIMARY KEY, session_key TEXT NOT NULL, previous_session_id TEXT, chat_type TEXT, channel TEXT,
  FOREIGN KEY (session_key) REFERENCES session_nodes(session_key) ON DELETE CASCADE) STRICT;
CREATE TABLE transcript_events(
  session_id TEXT NOT NULL, seq INTEGER NOT NULL, event_json TEXT, created_at INTEGER NOT NULL, event_zstd BLOB,
  event_utf8_bytes INTEGER CHECK (event_utf8_bytes IS NULL OR event_utf8_bytes >= 0), navigation_json TEXT,
  PRIMARY KEY (session_id, seq),
  FOREIGN KEY (session_id) REFERENCES session_windows(session_id) ON DELETE CASCADE,
  CHECK ((event_json IS NOT NULL AND event_zstd IS NULL) OR (event_json IS NULL AND event_zstd IS NOT NULL))) STRICT;
CREATE TABLE transcript_rewrite_watermarks(
  session_id TEXT NOT NULL PRIMARY KEY, generation TEXT NOT NULL, updated_at INTEGER NOT NULL) STRICT;
CREATE TABLE auth_profile_store(store_key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO auth_profile_store VALUES('profile', 'AUTH-PROFILE-SECRET');
CREATE TRIGGER window_gone AFTER DELETE ON session_windows
  BEGIN DELETE FROM transcript_rewrite_watermarks WHERE session_id=OLD.session_id; END;
"""
COMPRESS_FROM = 1024
NAME = "openclaw-agent.sqlite"


def line(event: Any) -> str:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False)


def numbered(number: int, size: int = 0) -> dict[str, Any]:
    return {"type": "message", "id": "%08x" % number, "seq": number, "message": {"role": "user", "content": "x" * size}}


def compressed(raw: bytes) -> bytes:
    """A zstd frame of RAW; made of raw blocks where there is no encoder, which every decoder takes (RFC 8878 §3.1.1)."""
    try:
        import zstandard
    except ImportError:
        frame = b"\x28\xb5\x2f\xfd\xa0" + len(raw).to_bytes(4, "little")
        pieces = [raw[start : start + 65536] for start in range(0, len(raw), 65536)]
        for number, piece in enumerate(pieces, 1):
            frame += (len(piece) << 3 | (number == len(pieces))).to_bytes(3, "little") + piece
        return frame
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(raw)


class AgentDatabase:
    """The writer's side. ``path`` is the database file; its directory is made, closed to others."""

    def __init__(self, path: Path, *, schema: str = SCHEMA) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        fresh = not path.exists()
        self.db = sqlite3.connect(str(path), isolation_level=None, timeout=5)
        self.db.execute("PRAGMA foreign_keys=ON")
        if fresh:
            self.db.executescript(schema)
            path.chmod(0o600)

    def close(self) -> None:
        self.db.close()

    def session(self, session: str, key: str = "", *, title: Optional[str] = None, generation: str = "g1", **window: Optional[str]) -> None:
        """Make a session, the way a first turn does."""
        key = key or "agent:main:explicit:" + session
        with self.db:
            self.db.execute("BEGIN")
            self.db.execute(
                "INSERT OR REPLACE INTO session_nodes(session_key, current_session_id, entry_json, updated_at, status, display_name)"
                " VALUES(?,?,'{}',?,'running',?)",
                (key, session, int(time.time() * 1000), title),
            )
            self.db.execute(
                "INSERT INTO session_windows(session_id, session_key, chat_type, channel) VALUES(?,?,?,?)",
                (session, key, window.get("chat_type"), window.get("channel")),
            )
            self.db.execute("INSERT INTO transcript_rewrite_watermarks VALUES(?,?,?)", (session, generation, int(time.time() * 1000)))

    def add(self, session: str, texts: Iterable[str], *, start: Optional[int] = None, compress: bool = True) -> None:
        """Append events in one transaction; long ones compressed."""
        seq = start
        if seq is None:
            seq = self.db.execute("SELECT coalesce(max(seq) + 1, 0) FROM transcript_events WHERE session_id=?", (session,)).fetchone()[0]
        with self.db:
            self.db.execute("BEGIN")
            for number, text in enumerate(texts, seq):
                self.insert(session, number, text, compress=compress)

    def insert(self, session: str, seq: int, text: str, *, compress: bool = True) -> None:
        raw = text.encode()
        packed = compressed(raw) if compress and len(raw) >= COMPRESS_FROM else None
        self.db.execute(
            "INSERT INTO transcript_events(session_id, seq, event_json, created_at, event_zstd, event_utf8_bytes) VALUES(?,?,?,?,?,?)",
            (session, seq, None if packed else text, int(time.time() * 1000), packed, len(raw)),
        )

    def insert_packed(self, session: str, seq: int, packed: bytes, size: Optional[int]) -> None:
        """Append a compressed cell of whatever bytes."""
        self.db.execute(
            "INSERT INTO transcript_events(session_id, seq, created_at, event_zstd, event_utf8_bytes) VALUES(?,?,0,?,?)",
            (session, seq, packed, size),
        )

    def rewrite(self, session: str, texts: Iterable[str], *, generation: Optional[str]) -> None:
        """Replace a session's events, with a new generation or (GENERATION None) without telling."""
        with self.db:
            self.db.execute("BEGIN")
            self.db.execute("DELETE FROM transcript_events WHERE session_id=?", (session,))
            if generation is not None:
                self.db.execute("UPDATE transcript_rewrite_watermarks SET generation=? WHERE session_id=?", (generation, session))
            for seq, text in enumerate(texts):
                self.insert(session, seq, text)

    def delete(self, session: str) -> None:
        self.db.execute("DELETE FROM session_windows WHERE session_id=?", (session,))


def write_live(path: str, session: str, rows: int, per_second: float) -> None:
    """Commit numbered rows, every third one long enough to be compressed, and tell the longest wait."""
    database = AgentDatabase(Path(path))
    database.session(session)
    longest = 0.0
    began = time.monotonic()
    for number in range(rows):
        time.sleep(max(0.0, began + number / per_second - time.monotonic()))
        start = time.monotonic()
        database.add(session, [line(numbered(number, 3000 if number % 3 == 0 else 100))])
        longest = max(longest, time.monotonic() - start)
    checkpoint = database.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    print(json.dumps({"longest_ms": round(longest * 1000, 1), "checkpoint": checkpoint}))


if __name__ == "__main__":
    write_live(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
