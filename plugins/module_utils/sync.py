# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""From a held sandbox to the queue: see what changed, read a turn, seal it, commit it with its cursor.

One SandboxSync per held sandbox. It never blocks on the network and never raises for one bad
source: a source that cannot be read is noted in ``problems`` and tried again when it changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections import ChainMap
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable, Mapping, Optional, Union

from . import wire
from .dbsync import Database
from .errors import Refused, StateError, Unreadable, shown
from .model import Sandbox
from .queue import DatabaseError, Queue, Sealed, SessionRow, SourceRow, idempotency_key
from .read import imported, index, layout, packed, tail
from .read.jsonl import Counts
from .read.routes import DATABASE_ROUTES, HeldSandbox, memory_name
from .read.sent import MAX_HASHES, SentLines
from .seal import Sealer, to_blob

LAYOUT_INTERVAL_S = 5.0
INDEX_INTERVAL_S = 15.0
MEMORY_INTERVAL_S = 5.0
# How long after a rewrite lines are still compared with what was sent: the writer may be half way.
REREAD_GRACE_S = 600.0
FORGET_AFTER_S = 3600.0
MAX_MEMORY_BYTES_PER_UPLOAD = 6 << 20
ACTIVE_S, IDLE_S = 120.0, 600.0
MAX_PROBLEMS = 100
MANY_FILES = "many files"
SLOW_SCAN_S = 0.02

Signature = tuple[int, int, int, int, int]  # ino, dev, size, mtime_ns, ctime_ns


