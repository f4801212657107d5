# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""queue.db as a file: its tables, how it is made, opened and checked, and what a transaction is.

The only file of the engine that writes with sqlite3. A damaged, foreign or newer file is refused, never replaced.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from typing import Iterator, Optional
from urllib.parse import quote

from ..errors import StateError

SCHEMA_VERSION = 1
# From a format to the next one: SQL by the format it starts from. With each comes tests/fixtures/state/queue-v<format>.sql.
STEPS: dict[int, str] = {}
# What a caller outside this room may have to catch from a mere query.
DatabaseError = sqlite3.Error
_BUSY_TIMEOUT_S = 10.0
_CURE = "move it away to start over (everything is sent once more), or restore it"
_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE session(
    id INTEGER PRIMARY KEY, sandbox TEXT NOT NULL, agent BLOB NOT NULL, session BLOB NOT NULL,
    stats TEXT NOT NULL DEFAULT '{}', version INTEGER NOT NULL DEFAULT 0, sent_version INTEGER NOT NULL DEFAULT 0,
    UNIQUE(sandbox, agent, session));
CREATE TABLE source(
    id INTEGER PRIMARY KEY, session INTEGER NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    name BLOB NOT NULL, ino INTEGER NOT NULL, dev INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0, offset INTEGER NOT NULL DEFAULT 0, marker BLOB NOT NULL DEFAULT x'',
    size INTEGER NOT NULL DEFAULT 0, mtime_ns INTEGER NOT NULL DEFAULT 0, ctime_ns INTEGER NOT NULL DEFAULT 0,
    rereading INTEGER NOT NULL DEFAULT 0, records INTEGER NOT NULL DEFAULT 0,
    last_ack REAL, seen REAL NOT NULL, UNIQUE(session, ino));
CREATE TABLE sent_hashes(id INTEGER PRIMARY KEY, session INTEGER NOT NULL REFERENCES session(id) ON DELETE CASCADE, hashes BLOB NOT NULL);
CREATE INDEX sent_hashes_session ON sent_hashes(session);
CREATE TABLE outbox(
    id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, slot TEXT UNIQUE, key TEXT NOT NULL,
    source INTEGER, records INTEGER NOT NULL, size INTEGER NOT NULL, created REAL NOT NULL, payload BLOB NOT NULL);
CREATE INDEX outbox_source ON outbox(source);
CREATE TABLE dead_letter(
    id INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, key TEXT NOT NULL, source INTEGER, records INTEGER NOT NULL,
    reason TEXT NOT NULL, at REAL NOT NULL, payload BLOB NOT NULL);
CREATE TABLE quarantine(
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL, generation INTEGER NOT NULL, offset INTEGER NOT NULL,
    length INTEGER NOT NULL, sha256 TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE(source, sha256, length));
"""


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        "file:%s?mode=rwc" % quote(path),
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=0,  # a kept statement keeps a copy of the envelope it last stored
    )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA cache_size=-1024")
    connection.execute("PRAGMA journal_size_limit=8388608")
    connection.execute("PRAGMA wal_autocheckpoint=512")
    return connection


def _create(path: str) -> None:
    """Make an empty queue.db beside PATH and put it there whole: a kill at any point leaves none, or a good one."""
    unborn = path + ".new"
    for leftover in (unborn, unborn + "-wal", unborn + "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    with contextlib.closing(connect(unborn)) as db:
        db.execute("PRAGMA page_size=16384")
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("BEGIN")
        for statement in _SCHEMA.split(";"):
            if statement.strip():
                db.execute(statement)
        db.execute("PRAGMA user_version=%d" % SCHEMA_VERSION)
        db.execute("COMMIT")
    # Closing the only connection has moved the log into the file and synced it.
    os.rename(unborn, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class StateFile:
    """One connection to queue.db; the reader and the shipper each have their own."""

    def __init__(self, path: str, *, check: bool = True) -> None:
        """Open or create the file at PATH. CHECK reads all of it once for damage: for the first connection."""
        self.path = path
        fresh = not os.path.lexists(path)
        if not fresh:
            seen = os.lstat(path)
            if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in (0, os.geteuid()):
                raise StateError("queue.db is not a file of ours", where=path, cause="uid %d, mode %o" % (seen.st_uid, seen.st_mode))
            if seen.st_size == 0:
                raise StateError("queue.db is empty, which it never is when whole", where=path, next_step=_CURE)
        previous = os.umask(0o077)
        try:
            if fresh:
                _create(path)
            self.db = connect(path)
            self._check_version()
            if check and not fresh:
                self._check_pages()
        except sqlite3.DatabaseError as exc:
            raise StateError("queue.db cannot be used", where=path, cause=str(exc), next_step=_CURE) from exc
        finally:
            os.umask(previous)

    def _check_version(self) -> None:
        self.db.execute("PRAGMA journal_mode=WAL")
        version = int(self.db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StateError(
                "queue.db was written by a newer clawmetry (format %d, this one knows %d)" % (version, SCHEMA_VERSION),
                where=self.path,
                next_step="install the newer release again, or start with another state_dir",
            )
        if version < 1:
            raise StateError("queue.db has no format version", where=self.path, next_step=_CURE)
        while version < SCHEMA_VERSION:
            # All of a step, or nothing: killed in the middle, the next start begins with it again.
            with self.transaction():
                version = int(self.db.execute("PRAGMA user_version").fetchone()[0])  # another process may have been faster
                for statement in STEPS[version].split(";") if version < SCHEMA_VERSION else ():
                    if statement.strip():
                        self.db.execute(statement)
                version = min(version + 1, SCHEMA_VERSION)
                self.db.execute("PRAGMA user_version=%d" % version)

    def _check_pages(self) -> None:
        problem = self.db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise StateError("queue.db is damaged", where=self.path, cause=str(problem)[:200], next_step=_CURE)

    def close(self) -> None:
        self.db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside, or nothing. Raises StateError when the disk or the file does not let us."""
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield
            self.db.execute("COMMIT")
        except BaseException as exc:
            # A failed commit may have rolled back by itself (disk full).
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            if isinstance(exc, sqlite3.Error):
                raise StateError(
                    "cannot write queue.db", where=self.path, cause=str(exc), next_step="free disk space; it is tried again"
                ) from exc
            raise

    # -- meta ---------------------------------------------------------------

    def get_meta(self, key: str) -> Optional[str]:
        row = self.db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        self.db.execute("INSERT INTO meta VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value", (key, value))

    def forget_meta(self, key: str) -> None:
        self.db.execute("DELETE FROM meta WHERE key=?", (key,))
