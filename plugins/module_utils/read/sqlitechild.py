# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The program that opens a sandbox's SQLite database, or inflates a compressed transcript.

It is a fresh, confined interpreter that lives for less than a second and shares nothing with the daemon: no memory
(where the keys are), no descriptors but two directories, no environment. Once all it needs is imported it moves into
the sandbox's root, becomes the owner of the database, gives up every privilege, limits itself, and only then touches
the file; so it can do at the most what the agent itself can. It only reads: mode=ro, and the -shm that a live writer
shares is mapped read-only.

Request (JSON on stdin) and answer (frames on stdout, only after the database is closed) are described in
sqlitestore.py. This file is also that program's whole source: the standard library, zstandard, no relative imports.
Source of tables and rules: reference/openclaw.md §3 (agent schema 23; columns it does not need may come and go).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import os
import re
import resource
import signal
import stat
import struct
import sys
import time
from typing import Any, BinaryIO, Callable, Iterator, Optional

try:
    import sqlite3
except ImportError:  # a Python built without it
    HAS_SQLITE = False
else:
    HAS_SQLITE = True

EVENTS, WATERMARKS, NODES, WINDOWS = "transcript_events", "transcript_rewrite_watermarks", "session_nodes", "session_windows"
# All that is ever read. The database also holds secrets (auth_profile_store): nothing else is authorised.
COLUMNS = {
    EVENTS: ("session_id", "seq", "event_json", "event_zstd", "event_utf8_bytes"),
    WATERMARKS: ("session_id", "generation"),
    NODES: ("session_key", "current_session_id", "display_name", "label", "status"),
    WINDOWS: ("session_id", "session_key", "channel", "chat_type"),
}
MAX_EVENT_BYTES = 8 << 20
MAX_ROWS = 5000  # of one session and transaction
MAX_TOUCHED = 2000
MAX_SCHEMA_ROWS, MAX_SCHEMA_BYTES = 5000, 8 << 20
MAX_SEQ = 1 << 62
READ_S = 0.6  # all transactions together; the writer's WAL is not held up longer than this
LIFE_S = 0.95  # from opening to closing, whatever happens
MEMORY_BYTES = 160 << 20  # address space; an event of 8 MiB takes about 75
CPU_S = 3
REASON_NO_TRANSCRIPTS = "no transcripts in it"
OLDEST_SQLITE = (3, 37)  # knows STRICT tables
SIDECARS = (b"", b"-wal", b"-shm", b"-journal")

HEADER = struct.Struct(">cI")  # kind, length of what follows
ROW = struct.Struct(">Iq")  # index of the session asked for, seq; then the event's bytes
ANCHOR_BYTES = 8

Decoder = Callable[[BinaryIO], Any]
Signature = tuple[tuple[int, int, int, int], ...]


class Refusal(Exception):
    """What was found is never read, as no honest writer makes it; the message is the reason."""


class NotNow(Exception):
    """It cannot be read here and now; the message is the reason."""


class Unfit(Exception):
    """One event cannot be taken: (length, SHA-256 of what stands for it, reason)."""


def _decoder() -> Optional[Decoder]:
    """Return what opens a stream of zstd as one of what it holds, None when there is no decoder."""
    window_log = 23  # a frame may ask for a window as large as the largest event, not for gigabytes
    try:
        zstd = importlib.import_module("compression.zstd")  # of Python 3.14 and newer
        options = {zstd.DecompressionParameter.window_log_max: window_log}
        return lambda source: zstd.ZstdFile(source, options=options)
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        return None
    return lambda source: zstandard.ZstdDecompressor(max_window_size=1 << window_log).stream_reader(source)


def _read(stream: Any, most: int) -> bytes:
    """Return the next MOST bytes of STREAM, fewer only at its end."""
    pieces = []
    while most > 0:
        piece = stream.read(min(most, 1 << 20))
        if not piece:
            break
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


# -- confinement ---------------------------------------------------------------------

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 28, 38, 47
# Capabilities outlive a change of user, and count in access(2), which SQLite asks for files that are not ours.
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


def confine(root: Optional[int], directory: int, uid: int, gid: int, keep: int) -> None:
    """Move into ROOT (None: stay), stand in DIRECTORY, become UID, drop every capability not in the set KEEP, limit ourselves.

    Raises OSError, Refusal.
    """
    # When memory runs out in the service's group, it is this process that has to go.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")
    if root is not None:
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
    os.fchdir(directory)
    os.close(directory)
    if not os.getcwd().startswith("/"):
        raise Refusal("its directory is not below the sandbox's root")
    libc = ctypes.CDLL(None, use_errno=True)
    if root is not None:
        if keep:
            libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        for number in range(64):
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # needs CAP_SETPCAP; without it no_new_privs has to do
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    kept = (ctypes.c_uint32 * 6)(keep, keep)  # effective, permitted, inheritable; then the same of numbers from 32
    if libc.capset(head, kept) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise Refusal("privileges could not be dropped")
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise Refusal("privileges could not be dropped")
    # Nothing of the sandbox is ever loaded: from here on there is no way to import.
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []


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


# -- the database -----------------------------------------------------------------------


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


class Reader:
    """Answers one request from an open database into a list of frames, headers and payloads by turns."""

    def __init__(self, db: Any, tables: dict[str, frozenset[str]], deadline: float, budget: int) -> None:
        self.db = db
        self.tables = tables
        self.deadline = deadline
        self.budget = budget
        self.frames: list[bytes] = []
        self.inflate = DECODER
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
            data = _read(self.inflate(io.BytesIO(packed)), most + 1)
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


def answer(request: dict[str, Any]) -> list[bytes]:
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
            reader = Reader(db, tables, deadline, request["budget"])
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


def inflated(request: dict[str, Any]) -> list[bytes]:
    """Return the frames for a request about a compressed file: a piece "d" of what it holds from an offset on, then "e"."""
    end: dict[str, Any] = {"whole": False, "reason": None}
    data = b""
    try:
        if DECODER is None:
            raise NotNow("it needs the Python package zstandard")
        with open(request["inflate"], "rb", closefd=False) as packed:
            stream = DECODER(packed)
            left = request["offset"]
            while left > 0:
                passed = len(stream.read(min(left, 1 << 20)))
                if not passed:
                    raise NotNow("it holds less than before")
                left -= passed
            data = _read(stream, request["budget"])
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
    if not HAS_SQLITE:
        raise SystemExit("this Python has no sqlite3")
    confine(request["root"], request["directory"], request["uid"], request["gid"], request["keep"])
    # A transaction that hangs (a stuck disk, a stopped process) must not pin the writer's WAL: the kernel ends us, locks and all.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, LIFE_S)
    frames = inflated(request) if "inflate" in request else answer(request)
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.buffer.writelines(frames)
    sys.stdout.buffer.flush()


DECODER: Optional[Decoder] = None
if __name__ == "__main__":
    sys.path.extend(sys.argv[1:])
    DECODER = _decoder()
    main()
