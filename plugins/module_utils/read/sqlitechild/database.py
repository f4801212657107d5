# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Opening the database, and what of it may be read: plain tables with the columns we know, nothing else.

The database is written by the sandbox, its schema included. Source of tables and rules: reference/openclaw.md §3
(agent schema 23; columns it does not need may come and go).
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from typing import Any, Optional

from .frames import MAX_EVENT_BYTES, REASON_NO_TRANSCRIPTS, SIDECARS, NotNow, Refusal

EVENTS, WATERMARKS, NODES, WINDOWS = "transcript_events", "transcript_rewrite_watermarks", "session_nodes", "session_windows"
# All that is ever read. The database also holds secrets (auth_profile_store): nothing else is authorised.
COLUMNS = {
    EVENTS: ("session_id", "seq", "event_json", "event_zstd", "event_utf8_bytes"),
    WATERMARKS: ("session_id", "generation"),
    NODES: ("session_key", "current_session_id", "display_name", "label", "status"),
    WINDOWS: ("session_id", "session_key", "channel", "chat_type"),
}
MAX_SCHEMA_ROWS, MAX_SCHEMA_BYTES = 5000, 8 << 20

Signature = tuple[tuple[int, int, int, int], ...]


def signature(name: bytes) -> Signature:
    """Return (inode, size, mtime, ctime) of the database and its sidecars, zeros for one that is absent. Raises Refusal."""
    found = []
    for suffix in SIDECARS:
        try:
            seen = os.stat(name + suffix, follow_symlinks=False)
        except FileNotFoundError:
            found.append((0, 0, 0, 0))
            continue
        if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
            raise Refusal("its %s is a link or not a regular file" % (suffix.decode() or "file"))
        found.append((seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
    return tuple(found)


# Numbers of sqlite3.h: LENGTH, SQL_LENGTH, EXPR_DEPTH, COMPOUND_SELECT, VDBE_OP, ATTACHED, TRIGGER_DEPTH, WORKER_THREADS
_LIMITS = ((0, MAX_EVENT_BYTES + (1 << 16)), (1, 1 << 20), (3, 300), (4, 50), (5, 100_000), (7, 0), (10, 1), (11, 0))
# DBCONFIG_ENABLE_TRIGGER, DBCONFIG_DEFENSIVE, DBCONFIG_ENABLE_VIEW
_SETTINGS = ((1003, False), (1010, True), (1015, False))


def open_database(name: bytes, deadline: float) -> tuple[Any, Optional[Signature]]:
    """Return a read-only connection, and the signature that must still hold at the end (None: SQLite's locks see to it)."""
    before = signature(name)
    if not before[0][0]:
        raise NotNow("the database is gone")
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, 100, 0)
    finally:
        os.close(fd)
    if len(head) < 100 or head[:16] != b"SQLite format 3\0":
        raise Refusal("not a SQLite database")
    # Without a WAL there is no writer at work, and SQLite would make a -wal and -shm just to look: immutable leaves no trace.
    still = head[19] == 2 and not before[1][1]
    options = "immutable=1" if still else "mode=ro&readonly_shm=1"
    db = sqlite3.connect("file:" + name.decode("ascii") + "?" + options, uri=True, isolation_level=None, timeout=0.2)
    db.text_factory = bytes
    if hasattr(db, "setlimit"):  # Python 3.11; before that the limit on memory has to do
        for limit, most in _LIMITS:
            db.setlimit(limit, most)
    if hasattr(db, "setconfig"):  # Python 3.12
        for option, on in _SETTINGS:
            db.setconfig(option, on)
    db.set_progress_handler(lambda: time.monotonic() > deadline, 2000)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "query_only=ON", "temp_store=MEMORY", "cache_size=-4000"):
        db.execute("PRAGMA " + pragma).fetchall()
    return db, before if still else None


_TOKEN = re.compile(rb"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^\]]*\]|[A-Za-z_$0-9\x80-\xff]+|.", re.DOTALL)
_SPACE = re.compile(rb"(?:[ \t\n\f\r]|\xef\xbb\xbf)+")


