# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""All durable state: one SQLite file with the cursors and the outbox in the same transaction.

A cursor moves only in the transaction that stores its sealed batch; an outbox row goes only with
its ack. WAL with synchronous=FULL, so what a commit acknowledged survives power loss. Payloads are
envelopes, never plaintext. The only file of the engine that imports sqlite3 for our own state.

States of an outbox row: stored -> acked (deleted) | split (two stored rows) | dead-letter (moved).
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Sequence, Union

from .errors import ConfigError, StateError, shown
from .model import Poison

SCHEMA_VERSION = 1
# What a caller outside this file may have to catch from a mere query.
DatabaseError = sqlite3.Error
_BUSY_TIMEOUT_S = 10.0
# How long an order of serving stands before those who came since are taken into it.
PLAN_S = 0.5
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


@dataclass
class SourceRow:
    """One file of one session: where it stands. The reader owns it between commits."""

    id: int
    session: int
    name: bytes
    ino: int
    dev: int
    generation: int = 0
    offset: int = 0
    marker: bytes = b""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    rereading: bool = False
    records: int = 0


@dataclass(frozen=True)
class SessionRow:
    """One session of one agent of one sandbox, and the counts kept for /ingest/sessions (JSON text)."""

    id: int
    sandbox: str
    agent: bytes
    session: bytes
    stats: str
    version: int


@dataclass(frozen=True)
class Sealed:
    """A sealed batch on its way into the outbox."""

    endpoint: str
    key: str  # idempotency key, stable across re-sends
    payload: Union[bytes, bytearray]  # envelope
    records: int
    slot: Optional[str] = None  # a newer envelope of the same slot replaces an unsent older one
    source: Optional[int] = None


@dataclass(frozen=True)
class OutboxRow:
    id: int
    endpoint: str
    key: str
    payload: bytes
    records: int
    source: Optional[int]
    slot: Optional[str]


