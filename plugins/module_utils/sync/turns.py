# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""One turn of a source: open, read on from its cursor, seal, commit. All of it happens, or nothing."""

from __future__ import annotations

import os
from typing import Optional, Union

from ..errors import Refused, StateError, Unreadable, shown
from ..queue import DatabaseError, SourceRow
from ..read import imported, layout, packed, tail
from ..read.jsonl import Counts
from ..read.routes import DATABASE_ROUTES
from ..read.sent import MAX_HASHES, SentLines
from .database import Database
from .state import Agent, File, identified, signature_of
from .watch import Watch

# How long after its last repeated line a rewritten file is still compared with what was sent: the writer may be half way.
REREAD_GRACE_S = 600.0


class Turns(Watch):
    """Reads the files that Watch finds; a database reads itself."""

    def turn(
        self, agent: Agent, file: Union[File, Database], name: bytes, meaning: layout.SessionName, room: int = tail.TURN_BYTES
    ) -> bool:
        """Read, seal and commit one turn of a source, of about ROOM bytes. True when it has more to take at once."""
        if isinstance(file, Database):
            return file.turn()
        label = shown(name)
        file.served_at = self.context.clock()
        try:
            with self.held.root.open_dir(agent.place.sessions) as directory:
                fd = directory.open_file(name)
                seen = identified(directory.fstat(fd), file.row)
                if file.row.id == 0:
                    # A new session's batches should carry what the index says of it from the first one on.
                    self._read_index(agent, directory, file.served_at, 1.0)
        except FileNotFoundError:
            return False
        except Unreadable as exc:
            self.problem(label, str(exc), refused=isinstance(exc, Refused))
            if isinstance(exc, Refused):
                # Nothing to read in there, ever; look again only when the entry changes.
                entry = self._stat(agent, name)
                file.signature = signature_of(identified(entry, file.row)) if entry is not None else None
            return False
        try:
            more = self._packed_turn(fd, seen, agent, file, meaning) if meaning.packed else self._turn(fd, seen, agent, file, meaning, room)
            self.problems.pop(label, None)
            return more
        except Exception as exc:
            # Whatever came between, the turn was not stored, so it did not happen.
            self._reload(agent, file, meaning)
            if isinstance(exc, (StateError, DatabaseError)):
                raise  # our own disk
            # What was not foreseen stays with this source; its message may quote content.
            text = str(exc) if isinstance(exc, (Unreadable, OSError)) else "unexpected %s" % type(exc).__name__
            self.problem(label, text, refused=isinstance(exc, Refused))
            if meaning.packed:
                # Not again and again: when it changes, or after the next start.
                file.signature = signature_of(seen)
            return False
        finally:
            os.close(fd)

    def _stat(self, agent: Agent, name: bytes) -> Optional[os.stat_result]:
        try:
            with self.held.root.open_dir(agent.place.sessions) as directory:
                return directory.stat(name)
        except (FileNotFoundError, Unreadable):
            return None

    def _turn(self, fd: int, seen: os.stat_result, agent: Agent, file: File, meaning: layout.SessionName, room: int) -> bool:
        row = file.row
        now = self.context.clock()
        if signature_of(seen)[0] != row.ino:
            return False  # replaced between listing and opening: the next scan sees the new one
        if seen.st_size == 0 and row.offset:
            # Emptied for a moment while it is rewritten, or for good: either way there is nothing to take.
            file.signature = signature_of(seen)
            return False
        if row.offset and not tail.still_fits(fd, row, seen.st_size):
            self._new_generation(row)
            file.skip, file.sent, file.reread_until = None, None, float("inf")
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
            file.from_database, file.sent, row.rereading, file.reread_until = from_database, None, True, float("inf")
        sent = self._sent_lines(fd, file, now)
        left = sent.left if sent is not None else 0
        counts = Counts(self.context.queue.stats(row.session))
        row.dev = signature_of(seen)[1]
        before = row.offset
        turn = tail.read_turn(fd, row, seen.st_size, counts, sent, file.skip, room)
        if sent is not None:
            self._compared(file, turn.more, sent.left < left, now)
        row.size, row.mtime_ns, row.ctime_ns = signature_of(seen)[2:]
        if turn.more:
            row.mtime_ns = 0  # not "nothing changed" after a restart
        if row.offset != before or turn.batches or turn.poison or row.id == 0:
            self._commit(agent, meaning, turn)
        file.skip = turn.skip
        file.signature = None if turn.more else signature_of(seen)
        if meaning.kind != "live" and not turn.more:
            file.sent = None  # set aside, it hardly ever changes again: when it does, this is made anew
        return turn.more

    def _start_behind_import(self, fd: int, agent: Agent, row: SourceRow, meaning: layout.SessionName, size: int) -> None:
        """Begin a new source where a cursor says that ``clawmetry adopt`` has imported, if there is one for it."""
        identity = (self.sandbox.uid, self._agent_key(agent.place), meaning.session)
        first = not any(other.row.id and other.row.name == row.name for other in agent.files.values())
        kind = (self.sandbox.type, self.sandbox.name)
        if imported.start(fd, size, row, self.context.queue, identity, kind, agent.place.agent, first):
            agent.sessions[meaning.session] = row.session

    def _packed_turn(self, fd: int, seen: os.stat_result, agent: Agent, file: File, meaning: layout.SessionName) -> bool:
        """As _turn, for a compressed file: it never changes, and nearly all of it was sent before."""
        signature = signature_of(seen)
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

    @staticmethod
    def _new_generation(row: SourceRow) -> None:
        row.generation += 1
        row.offset, row.marker, row.rereading = 0, b"", True

    def _sent_lines(self, fd: int, file: File, now: float) -> Optional[SentLines]:
        """Return what was sent of this session while its file is read a second time, None in the usual case."""
        row = file.row
        if not row.rereading:
            file.sent = None
            return None
        if file.sent is None:
            if now > file.reread_until:
                row.rereading = False  # let go of while nothing came, and none is expected any more
                return None
            file.sent = SentLines(self.context.queue.sent_hashes(row.session, MAX_HASHES))
            if row.offset:
                tail.count_prefix(fd, row.offset, file.sent)
        return file.sent

    @staticmethod
    def _compared(file: File, more: bool, repeated: bool, now: float) -> None:
        """End the comparison when all that was sent has come by, or when nothing repeats any more for a while.

        Time counts from the end of the file only: how long it takes to get there, with an outage in between, does not matter.
        """
        if file.sent is not None and not file.sent.left:
            file.row.rereading, file.sent = False, None
        elif more or repeated or file.reread_until == float("inf"):
            file.reread_until = float("inf") if more else now + REREAD_GRACE_S
        elif now > file.reread_until:
            file.row.rereading, file.sent = False, None

    def _reload(self, agent: Agent, file: File, meaning: layout.SessionName) -> None:
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