def _signature(seen: os.stat_result) -> Signature:
    """Return what tells whether a file has changed; in 63 bits each, for a sandbox can set a time SQLite has no room for."""
    parts = (seen.st_ino, seen.st_dev, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    ino, dev, size, mtime_ns, ctime_ns = (part & 0x7FFF_FFFF_FFFF_FFFF for part in parts)
    return ino, dev, size, mtime_ns, ctime_ns


def _identified(seen: os.stat_result, row: SourceRow) -> os.stat_result:
    """Give SEEN the inode, device and change time of ROW where the route has none (archive): there a file is known by its name."""
    if seen.st_ino:
        return seen
    stamps = {"st_mtime_ns": seen.st_mtime_ns, "st_ctime_ns": row.ctime_ns}
    return os.stat_result((seen.st_mode, row.ino, row.dev, 1, 0, 0, seen.st_size, 0, int(seen.st_mtime), 0), stamps)


@dataclass
class Context:
    """What every sandbox of this process shares."""

    queue: Queue
    sealer: Sealer
    node_id: str
    compress: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic


@dataclass
class _File:
    """One transcript as last seen: its row (None until first read), and what was found in it."""

    row: SourceRow
    signature: Optional[Signature] = None
    skip: Optional[tail.Skip] = None
    sent: Optional[SentLines] = None
    reread_until: float = 0.0
    seen_at: float = 0.0
    changed_at: float = 0.0
    served_at: float = 0.0
    size: int = 0
    from_database: int = 0  # records of the session that the database had sent when this file was last read


@dataclass
class _Agent:
    """One agent's transcripts: what the directory listed, what the index said, and every file's state."""

    place: layout.Agent
    files: dict[tuple[bytes, int], _File]  # by (session, inode)
    sessions: dict[bytes, int]  # session -> id of its row, once it has one
    listing: list[tuple[bytes, layout.SessionName]]
    listing_signature: tuple[int, int] = (0, 0)
    listed_at: float = -1e9
    entries: Optional[dict[str, index.Entry]] = None
    index_signature: Optional[Signature] = None
    index_at: float = -1e9
    named: dict[bytes, SourceRow] = field(default_factory=dict)  # only where files have no inode numbers
    database: Optional[Database] = None

    @property
    def index(self) -> Mapping[str, index.Entry]:
        """What sessions.json and the database say of sessions; the database is the newer store."""
        entries = self.entries or {}
        return ChainMap(self.database.entries, entries) if self.database is not None else entries


# Something to read: an agent's file by its name, or its database.
Work = tuple[_Agent, Union[_File, Database], bytes, layout.SessionName]
_DATABASE = layout.SessionName(b"", "live")


class SandboxSync:
    """Reads one sandbox. Call scan() for the sources that have something new, turn() for each of them."""

    def __init__(self, held: HeldSandbox, context: Context) -> None:
        self.held = held
        self.context = context
        self.problems: dict[str, str] = {}
        self._refused: set[str] = set()
        self.events = self.batches = self.bytes = 0
        self._agents: dict[bytes, _Agent] = {}
        self._memory_seen: dict[bytes, tuple[Any, ...]] = {}
        self._layout_at = self._memory_at = context.clock()
        self._scan_from = 0.0
        self._quiet_at = context.clock()
        self.ended = False
        self._load_agents()

    @property
    def sandbox(self) -> Sandbox:
        return self.held.sandbox

    def close(self) -> None:
        self.held.close()

    def end(self) -> None:
        """Its first process is gone, and soon its files will be: from now on go by the names known so far.

        The engine empties a removed container's directories, so a listing shows nothing any more, while
        what is opened by name below the held root is still there.
        """
        if not self.ended:
            for agent in self._agents.values():
                known = dict(agent.listing)
                agent.listing_signature = (0, 0)
                with contextlib.suppress(FileNotFoundError, Unreadable), self.held.root.open_dir(agent.place.sessions) as directory:
                    self._list(agent, directory, self.context.clock())
                agent.listing = sorted({**known, **dict(agent.listing)}.items(), key=lambda item: item[1].order)
            self.ended = True

    def _problem(self, label: str, text: str, *, refused: bool = False) -> None:
        """Note what is wrong with a source; REFUSED is what is never opened, and so no failure of ours."""
        if label in self.problems or len(self.problems) < MAX_PROBLEMS:
            self.problems[label] = text
            (self._refused.add if refused else self._refused.discard)(label)

    def failures(self) -> dict[str, str]:
        """Return the problems that kept a sync from being complete: without what a sandbox planted for us to trip over."""
        return {label: text for label, text in self.problems.items() if label not in self._refused}

    # -- what is there -------------------------------------------------------

    def _load_agents(self) -> None:
        wanted = {agent.sessions: agent for state in self.held.states for agent in state.agents}
        for path in [path for path in self._agents if path not in wanted]:
            del self._agents[path]
        for path, place in wanted.items():
            if path not in self._agents:
                self._agents[path] = self._known_agent(place)

    def _agent_key(self, place: layout.Agent) -> bytes:
        """Cursors of two state directories of one sandbox (profiles) must not meet: the path in the sandbox tells them apart."""
        return self.held.place + b"/" + place.sessions if self.held.place else place.sessions

    def _known_agent(self, place: layout.Agent) -> _Agent:
        files: dict[tuple[bytes, int], _File] = {}
        sessions: dict[bytes, int] = {}
        for session, (session_id, rows) in self.context.queue.sources(self.sandbox.uid, self._agent_key(place)).items():
            sessions[session] = session_id
            for row in rows:
                if row.ino == 0:
                    continue  # a cursor into the database: dbsync.py
                # What the last commit saw needs no second look while the file's identity says it is the same.
                signature = (row.ino, row.dev, row.size, row.mtime_ns, row.ctime_ns) if row.mtime_ns else None
                files[(session, row.ino)] = _File(row, signature, seen_at=self.context.clock())
        agent = _Agent(place, files, sessions, [])
        agent.database = self._database(agent)
        return agent

    def _database(self, agent: _Agent) -> Database:
        """Return what reads the agent's database, whether there is one or not."""
        queue, uid, key = self.context.queue, self.sandbox.uid, self._agent_key(agent.place)

        def cursors() -> dict[bytes, SourceRow]:
            return {session: row for session, (_id, rows) in queue.sources(uid, key).items() for row in rows if row.ino == 0}

        def from_files() -> dict[bytes, int]:
            sums: dict[bytes, int] = {}
            for (session, _ino), file in agent.files.items():
                sums[session] = sums.get(session, 0) + file.row.records
            return sums

        def problem(label: str, text: Optional[str], refused: bool) -> None:
            if text is None:
                self.problems.pop(label, None)
            else:
                self._problem(label, text, refused=refused)

        return Database(
            self.held,
            agent.place.database,
            queue,
            cursors=cursors,
            session_id=lambda name: agent.sessions.get(name, 0),
            from_files=from_files,
            commit=lambda name, turn: self._commit(agent, layout.SessionName(name, "live"), turn),
            problem=problem,
            clock=self.context.clock,
        )

    def scan(self) -> list[Work]:
        """Return the sources that have changed since they were last read, in reading order. Cheap when idle.

        A sandbox with so many files that looking at them takes long is looked at less often: at most about
        a fiftieth of the time goes into it.
        """
        now = self.context.clock()
        if now < self._scan_from and not self.ended:
            return []
        # Of our own time: on a busy machine even a small sandbox takes long by the clock.
        began = time.thread_time()
        changed = self._scan(now)
        took = time.thread_time() - began
        if took > SLOW_SCAN_S and not changed:
            self._scan_from = now + took * 50
        return changed

    def _scan(self, now: float) -> list[Work]:
        if not self.ended and (now - self._layout_at >= LAYOUT_INTERVAL_S or not self.held.states):
            self._layout_at = now
            self.held.refresh()
            self._load_agents()
        changed: list[Work] = []
        for agent in self._agents.values():
            # The files of one session are read one after the other: what a later one repeats must have been sent by then.
            busy: set[bytes] = set()
            try:
                with self.held.root.open_dir(agent.place.sessions) as directory:
                    if not self.ended:
                        self._list(agent, directory, now)
                    self._read_index(agent, directory, now)
                    for name, meaning in agent.listing:
                        seen = directory.stat(name)
                        if seen is None:
                            agent.listing_signature = (0, 0)
                            continue
                        found = self._file_of(agent, name, meaning, seen, now)
                        if found is not None and meaning.session not in busy:
                            busy.add(meaning.session)
                            changed.append((agent, found, name, meaning))
                self.problems.pop(shown(agent.place.sessions), None)
            except FileNotFoundError:
                if not self.ended:
                    agent.listing = []
                    agent.listing_signature = (0, 0)
            except Unreadable as exc:
                self._problem(shown(agent.place.sessions), str(exc), refused=isinstance(exc, Refused))
            self._forget(agent, now)
            # A session's files come before its rows in the database, which repeat them after a migration.
            if agent.database is not None and agent.database.due(busy, at_once=self.ended):
                changed.append((agent, agent.database, agent.place.database, _DATABASE))
        return changed

    def _list(self, agent: _Agent, directory: Any, now: float) -> None:
        signature = directory.listing_mark()
        # Directory times are coarse on older kernels: list again now and then even when nothing moved.
        if signature == agent.listing_signature and now - agent.listed_at < LAYOUT_INTERVAL_S * 2:
            return
        listing, more = layout.session_files(directory)
        room = layout.MAX_SESSION_FILES - sum(len(other.listing) for other in self._agents.values() if other is not agent)
        if len(listing) > room:
            del listing[max(0, room) :]
            more = True
        if more:
            self._problem(MANY_FILES, "%s: more than %d; the rest is not read" % (shown(agent.place.sessions), layout.MAX_SESSION_FILES))
        else:
            self.problems.pop(MANY_FILES, None)
        if self.problems:
            # What was said of a file that is gone need not be said any longer.
            present = {shown(name) for name, _meaning in listing}
            for label in [label for label in self.problems if label.endswith(".jsonl") and label not in present]:
                del self.problems[label]
        agent.listing, agent.listing_signature, agent.listed_at = listing, signature, now

    def _file_of(self, agent: _Agent, name: bytes, meaning: layout.SessionName, seen: os.stat_result, now: float) -> Optional[_File]:
        """Return the state of a listed file when it is to be read, None when nothing changed."""
        if not seen.st_ino:
            seen = _identified(seen, self._row_named(agent, name))
        signature = _signature(seen)
        key = (meaning.session, signature[0])
        known = agent.files.get(key)
        if known is not None:
            known.seen_at, known.size, known.row.name = now, seen.st_size, name
            if known.signature == signature:
                return None
            known.changed_at = now
            return known
        if not stat.S_ISREG(seen.st_mode):
            self._problem(shown(name), "not a regular file: refused", refused=True)
            return None
        if seen.st_size == 0:
            return None
        row = SourceRow(0, agent.sessions.get(meaning.session, 0), name, signature[0], signature[1])
        known = _File(row, seen_at=now, changed_at=now, size=seen.st_size)
        agent.files[key] = known
        return known

    @staticmethod
    def _row_named(agent: _Agent, name: bytes) -> SourceRow:
        """Return the row last known by NAME, else one with a number made of the name. The marker will tell if it is another file."""
        if name not in agent.named:
            rows = [file.row for file in agent.files.values() if file.row.name == name]
            number = int.from_bytes(hashlib.sha256(name).digest()[:7], "big") | 1
            agent.named[name] = max(rows, key=lambda row: row.id) if rows else SourceRow(0, 0, name, number, 0)
        return agent.named[name]

    def _forget(self, agent: _Agent, now: float) -> None:
        """Drop what has been gone for an hour, so that state stays as small as the sandbox."""
        if now - agent.listed_at > 0.5:
            return
        stale = [
            key for key, file in agent.files.items() if now - file.seen_at > FORGET_AFTER_S or (not file.row.id and file.seen_at < now)
        ]
        if stale:
            self.context.queue.forget_sources([agent.files.pop(key).row.id for key in stale])
            agent.named.clear()
            kept = {session for session, _ino in agent.files}
            kept.update(agent.database.sessions if agent.database is not None else ())
            agent.sessions = {session: number for session, number in agent.sessions.items() if session in kept}

    def _read_index(self, agent: _Agent, directory: Any, now: float, interval_s: float = INDEX_INTERVAL_S) -> None:
        """Read sessions.json when it changed, not more often than is useful: it is rewritten many times a turn."""
        if now - agent.index_at < interval_s and agent.entries is not None:
            return
        seen = directory.stat(b"sessions.json")
        if seen is None or _signature(seen) == agent.index_signature:
            agent.entries = agent.entries or {}
            return
        agent.index_at = now
        try:
            data, read = directory.read_small(b"sessions.json", index.MAX_INDEX_BYTES + 1)
        except (FileNotFoundError, Unreadable) as exc:
            self._problem("sessions.json", str(exc))
            agent.entries = agent.entries or {}
            return
        parsed = index.parse(data) if len(data) <= index.MAX_INDEX_BYTES else None
        if parsed is None:
            agent.entries = agent.entries or {}
            return
        before, agent.entries, agent.index_signature = agent.entries or {}, parsed, _signature(read)
        names = ((number, session.decode("utf-8", "replace")) for session, number in agent.sessions.items())
        self.context.queue.touch_sessions([number for number, name in names if before.get(name) != parsed.get(name)])

    def sizes(self) -> dict[int, tuple[int, float]]:
        """Return {source id: (size as last seen, seconds since it changed)} for status."""
        now = self.context.clock()
        found: dict[int, tuple[int, float]] = {}
        for agent in list(self._agents.values()):
            for file in list(agent.files.values()):
                if file.row.id and file.size:
                    found[file.row.id] = (file.size, now - file.changed_at if file.changed_at else 0.0)
            if agent.database is not None:
                for session in list(agent.database.sessions.values()):
                    if session.row.id:
                        # Rows of a database count as bytes of a file do: what is there, and what of it was taken.
                        found[session.row.id] = (session.row.size, now - session.changed_at if session.changed_at else 0.0)
        return found

    # -- one turn -------------------------------------------------------------

    def turn(self, agent: _Agent, file: Union[_File, Database], name: bytes, meaning: layout.SessionName) -> bool:
        """Read, seal and commit one turn of a source. True when it has more to take at once."""
        if isinstance(file, Database):
            return file.turn()
        label = shown(name)
        file.served_at = self.context.clock()
        try:
            with self.held.root.open_dir(agent.place.sessions) as directory:
                fd = directory.open_file(name)
                seen = _identified(directory.fstat(fd), file.row)
                if file.row.id == 0:
                    # A new session's batches should carry what the index says of it from the first one on.
                    self._read_index(agent, directory, file.served_at, 1.0)
        except FileNotFoundError:
            return False
        except Unreadable as exc:
            self._problem(label, str(exc), refused=isinstance(exc, Refused))
            if isinstance(exc, Refused):
                # Nothing to read in there, ever; look again only when the entry changes.
                entry = self._stat(agent, name)
                file.signature = _signature(_identified(entry, file.row)) if entry is not None else None
            return False
        try:
            read = self._packed_turn if meaning.packed else self._turn
            more = read(fd, seen, agent, file, meaning)
            self.problems.pop(label, None)
            return more
        except Exception as exc:
            # Whatever came between, the turn was not stored, so it did not happen.
            self._reload(agent, file, meaning)
            if isinstance(exc, (StateError, DatabaseError)):
                raise  # our own disk
            # What was not foreseen stays with this source; its message may quote content.
            text = str(exc) if isinstance(exc, (Unreadable, OSError)) else "unexpected %s" % type(exc).__name__
            self._problem(label, text, refused=isinstance(exc, Refused))
            if meaning.packed:
                # Not again and again: when it changes, or after the next start.
                file.signature = _signature(seen)
            return False
        finally:
            os.close(fd)

    def _stat(self, agent: _Agent, name: bytes) -> Optional[os.stat_result]:
        try:
            with self.held.root.open_dir(agent.place.sessions) as directory:
                return directory.stat(name)
        except (FileNotFoundError, Unreadable):
            return None

    def _turn(self, fd: int, seen: os.stat_result, agent: _Agent, file: _File, meaning: layout.SessionName) -> bool:
        row = file.row
        now = self.context.clock()
        if _signature(seen)[0] != row.ino:
            return False  # replaced between listing and opening: the next scan sees the new one
        if seen.st_size == 0 and row.offset:
            # Emptied for a moment while it is rewritten, or for good: either way there is nothing to take.
            file.signature = _signature(seen)
            return False
        if row.offset and not tail.still_fits(fd, row, seen.st_size):
            self._new_generation(row)
            file.skip, file.sent = None, None
            file.reread_until = now + REREAD_GRACE_S
        if file.skip is not None and file.skip.scanned > seen.st_size:
            file.skip = None
        if row.id == 0:
            row.session = agent.sessions.get(meaning.session, 0)
            # A second file of a session may repeat what the first one held (.bak, compaction, replacement).
            row.rereading = bool(row.session and self.context.queue.sent_hashes(row.session, 1))
            self._start_behind_import(fd, agent, row, meaning, seen.st_size)
        from_database = agent.database.sent_of(meaning.session) if agent.database is not None else 0
        if from_database > file.from_database:
            # The same events may be in both stores: from here on leave out what went from the other.
            file.from_database, file.sent, row.rereading = from_database, None, True
            file.reread_until = now + REREAD_GRACE_S
        sent = self._sent_lines(fd, file, now)
        counts = Counts(self.context.queue.stats(row.session))
        row.dev = _signature(seen)[1]
        before = row.offset
        turn = tail.read_turn(fd, row, seen.st_size, counts, sent, file.skip)
        row.size, row.mtime_ns, row.ctime_ns = _signature(seen)[2:]
        if turn.more:
            row.mtime_ns = 0  # not "nothing changed" after a restart
        if row.offset != before or turn.batches or turn.poison or row.id == 0:
            self._commit(agent, meaning, turn)
        file.skip = turn.skip
        file.signature = None if turn.more else _signature(seen)
        return turn.more

    def _start_behind_import(self, fd: int, agent: _Agent, row: SourceRow, meaning: layout.SessionName, size: int) -> None:
        """Begin a new source where a cursor says that ``clawmetry adopt`` has imported, if there is one for it."""
        identity = (self.sandbox.uid, self._agent_key(agent.place), meaning.session)
        first = not any(other.row.id and other.row.name == row.name for other in agent.files.values())
        kind = (self.sandbox.type, self.sandbox.name)
        if imported.start(fd, size, row, self.context.queue, identity, kind, agent.place.agent, first):
            agent.sessions[meaning.session] = row.session

    def _packed_turn(self, fd: int, seen: os.stat_result, agent: _Agent, file: _File, meaning: layout.SessionName) -> bool:
        """As _turn, for a compressed file: it never changes, and nearly all of it was sent before."""
        signature = _signature(seen)
        row = file.row
        if signature[0] != row.ino:
            return False
        if self.held.route not in DATABASE_ROUTES:
            raise Refused("compressed transcripts are not read through the route " + self.held.route)
        if file.sent is None:
            # Also after a restart in the middle: what has gone out by then is among what was sent.
            row.session = row.session or agent.sessions.get(meaning.session, 0)
            row.offset, row.rereading = 0, True
            file.sent = SentLines(self.context.queue.sent_hashes(row.session, MAX_HASHES))
        with self.held.root.open_dir(agent.place.sessions) as directory:
            data, whole = packed.piece(self.held.root, directory, fd, row.offset, row.name)
        turn = tail.Turn(row, [], [], b"", Counts(self.context.queue.stats(row.session)), not whole, None)
        hashes: list[bytes] = []
        tail.take(tail.spans(data.split(b"\n")[:-1], row.offset), turn, hashes, file.sent)
        turn.hashes = b"".join(hashes)
        row.offset += len(data)
        row.rereading = not whole
        row.dev, row.size = signature[1:3]
        row.mtime_ns, row.ctime_ns = signature[3:] if whole else (0, 0)
        self._commit(agent, meaning, turn)
        if whole:
            file.sent, file.signature = None, signature
        return turn.more

    def _commit(self, agent: _Agent, meaning: layout.SessionName, turn: tail.Turn) -> None:
        """Seal what a turn took and store it with its cursor."""
        sealed = [self._seal(agent, meaning, turn.row, batch) for batch in turn.batches]
        counted = turn.counts.text() if turn.batches else None
        identity = (self.sandbox.uid, self._agent_key(agent.place), meaning.session)
        self.context.queue.commit_turn(turn.row, identity, sealed, turn.hashes, turn.poison, counted)
        agent.sessions[meaning.session] = turn.row.session
        self.batches += len(sealed)
        self.bytes += sum(len(batch.payload) for batch in sealed)
        self.events += sum(batch.records for batch in sealed)

    @staticmethod
    def _new_generation(row: SourceRow) -> None:
        row.generation += 1
        row.offset, row.marker, row.rereading = 0, b"", True

    def _sent_lines(self, fd: int, file: _File, now: float) -> Optional[SentLines]:
        """Return what was sent of this session while its file is read a second time, None in the usual case."""
        row = file.row
        if not row.rereading:
            file.sent = None
            return None
        if file.sent is None:
            file.sent = SentLines(self.context.queue.sent_hashes(row.session, MAX_HASHES))
            if row.offset:
                tail.count_prefix(fd, row.offset, file.sent)
            file.reread_until = file.reread_until or now + REREAD_GRACE_S
        elif now > file.reread_until:
            row.rereading, file.sent = False, None
        return file.sent

    def _reload(self, agent: _Agent, file: _File, meaning: layout.SessionName) -> None:
        """Throw away a row that an abandoned turn has changed; the stored cursor is the truth."""
        file.signature, file.skip, file.sent = None, None, None
        try:
            stored = self.context.queue.sources(self.sandbox.uid, self._agent_key(agent.place)).get(meaning.session)
        except DatabaseError:
            # It cannot be asked now: all of this agent is loaded anew once it can.
            self._agents.pop(agent.place.sessions, None)
            self._layout_at = float("-inf")
            raise
        for row in stored[1] if stored else ():
            if row.ino == file.row.ino:
                file.row = row
                return
        session = agent.sessions.get(meaning.session, 0)
        file.row = SourceRow(0, session, file.row.name, file.row.ino, file.row.dev, rereading=file.row.rereading)

    def _seal(self, agent: _Agent, meaning: layout.SessionName, row: SourceRow, batch: tail.Batch) -> Sealed:
        session = meaning.session.decode("utf-8", "backslashreplace")
        entry = agent.index.get(session)
        key = idempotency_key(
            self.sandbox.uid,
            self._agent_key(agent.place),
            meaning.session,
            row.ino,
            row.generation,
            batch.start,
            batch.end,
            batch.lines[0],
            batch.lines[-1],
        )
        records = len(batch.lines)

        def plaintext() -> bytes:
            """The batch as one text; its lines are let go, for one of 8 MiB is not to be there twice."""
            lines, batch.lines = batch.lines, []
            return wire.events(
                node_id=self.context.node_id,
                session_file=session + ".jsonl",
                lines=lines,
                source=self._source(agent.place.agent),
                subagent_id=entry.subagent_id if entry is not None else None,
            )

        return Sealed(wire.EVENTS, key, self.context.sealer.seal(plaintext(), compress=self.context.compress()), records)

    def _source(self, agent: Optional[bytes]) -> dict[str, Optional[str]]:
        source: dict[str, Optional[str]] = {
            "sandbox.name": self.sandbox.name,
            "sandbox.type": self.sandbox.type,
            "sandbox.id": self.sandbox.uid,
        }
        if agent is not None:
            source["agent"] = agent.decode("utf-8", "backslashreplace")
        return source

    # -- memory files ------------------------------------------------------------

    def memory(self, *, at_once: bool = False) -> bool:
        """Enqueue the sandbox's memory files when any of them changed. True when something was stored."""
        now = self.context.clock()
        if not at_once and now - self._memory_at < MEMORY_INTERVAL_S:
            return False
        self._memory_at = now
        found = [
            (workspace, name, seen)
            for state in self.held.states
            for workspace in state.workspaces
            for name, seen in layout.memory_files(self.held.root, workspace)
        ]
        seen_now: dict[bytes, tuple[Any, ...]] = {workspace + b"/" + name: _signature(seen) for workspace, name, seen in found}
        if seen_now == self._memory_seen or not found:
            return False
        files, left, whole = [], MAX_MEMORY_BYTES_PER_UPLOAD, True
        for workspace, name, _seen in found:
            path = workspace + b"/" + name
            try:
                data, read = self.held.root.read_small(path, min(left, wire.MAX_MEMORY_CHARS * 4))
                self.problems.pop(shown(path), None)
            except FileNotFoundError:
                continue
            except Unreadable as exc:
                self._problem(shown(path), str(exc), refused=isinstance(exc, Refused))
                whole = whole and isinstance(exc, Refused)
                continue
            left -= len(data)
            files.append(
                {
                    "name": memory_name(workspace, name).decode("utf-8", "backslashreplace"),
                    "size": read.st_size,
                    "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0, min(read.st_mtime, 2**33)))),
                    "content": data.decode("utf-8", "replace")[: wire.MAX_MEMORY_CHARS],
                }
            )
        if whole:
            self._memory_seen = seen_now  # else it is looked at again, though nothing changes
        if not files:
            return False
        plaintext = wire.memory(node_id=self.context.node_id, files=files, source=self._source(None))
        digest = idempotency_key(self.sandbox.uid, plaintext)
        slot = "memory:" + self.sandbox.uid
        if self.context.queue.get_meta(slot) == digest:
            return False
        envelope = self.context.sealer.seal(plaintext, compress=self.context.compress())
        self.context.queue.enqueue(Sealed(wire.MEMORY, digest, envelope, len(files), slot=slot), meta=(slot, digest))
        self.batches += 1
        self.bytes += len(envelope)
        return True

    # -- session rows ----------------------------------------------------------------

    def session_row(self, stored: SessionRow) -> Optional[dict[str, Any]]:
        """Return the row of /ingest/sessions for one of our sessions: counts in the clear, its title sealed."""
        agent = next((item for item in self._agents.values() if self._agent_key(item.place) == stored.agent), None)
        return session_row(stored, agent.index if agent is not None else {}, self.sandbox, self.context.sealer)

    def quiet_sessions(self) -> None:
        """Mark the rows of sessions that have just become idle or ended, so that their new status is sent."""
        now, before = self.context.clock(), self._quiet_at
        self._quiet_at = now
        self.context.queue.touch_sessions(
            [
                file.row.session
                for agent in self._agents.values()
                for file in [*agent.files.values(), *(agent.database.sessions.values() if agent.database is not None else ())]
                if file.changed_at and any(before < file.changed_at + limit <= now for limit in (ACTIVE_S, IDLE_S))
            ]
        )


def session_row(stored: SessionRow, entries: Mapping[str, index.Entry], sandbox: Optional[Sandbox], sealer: Sealer) -> dict[str, Any]:
    """Return one row of /ingest/sessions (reference/clawmetry.md §1 "Session row")."""
    counts = Counts(stored.stats)
    session = stored.session.decode("utf-8", "backslashreplace")
    entry = entries.get(session)
    key = index.public_key(entry.key, sealer.pseudonym) if entry is not None else None
    title = None
    if entry is not None and entry.title:
        title = to_blob(sealer.seal(wire.dumps({"display_name": entry.title}))).decode("ascii")
    return {
        "session_id": session,
        "display_name": key or shown(session)[:8],
        "display_name_blob": title,
        "session_key": key,
        "channel": shown(entry.channel) if entry is not None and entry.channel else None,
        "chat_type": shown(entry.chat_type) if entry is not None and entry.chat_type else None,
        "status": _status(counts.updated),
        "model": counts.main_model,
        "recent_model": counts.model,
        "runtime": "openclaw",
        "total_tokens": counts.tokens,
        "total_cost": counts.cost,
        "started_at": counts.started,
        "updated_at": counts.updated,
        "event_count": counts.events,
        "size_bytes": counts.bytes,
        "sandbox.name": sandbox.name if sandbox is not None else None,
        "sandbox.type": sandbox.type if sandbox is not None else None,
    }


def _status(updated: Optional[str]) -> Optional[str]:
    """Return active, idle or ended by the age of the last record; None when it has no readable time."""
    try:
        stamp = datetime.fromisoformat((updated or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=timezone.utc)
    age = (datetime.now(timezone.utc) - stamp).total_seconds()
    return "active" if age < ACTIVE_S else "idle" if age < IDLE_S else "ended"