def _tokens(sql: bytes, most: int) -> list[bytes]:
    """Return the first tokens of SQL, comments and blanks left out; quoted names without their quotes, words in lower case."""
    found: list[bytes] = []
    at = 0
    while at < len(sql) and len(found) < most:
        if sql.startswith(b"--", at):
            end = sql.find(b"\n", at)
        elif sql.startswith(b"/*", at):
            end = sql.find(b"*/", at + 2)
            end = end + 1 if end >= 0 else end
        else:
            space = _SPACE.match(sql, at)
            if space is not None:
                at = space.end()
                continue
            token = _TOKEN.match(sql, at)
            if token is None:
                break
            at = token.end()
            text = token.group()
            if len(text) > 1 and text[:1] in b"\"'`[":
                quote = text[:1]
                text = text[1:-1].replace(quote * 2, quote)
            found.append(text.lower())
            continue
        if end < 0:
            break
        at = end + 1
    return found


def defines(sql: bytes) -> Optional[tuple[str, bytes]]:
    """Return what a statement of sqlite_master makes: (table | view | virtual, name in lower case). None for anything else."""
    tokens = _tokens(sql, 12)
    if tokens[:1] != [b"create"]:
        return None
    rest = [token for token in tokens[1:3] if token not in (b"temp", b"temporary")] + tokens[3:]
    kind = {b"table": "table", b"view": "view", b"virtual": "virtual"}.get(rest[0] if rest else b"")
    if kind is None:
        return None
    rest = rest[2:] if kind == "virtual" else rest[1:]
    if rest[:3] == [b"if", b"not", b"exists"] and len(rest) > 3:
        rest = rest[3:]
    if len(rest) > 2 and rest[1] == b".":
        rest = rest[2:]
    return (kind, rest[0]) if rest else None


def readable_tables(db: Any) -> dict[str, frozenset[str]]:
    """Return the columns of each table we may read, those that are plain tables only. Raises Refusal.

    Both what a row of sqlite_master claims to be and what its SQL makes must say "table": the sandbox writes both.
    """
    rows, size = db.execute("SELECT count(*), coalesce(sum(length(sql)), 0) FROM sqlite_master").fetchone()
    if rows > MAX_SCHEMA_ROWS or size > MAX_SCHEMA_BYTES:
        raise Refusal("its schema has %d entries of %d bytes" % (rows, size))
    made: dict[str, list[bool]] = {}
    for kind, sql, page in db.execute("SELECT type, sql, rootpage FROM sqlite_master"):
        meaning = defines(sql) if isinstance(sql, bytes) else None
        name = meaning[1].decode("utf-8", "replace") if meaning is not None else ""
        if meaning is not None and name in COLUMNS:
            made.setdefault(name, []).append(meaning[0] == "table" and kind == b"table" and isinstance(page, int) and page > 1)
    found = {}
    for name, plain in made.items():
        if plain != [True]:
            raise Refusal("%s is not a plain table" % name)
        columns = set()
        for _cid, column, _type, _notnull, _default, _pk, hidden in db.execute("PRAGMA table_xinfo(%s)" % name):
            if hidden == 0:
                columns.add(column.decode("utf-8", "replace").lower())
            elif column.decode("utf-8", "replace").lower() in COLUMNS[name]:
                raise Refusal("%s has computed columns" % name)
        found[name] = frozenset(columns & set(COLUMNS[name]))
    if EVENTS not in found:
        raise Refusal(REASON_NO_TRANSCRIPTS)
    if not {"session_id", "seq", "event_json"} <= found[EVENTS]:
        raise Refusal("%s has no session_id, seq and event_json" % EVENTS)
    return found


def restrict(db: Any, tables: dict[str, frozenset[str]]) -> None:
    """Authorise reading these columns and nothing else: no function, view, trigger, pragma, attach or other table."""

    def decide(action: int, table: Optional[str], column: Optional[str], _database: Optional[str], inner: Optional[str]) -> int:
        if inner is None and action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION):
            return sqlite3.SQLITE_OK
        if inner is None and action == sqlite3.SQLITE_READ and table is not None:
            known = tables.get(table.lower())
            if known is not None and (column or "").lower() in known | {"", "rowid"}:
                return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    db.set_authorizer(decide)
