# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What has changed in a sandbox since it was last read: cheap when nothing has."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from typing import Any, Optional

from ..errors import Refused, Unreadable, shown
from ..queue import SourceRow
from ..read import index, layout
from ..read.routes import HeldSandbox
from .database import Database
from .sealing import Sealing
from .state import DATABASE, Agent, Context, File, Work, identified, signature_of

LAYOUT_INTERVAL_S = 5.0
INDEX_INTERVAL_S = 15.0
FORGET_AFTER_S = 3600.0
MANY_FILES = "many files"
SLOW_SCAN_S = 0.02
# What a session has sent is held for a file that is compared with it; not for longer than this after its last turn.
SENT_IDLE_S = 120.0


class Watch(Sealing):
    """Knows the agents and files of one sandbox, and finds those that have something new."""

    def __init__(self, held: HeldSandbox, context: Context) -> None:
        super().__init__(held, context)
        self.ended = False
        self._agents: dict[bytes, Agent] = {}
        self._layout_at = context.clock()
        self._scan_from = 0.0
        self._load_agents()

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

    # -- what is there -------------------------------------------------------

    def _load_agents(self) -> None:
        wanted = {agent.sessions: agent for state in self.held.states for agent in state.agents}
        for path in [path for path in self._agents if path not in wanted]:
            del self._agents[path]
        for path, place in wanted.items():
            if path not in self._agents:
                self._agents[path] = self._known_agent(place)

    def _known_agent(self, place: layout.Agent) -> Agent:
        files: dict[tuple[bytes, int], File] = {}
        sessions: dict[bytes, int] = {}
        for session, (session_id, rows) in self.context.queue.sources(self.sandbox.uid, self._agent_key(place)).items():
            sessions[session] = session_id
            names = [row.name for row in rows]
            for row in rows:
                if row.ino == 0:
                    continue  # a cursor into the database: database.py
                # What the last commit saw needs no second look while the file's identity says it is the same.
                signature = (row.ino, row.dev, row.size, row.mtime_ns, row.ctime_ns) if row.mtime_ns else None
                # Two of one name: it was replaced. The old one's inode may be in use again, for what the other one has sent.
                row.rereading = row.rereading or names.count(row.name) > 1
                files[(session, row.ino)] = File(row, signature, seen_at=self.context.clock())
        agent = Agent(place, files, sessions, [])
        agent.database = self._database(agent)
        return agent

    def _database(self, agent: Agent) -> Database:
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
                self.problem(label, text, refused=refused)

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
                    files, scanned_at = agent.files, agent.scanned_at
                    for name, meaning in agent.listing:
                        seen = directory.stat(name)
                        if seen is None:
                            agent.listing_signature = (0, 0)
                            continue
                        # Nearly always nothing has changed; _file_of would find the same.
                        file = files.get((meaning.session, seen.st_ino))
                        if (
                            file is not None
                            and file.seen_at == scanned_at
                            and file.sent is None
                            and file.signature == (seen.st_ino, seen.st_dev, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
                        ):
                            file.seen_at = now
                            continue
                        found = self._file_of(agent, name, meaning, seen, now)
                        if found is not None and meaning.session not in busy:
                            busy.add(meaning.session)
                            changed.append((agent, found, name, meaning))
                self.problems.pop(shown(agent.place.sessions), None)
                agent.scanned_at = now
            except FileNotFoundError:
                if not self.ended:
                    agent.listing = []
                    agent.listing_signature = (0, 0)
            except Unreadable as exc:
                self.problem(shown(agent.place.sessions), str(exc), refused=isinstance(exc, Refused))
            self._forget(agent, now)
            # A session's files come before its rows in the database, which repeat them after a migration.
            if agent.database is not None and agent.database.due(busy, at_once=self.ended):
                changed.append((agent, agent.database, agent.place.database, DATABASE))
        return changed

    def _list(self, agent: Agent, directory: Any, now: float) -> None:
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
            self.problem(MANY_FILES, "%s: more than %d; the rest is not read" % (shown(agent.place.sessions), layout.MAX_SESSION_FILES))
        else:
            self.problems.pop(MANY_FILES, None)
        if self.problems:
            # What was said of a file that is gone need not be said any longer.
            present = {shown(name) for name, _meaning in listing}
            for label in [label for label in self.problems if label.endswith(".jsonl") and label not in present]:
                del self.problems[label]
        agent.listing, agent.listing_signature, agent.listed_at = listing, signature, now

    def _file_of(self, agent: Agent, name: bytes, meaning: layout.SessionName, seen: os.stat_result, now: float) -> Optional[File]:
        """Return the state of a listed file when it is to be read, None when nothing changed."""
        if not seen.st_ino:
            seen = identified(seen, self._row_named(agent, name))
        signature = signature_of(seen)
        key = (meaning.session, signature[0])
        known = agent.files.get(key)
        if known is not None:
            if known.seen_at < agent.scanned_at and meaning.session in agent.several(now):
                # It was gone: an inode in use again may go on with what another file of the session has sent meanwhile.
                known.row.rereading, known.sent, known.reread_until = True, None, float("inf")
            known.seen_at, known.size, known.row.name = now, seen.st_size, name
            if known.signature == signature:
                if known.sent is not None and now - known.served_at > SENT_IDLE_S:
                    known.sent = None  # a file that was set aside never asks for it again
                return None
            known.changed_at = now
            return known
        if not stat.S_ISREG(seen.st_mode):
            self.problem(shown(name), "not a regular file: refused", refused=True)
            return None
        if seen.st_size == 0:
            return None
        row = SourceRow(0, agent.sessions.get(meaning.session, 0), name, signature[0], signature[1])
        known = File(row, seen_at=now, changed_at=now, size=seen.st_size)
        agent.files[key] = known
        return known

    @staticmethod
    def _row_named(agent: Agent, name: bytes) -> SourceRow:
        """Return the row last known by NAME, else one with a number made of the name. The marker will tell if it is another file."""
        if name not in agent.named:
            rows = [file.row for file in agent.files.values() if file.row.name == name]
            number = int.from_bytes(hashlib.sha256(name).digest()[:7], "big") | 1
            agent.named[name] = max(rows, key=lambda row: row.id) if rows else SourceRow(0, 0, name, number, 0)
        return agent.named[name]

    def _forget(self, agent: Agent, now: float) -> None:
        """Drop what has been gone for an hour, so that state stays as small as the sandbox."""
        if now - agent.listed_at > 0.5:
            return
        stale = []
        for key, file in agent.files.items():
            if file.seen_at < now:
                file.sent = None  # replaced: nothing is compared with it any more
                if now - file.seen_at > FORGET_AFTER_S or not file.row.id:
                    stale.append(key)
        if stale:
            waiting = self.context.queue.forget_sources([agent.files[key].row.id for key in stale])
            for key in stale:
                if agent.files[key].row.id not in waiting:
                    del agent.files[key]
            agent.named.clear()
            kept = {session for session, _ino in agent.files}
            kept.update(agent.database.sessions if agent.database is not None else ())
            agent.sessions = {session: number for session, number in agent.sessions.items() if session in kept}

    def _read_index(self, agent: Agent, directory: Any, now: float, interval_s: float = INDEX_INTERVAL_S) -> None:
        """Read sessions.json when it changed, not more often than is useful: it is rewritten many times a turn."""
        if now - agent.index_at < interval_s and agent.entries is not None:
            return
        seen = directory.stat(b"sessions.json")
        if seen is None or signature_of(seen) == agent.index_signature:
            agent.entries = agent.entries or {}
            return
        agent.index_at = now
        try:
            data, read = directory.read_small(b"sessions.json", index.MAX_INDEX_BYTES + 1)
        except (FileNotFoundError, Unreadable) as exc:
            self.problem("sessions.json", str(exc))
            agent.entries = agent.entries or {}
            return
        parsed = index.parse(data) if len(data) <= index.MAX_INDEX_BYTES else None
        if parsed is None:
            agent.entries = agent.entries or {}
            return
        before, agent.entries, agent.index_signature = agent.entries or {}, parsed, signature_of(read)
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