class InstanceLock:
    """One process per state directory, by flock; released by the kernel whatever happens to us."""

    def __init__(self, state_dir: str) -> None:
        path = os.path.join(state_dir, "lock")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise StateError(
                "another clawmetry works on this state directory",
                where=state_dir,
                cause="process %s holds its lock" % (shown(holder) or "unknown"),
                next_step="clawmetry status, or stop that one first",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def prepare_state_dir(path: str) -> None:
    """Create the state directory (0700) or check the one that is there. Raises ConfigError."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        seen = os.lstat(path)
    except OSError as exc:
        raise ConfigError("cannot make the state directory", where=path, cause=os.strerror(exc.errno or 0)) from exc
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise ConfigError(
            "the state directory must be a directory of uid %d" % os.geteuid(), where=path, cause="it belongs to uid %d" % seen.st_uid
        )
    if seen.st_mode & 0o077:
        os.chmod(path, 0o700)


def _connect(path: str, uri_mode: str = "rwc") -> sqlite3.Connection:
    from urllib.parse import quote

    connection = sqlite3.connect(
        "file:%s?mode=%s" % (quote(path), uri_mode),
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
    with contextlib.closing(_connect(unborn)) as db:
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


class Queue:
    """One connection to queue.db; the reader and the shipper each have their own."""

    def __init__(self, path: str, *, check: bool = True) -> None:
        """Open or create the file at PATH. CHECK reads all of it once for damage: for the first connection."""
        self.path = path
        # Who is served next, and which turn each was last served in; of this process and connection only.
        self._turns: collections.deque[tuple[Optional[int], Optional[str]]] = collections.deque()
        self._planned_at = 0.0
        self._turn = 0
        self._served: dict[Optional[int], int] = {}
        self._served_boxes: dict[Optional[str], int] = {}
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
            self.db = _connect(path)
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

    def _check_pages(self) -> None:
        problem = self.db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise StateError("queue.db is damaged", where=self.path, cause=str(problem)[:200], next_step=_CURE)

    def close(self) -> None:
        self.db.close()

    @classmethod
    def peek_status(cls, path: str) -> dict[str, Any]:
        """Return what status can tell of a queue.db while no daemon runs; writes nothing."""
        queue = cls.__new__(cls)
        queue.path = path
        try:
            with contextlib.closing(_connect(path, "ro")) as queue.db:
                counts = queue.counts()
                sources = queue.source_status()
        except sqlite3.Error as exc:
            return {"reason": "queue.db cannot be read: %s" % exc}
        return {
            **{name: counts[name] for name in ("pending", "pending_bytes", "quarantined", "dead_letters", "last_ack")},
            "sources": sources,
        }

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

    # -- sources and their cursors -------------------------------------------

    def _session(self, sandbox: str, agent: bytes, session: bytes) -> int:
        """Return the id of a session's row, made when it is new."""
        self.db.execute("INSERT OR IGNORE INTO session(sandbox, agent, session) VALUES(?,?,?)", (sandbox, agent, session))
        found = self.db.execute("SELECT id FROM session WHERE sandbox=? AND agent=? AND session=?", (sandbox, agent, session)).fetchone()
        return int(found[0])

    def sources(self, sandbox: str, agent: bytes) -> dict[bytes, tuple[int, list[SourceRow]]]:
        """Return every known source of an agent: {session: (session id, [rows])}."""
        found: dict[bytes, tuple[int, list[SourceRow]]] = {}
        rows = self.db.execute(
            "SELECT session.session, session.id, source.id, name, ino, dev, generation, offset, marker, size, mtime_ns,"
            " ctime_ns, rereading, records FROM session LEFT JOIN source ON source.session=session.id WHERE sandbox=? AND agent=?",
            (sandbox, agent),
        )
        for name, session_id, *rest in rows:
            entry = found.setdefault(bytes(name), (int(session_id), []))
            if rest[0] is not None:
                row = SourceRow(rest[0], session_id, *rest[1:])
                row.rereading = bool(row.rereading)
                entry[1].append(row)
        return found

    def add_source(self, row: SourceRow) -> None:
        """Store a new source and set its id. Its cursor is where ROW says."""
        cursor = self.db.execute(
            "INSERT INTO source(session, name, ino, dev, generation, offset, marker, rereading, seen) VALUES(?,?,?,?,?,?,?,?,?)",
            (row.session, row.name, row.ino, row.dev, row.generation, row.offset, row.marker, int(row.rereading), time.time()),
        )
        row.id = int(cursor.lastrowid or 0)

    def _store_cursor(self, row: SourceRow) -> None:
        self.db.execute(
            "UPDATE source SET name=?, ino=?, dev=?, generation=?, offset=?, marker=?, size=?, mtime_ns=?,"
            " ctime_ns=?, rereading=?, records=?, seen=? WHERE id=?",
            (
                row.name, row.ino, row.dev, row.generation, row.offset, row.marker, row.size, row.mtime_ns, row.ctime_ns,
                int(row.rereading), row.records, time.time(), row.id,
            ),
        )  # fmt: skip

    def commit_turn(
        self,
        row: SourceRow,
        identity: tuple[str, bytes, bytes],
        batches: Sequence[Sealed],
        hashes: bytes,
        poison: Sequence[Poison],
        stats: Optional[str],
        imported: Optional[str] = None,
    ) -> None:
        """Store what one turn over a source produced: batches, cursor, quarantine, counts. All or nothing.

        IDENTITY is (sandbox uid, agent, session); the rows of a new source and session are made here.
        IMPORTED is a meta entry that is used up by it.
        """
        now = time.time()
        with self.transaction():
            if imported is not None:
                self.forget_meta(imported)
            if row.id == 0:
                row.session = self._session(*identity)
                self.add_source(row)
            for batch in batches:
                self._insert(batch, row.id, now)
            if hashes:
                self.db.execute("INSERT INTO sent_hashes(session, hashes) VALUES(?,?)", (row.session, hashes))
            for bad in poison:
                self.db.execute(
                    "INSERT OR IGNORE INTO quarantine(source, generation, offset, length, sha256, reason, at) VALUES(?,?,?,?,?,?,?)",
                    (row.id, row.generation, bad.offset, bad.length, bad.sha256, bad.reason, now),
                )
            if stats is not None:
                self.db.execute("UPDATE session SET stats=?, version=version+1 WHERE id=?", (stats, row.session))
            self._store_cursor(row)

    def sent_hashes(self, session: int, most: int) -> list[bytes]:
        """Return the stored runs of 8-byte line hashes of a session, newest first, about MOST hashes at the most."""
        runs: list[bytes] = []
        count = 0
        for (run,) in self.db.execute("SELECT hashes FROM sent_hashes WHERE session=? ORDER BY id DESC", (session,)):
            runs.append(run)
            count += len(run) // 8
            if count >= most:
                break
        return runs

    def stats(self, session: int) -> str:
        row = self.db.execute("SELECT stats FROM session WHERE id=?", (session,)).fetchone()
        return "{}" if row is None else str(row[0])

    def forget_sources(self, ids: Sequence[int]) -> None:
        """Drop sources whose files are gone and whose batches are all acked; sessions left empty go with them."""
        with self.transaction():
            for source in ids:
                pending = self.db.execute("SELECT 1 FROM outbox WHERE source=? LIMIT 1", (source,)).fetchone()
                if pending is None:
                    self.db.execute("DELETE FROM source WHERE id=?", (source,))
            self.db.execute(
                "DELETE FROM session WHERE sent_version>=version AND NOT EXISTS(SELECT 1 FROM source WHERE source.session=session.id)"
            )

    def forget_sandboxes(self, present: Sequence[str], now: float, patience_s: float) -> int:
        """Drop all cursors of sandboxes that have not been PRESENT for PATIENCE_S seconds and have nothing pending.

        A sandbox that is there but silent is noted as seen once a day.
        """
        names = json.dumps(list(present))
        with self.transaction():
            self.db.execute(
                "UPDATE source SET seen=? WHERE seen<? AND session IN"
                " (SELECT id FROM session WHERE sandbox IN (SELECT value FROM json_each(?)))",
                (now, now - 86400.0, names),
            )
            cursor = self.db.execute(
                "DELETE FROM session WHERE sandbox NOT IN (SELECT value FROM json_each(?)) AND sandbox NOT IN"
                " (SELECT sandbox FROM session JOIN source ON source.session=session.id WHERE source.seen>=? OR source.id IN"
                " (SELECT source FROM outbox WHERE source IS NOT NULL))",
                (names, now - patience_s),
            )
        return int(cursor.rowcount)

    # -- outbox ---------------------------------------------------------------

    def _insert(self, batch: Sealed, source: Optional[int], now: float) -> None:
        if batch.slot is not None:
            self.db.execute("DELETE FROM outbox WHERE slot=?", (batch.slot,))
        self.db.execute(
            "INSERT INTO outbox(endpoint, slot, key, source, records, size, created, payload) VALUES(?,?,?,?,?,?,?,?)",
            (batch.endpoint, batch.slot, batch.key, source, batch.records, len(batch.payload), now, batch.payload),
        )

    def enqueue(self, batch: Sealed, meta: Optional[tuple[str, str]] = None) -> None:
        """Store one envelope that has no cursor (memory, snapshot), with an optional meta entry in the same transaction."""
        with self.transaction():
            self._insert(batch, batch.source, time.time())
            if meta is not None:
                self.set_meta(*meta)

    def next(self) -> Optional[OutboxRow]:
        """Return the row to send, the same one until it is acked, split or buried.

        The sandboxes take turns, and in each its sessions, so a long backlog of one session and a hundred
        thousand sessions of one sandbox keep no other waiting (contracts R18, S11). What belongs to one
        session goes in the order it was read.
        """
        fresh = False
        while True:
            if not self._turns or time.monotonic() - self._planned_at > PLAN_S:
                if fresh and not self._turns:
                    return None
                self._plan_turns()
                fresh = True
                if not self._turns:
                    return None
            session, _sandbox = self._turns[0]
            place = "source IS NULL" if session is None else "source IN (SELECT id FROM source WHERE session=?)"
            # First the number, then that one row: a sort would have all the envelopes of the session in memory.
            row = self.db.execute(
                "SELECT id, endpoint, key, payload, records, source, slot FROM outbox"
                " WHERE id=(SELECT min(id) FROM outbox WHERE %s)" % place,
                () if session is None else (session,),
            ).fetchone()
            if row is not None:
                return OutboxRow(*row)
            self._turns.popleft()

    def _plan_turns(self) -> None:
        """Put the waiting sessions into an order: one of each sandbox, then another of each; the longest unserved first."""
        boxes: dict[Optional[str], list[tuple[int, int, Optional[int]]]] = {}
        for session, sandbox, first in self.db.execute(
            "SELECT source.session, session.sandbox, min(outbox.id) FROM outbox LEFT JOIN source ON source.id=outbox.source"
            " LEFT JOIN session ON session.id=source.session GROUP BY source.session"
        ):
            boxes.setdefault(sandbox, []).append((self._served.get(session, 0), first, session))
        order = [
            (rank, self._served_boxes.get(sandbox, 0), session, sandbox)
            for sandbox, waiting in boxes.items()
            for rank, (_turn, _first, session) in enumerate(sorted(waiting, key=lambda entry: entry[:2]))
        ]
        order.sort(key=lambda entry: entry[:2])
        self._turns = collections.deque((session, sandbox) for _rank, _turn, session, sandbox in order)
        self._planned_at = time.monotonic()
        present = {session for session, _sandbox in self._turns}
        self._served = {session: turn for session, turn in self._served.items() if session in present}

    def _turn_over(self) -> None:
        """Whoever was first in turn has been served."""
        self._turn += 1
        if self._turns:
            session, sandbox = self._turns.popleft()
            self._served[session] = self._served_boxes[sandbox] = self._turn

    def ack(self, row: OutboxRow) -> None:
        with self.transaction():
            self.db.execute("DELETE FROM outbox WHERE id=?", (row.id,))
            if row.source is not None:
                self.db.execute("UPDATE source SET last_ack=? WHERE id=?", (time.time(), row.source))
            self.set_meta("last_ack", repr(time.time()))
        self._turn_over()

    def split(self, row: OutboxRow, parts: Sequence[Sealed]) -> None:
        """Replace a row that was too large by its parts, in its place in the order."""
        with self.transaction():
            self.db.execute("DELETE FROM outbox WHERE id=?", (row.id,))
            low = self.db.execute("SELECT min(id) FROM outbox").fetchone()[0]
            # Negative ids sort before everything: the parts stay ahead of what was queued after them.
            start = min(row.id, low if low is not None else row.id) - len(parts)
            for index, part in enumerate(parts):
                self.db.execute(
                    "INSERT INTO outbox(id, endpoint, slot, key, source, records, size, created, payload) VALUES(?,?,?,?,?,?,?,?,?)",
                    (start + index, part.endpoint, None, part.key, row.source, part.records, len(part.payload), time.time(), part.payload),
                )

    def dead_letter(self, row: OutboxRow, reason: str) -> None:
        """Move a row the target refused for good to the dead letters, payload included."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO dead_letter(endpoint, key, source, records, reason, at, payload) VALUES(?,?,?,?,?,?,?)",
                (row.endpoint, row.key, row.source, row.records, reason, time.time(), row.payload),
            )
            self.db.execute("DELETE FROM outbox WHERE id=?", (row.id,))
        self._turn_over()

    def outbox_size(self) -> tuple[int, int]:
        """Return (rows, bytes) that wait for an ack."""
        rows, size = self.db.execute("SELECT count(*), coalesce(sum(size), 0) FROM outbox").fetchone()
        return int(rows), int(size)

    def trim(self) -> None:
        """Give pages of acked rows back to the file system, a few at a time."""
        if int(self.db.execute("PRAGMA freelist_count").fetchone()[0]) > 1024:
            # A row per page freed: execute() would stop at the first.
            self.db.executescript("PRAGMA incremental_vacuum(1024)")

    # -- session rows (the table is their queue: version runs ahead of sent_version) -----

    def changed_sessions(self, most: int) -> list[SessionRow]:
        rows = self.db.execute(
            "SELECT id, sandbox, agent, session, stats, version FROM session WHERE version>sent_version ORDER BY id LIMIT ?", (most,)
        )
        return [SessionRow(*row) for row in rows]

    def touch_sessions(self, sessions: Sequence[int]) -> None:
        """Have the rows of these sessions sent again though no record came."""
        if sessions:
            with self.transaction():
                self.db.executemany("UPDATE session SET version=version+1 WHERE id=?", [(number,) for number in sessions])

    def enqueue_rows(self, batch: Sealed, rows: Sequence[SessionRow]) -> None:
        """Queue an upload of session rows and note up to which version each is in it."""
        with self.transaction():
            self._insert(batch, None, time.time())
            self.db.executemany("UPDATE session SET sent_version=? WHERE id=?", [(row.version, row.id) for row in rows])

    def waiting(self, endpoint: str) -> int:
        """Return how many envelopes for ENDPOINT wait for an ack."""
        return int(self.db.execute("SELECT count(*) FROM outbox WHERE endpoint=?", (endpoint,)).fetchone()[0])

    # -- what status shows ------------------------------------------------------

    def counts(self) -> dict[str, Any]:
        rows, size = self.outbox_size()
        return {
            "pending": rows,
            "pending_bytes": size,
            "quarantined": self.db.execute("SELECT count(*) FROM quarantine").fetchone()[0],
            "dead_letters": self.db.execute("SELECT count(*) FROM dead_letter").fetchone()[0],
            "oldest_pending": self.db.execute("SELECT min(created) FROM outbox").fetchone()[0],
            "last_ack": float(self.get_meta("last_ack") or 0) or None,
        }

    def source_status(self) -> list[dict[str, Any]]:
        """Return one mapping per source, as ``clawmetry status --json`` shows them."""
        return self._mappings(
            "SELECT source.id, session.sandbox, session.agent, session.session, source.name AS file, generation, offset,"
            " source.size, records, last_ack, (SELECT count(*) FROM quarantine WHERE quarantine.source=source.id) AS quarantined,"
            " (SELECT min(created) FROM outbox WHERE outbox.source=source.id) AS oldest_pending,"
            " (SELECT count(*) FROM outbox WHERE outbox.source=source.id) AS pending"
            " FROM source JOIN session ON session.id=source.session ORDER BY session.sandbox, session.agent, session.session, source.name"
        )

    def quarantined(self, most: int = 100) -> list[dict[str, Any]]:
        """Return the newest records that could not be taken: where, how long, their SHA-256, and why."""
        return self._mappings(
            "SELECT session.sandbox, session.agent, source.name AS file, quarantine.generation, quarantine.offset, length,"
            " sha256, reason, at FROM quarantine JOIN source ON source.id=quarantine.source JOIN session ON session.id=source.session"
            " ORDER BY quarantine.id DESC LIMIT ?",
            most,
        )

    def _mappings(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Return rows as mappings by column; names from a sandbox (stored as bytes) come out escaped."""
        cursor = self.db.execute(query, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, (shown(value) if isinstance(value, bytes) else value for value in row))) for row in cursor]


_CURE = "move it away to start over (everything is sent once more), or restore it"


def idempotency_key(*parts: object) -> str:
    """Return a key that is the same whenever the same parts are given: 32 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(text))
        digest.update(text)
    return digest.hexdigest()[:32]
