# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""From an agent's SQLite database to the queue: which sessions are behind, and one bounded turn over them.

The cursor of a session is (generation, next seq), kept in queue.db's table of sources as a row without inode:
``offset`` is the next seq, ``marker`` holds the generation, an anchor (hash of the last event passed) and how many
records had been sent from the session's JSONL files. Whenever generation or anchor do not fit, or the files have sent
more since, the session is read from its beginning, leaving out what was sent; so neither a rewrite nor history that
was moved from JSONL into the database is sent twice. What vanishes from the database stays sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Collection, Optional

from ..errors import Refused, StateError, Unreadable, shown
from ..queue import DatabaseError, Queue, SourceRow
from ..read import sqlitestore, tail
from ..read.index import Entry, subagent
from ..read.jsonl import Counts
from ..read.routes import DATABASE_ROUTES, HeldSandbox
from ..read.sent import MAX_HASHES, SentLines

# How long after a repeated event more of them are expected: a migration may be half way.
REREAD_GRACE_S = 600.0
# A child costs some 40 ms of CPU: with pauses of 25 times what one took, a busy database takes about 4 % of a core.
# On a busy host it takes longer by the clock; new rows are not to wait for more than two seconds then.
MIN_PAUSE_S, PAUSE_PER_COST, MAX_BUSY_PAUSE_S = 0.5, 25.0, 2.0
MAX_PAUSE_S = 300.0
NO_TRANSCRIPTS_PAUSE_S = 60.0
# Rows are found by row id as they are added; what that can miss (row ids used again) a walk over all sessions finds.
WALK_INTERVAL_S = 30.0
FORGET_AFTER_S = 3600.0
ACTIVE_S = 60.0
MAX_ACTIVE = 20
RETRY_SESSION_S = 60.0
LOST_PAUSE_S = 5.0


@dataclass
class Session:
    """One session's cursor, and what is known of it besides."""

    row: SourceRow
    sent: Optional[SentLines] = None
    reread_until: float = 0.0
    stuck_until: float = 0.0  # what could not be read is not tried again before
    not_before: float = 0.0
    changed_at: float = 0.0
    met_at: float = 0.0
    last: int = -1

    def parts(self) -> tuple[str, str, int]:
        """Return (generation, anchor, records sent from files) of the marker."""
        parts = self.row.marker.decode("ascii", "replace").split("\0")
        return (parts[0], parts[1], int(parts[2])) if len(parts) == 3 and parts[2].isdigit() else ("", "", 0)

    def may_be_read(self, now: float, at_once: bool) -> bool:
        return self.stuck_until <= now and (at_once or self.not_before <= now)

    def restart(self) -> None:
        """Read from the beginning again, leaving out what was sent."""
        row = self.row
        row.generation += 1
        row.offset, row.marker, row.rereading = 0, b"", True
        self.sent = None


class Database:
    """One agent's database. Not used by two threads; ``due`` and ``turn`` as SandboxSync's scan and turn."""

    def __init__(
        self,
        held: HeldSandbox,
        path: bytes,
        queue: Queue,
        *,
        cursors: Callable[[], dict[bytes, SourceRow]],
        session_id: Callable[[bytes], int],
        from_files: Callable[[], dict[bytes, int]],
        commit: Callable[[bytes, tail.Turn], None],
        problem: Callable[[str, Optional[str], bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``cursors`` gives the stored rows by session, ``session_id`` a session's id in the queue (0: none yet), ``from_files``
        how many records were sent of each session's files; ``commit`` stores a turn; ``problem`` takes a label, what is wrong
        (None: nothing any more), and whether that is something never to be read, which is no failure of ours.
        """
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.sessions: dict[bytes, Session] = {}
        self.served_at = 0.0
        self._held = held
        self._queue = queue
        self._cursors, self._session_id, self._from_files = cursors, session_id, from_files
        self._commit, self._tell = commit, problem
        self._clock = clock
        self._label = shown(path)
        self._busy: Collection[bytes] = ()
        self._behind: dict[bytes, None] = {}
        self._seen: Optional[tuple[object, ...]] = None
        self._found: Optional[tuple[object, ...]] = None
        self._rowid = 0
        self._walk: Optional[str] = ""
        self._walk_began = self._walked_at = -1e9
        self._not_before = self._pause_until = -1e9
        self._failures = 0
        self._full = self._at_once = False
        self._adopt()

    def _adopt(self) -> None:
        """Take the stored cursors as they are, whatever an abandoned turn has made of ours."""
        self._whole = True
        self.sessions = {}
        for name, row in self._cursors().items():
            session = Session(row, met_at=self._clock())
            if row.rereading:
                # What had come by of what was sent is not known any more: from the beginning.
                session.restart()
            self.sessions[name] = session

    def _problem(self, label: str, text: Optional[str], *, refused: bool = False) -> None:
        self._tell(label, text, refused)

    def _fail(self, text: str, now: float, *, refused: bool = False) -> None:
        """Note why nothing could be read, and wait longer from time to time."""
        self._problem(self._label, text, refused=refused)
        self._pause_until = now + min(MAX_PAUSE_S, 2.0**self._failures)
        self._failures = min(self._failures + 1, 20)

    def sent_of(self, name: bytes) -> int:
        """Return how many records of a session were sent from here."""
        session = self.sessions.get(name)
        return session.row.records if session is not None else 0

    # -- is there something to do? ---------------------------------------------------------

    def due(self, busy: Collection[bytes], *, at_once: bool) -> bool:
        """Has something changed, or is something left? BUSY: sessions whose files come first. Cheap when idle.

        AT_ONCE: the sandbox has ended, this may be the last look into it.
        """
        if self._held.route not in DATABASE_ROUTES:
            return False  # the survey says so
        now = self._clock()
        self._busy = busy
        try:
            self._found = sqlitestore.look(self._held.root, self.path)
        except Unreadable as exc:
            self._problem(self._label, str(exc), refused=isinstance(exc, Refused))
            return False
        if self._found is None:
            self._problem(self._label, None)  # there is none, so nothing is wrong with it
            return False
        self._at_once = at_once
        if now < self._pause_until:
            return False
        if self._walk is not None or self._ready(now, 1):
            return True
        return self._found != self._seen and (now >= self._not_before or at_once)

    def _ready(self, now: float, most: int) -> list[bytes]:
        """Return up to MOST sessions that are behind and may be read now."""
        found: list[bytes] = []
        for name in self._behind:
            session = self.sessions.get(name)
            if name not in self._busy and (session is None or session.may_be_read(now, self._at_once)):
                found.append(name)
                if len(found) >= most:
                    break
        return found

    # -- one turn -------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Ask once, store what came. True when there is more to take at once. Raises StateError: the turn did not happen."""
        now = self.served_at = self._clock()
        try:
            return self._turn(now)
        except (StateError, DatabaseError):
            raise  # our own disk
        except Exception as exc:
            # What was not foreseen stays with this source; its message may quote content.
            self._fail("unexpected %s" % type(exc).__name__, now)
            return False

    def _turn(self, now: float) -> bool:
        found = self._found
        if not self._whole:
            self._adopt()
            self._walk = ""
        if self._walk is None and now - self._walked_at > WALK_INTERVAL_S:
            self._walk = ""
        if self._walk == "":
            self._walk_began = now
        walked_before = self._walk
        files = self._from_files()
        want = self._wanted(now, files)
        cursors = [self._cursor(name) for name in want]
        try:
            answer = sqlitestore.ask(
                self._held.root, self.path, own_home=self._held.sandbox.home is not None, want=cursors, rowid=self._rowid, walk=self._walk
            )
        except sqlitestore.NoTranscripts:
            self._seen, self._pause_until = found, now + NO_TRANSCRIPTS_PAUSE_S
            self._walk = None
            self._problem(self._label, None)
            return False
        except Unreadable as exc:
            self._fail(str(exc), now, refused=isinstance(exc, Refused))
            return False
        self._failures = 0
        self._problem(self._label, None)
        self._whole = False
        moved = [self._take(name, answer.pieces[index], files, now) for index, name in enumerate(want) if index in answer.pieces]
        room = sqlitestore.MAX_SESSIONS - len(self.sessions) - len(self._behind.keys() - self.sessions.keys())
        for head in answer.heads:
            room -= self._see(head, now, room > 0)
        self._full = room <= 0
        walking = self._walked(answer, now)
        self._whole = True
        self._seen = found
        took = self._clock() - now
        self._not_before = now + took + min(MAX_BUSY_PAUSE_S, max(MIN_PAUSE_S, took * PAUSE_PER_COST))
        for index, name in enumerate(want):
            # Written to while it was read: that is for the next turn, or a busy writer would keep us busy as well.
            if name in self._behind and index in answer.pieces and answer.pieces[index].state == "ok":
                self.sessions[name].not_before = self._not_before
        more = walking or bool(self._ready(now, 1))
        if more and not walking and walked_before is None and want and not any(moved) and not answer.heads:
            # It says there is more and gives nothing: not at full speed.
            for name in want:
                self.sessions[name].stuck_until = now + RETRY_SESSION_S
            return False
        return more

    def _wanted(self, now: float, files: dict[bytes, int]) -> list[bytes]:
        """Return the sessions to read: those behind, and those that were written to lately."""
        want = self._ready(now, sqlitestore.MAX_WANT)
        for name in want:
            self._known(name)
        for name, session in self.sessions.items():
            lately = session.changed_at and now - session.changed_at < ACTIVE_S and session.stuck_until <= now
            if lately and name not in want and name not in self._busy and len(want) < sqlitestore.MAX_WANT + MAX_ACTIVE:
                want.append(name)
        for name in want:
            session = self.sessions[name]
            if session.row.id == 0:
                session.row.session = self._session_id(name)
            if files.get(name, 0) > session.parts()[2]:
                session.restart()
        return want

    def _known(self, name: bytes) -> Session:
        session = self.sessions.get(name)
        if session is None:
            session_id = self._session_id(name)
            again = bool(session_id and self._queue.sent_hashes(session_id, 1))
            row = SourceRow(0, session_id, self.path.rpartition(b"/")[2], 0, 0, rereading=again)
            session = self.sessions[name] = Session(row, met_at=self._clock())
        return session

    def _cursor(self, name: bytes) -> sqlitestore.Want:
        session = self.sessions[name]
        generation, anchor, _files = session.parts()
        return sqlitestore.Want(name.decode("utf-8"), generation, session.row.offset, anchor)

    def _take(self, name: bytes, piece: sqlitestore.Piece, files: dict[bytes, int], now: float) -> bool:
        """Store what came of one session. True when its cursor has moved or will be set back."""
        session = self.sessions[name]
        row = session.row
        label = "%s: %s" % (self._label, shown(name))
        if piece.state == "rewritten":
            session.restart()
            self._behind[name] = None
            return True
        if not piece.state:
            return False
        sent = self._sent_lines(session, now)
        turn = tail.Turn(row, [], list(piece.poison), b"", Counts(self._queue.stats(row.session)), False, None)
        hashes: list[bytes] = []
        left = sent.left if sent is not None else 0
        tail.take(((seq, seq + 1, data) for seq, data in piece.events), turn, hashes, sent)
        turn.hashes = b"".join(hashes)
        if sent is not None and sent.left < left:
            session.reread_until = now + REREAD_GRACE_S
        moved = piece.following != row.offset
        row.offset = piece.following
        row.size = max(session.last + 1, row.offset)
        row.marker = ("%s\0%s\0%d" % (piece.generation, piece.anchor, files.get(name, 0))).encode("ascii")
        if piece.state == "ok" and row.rereading and (sent is None or not sent.left or now > session.reread_until):
            row.rereading, session.sent = False, None
        if moved or row.id == 0:
            self._commit(name, turn)
            session.changed_at = now
        self._behind.pop(name, None)
        if piece.state == "more":
            self._behind[name] = None  # at the end of the line: others are waiting
        elif piece.state != "ok":
            self._problem(label, piece.state)
            self._behind[name] = None
            session.stuck_until = now + RETRY_SESSION_S
            return moved
        self._problem(label, None)
        return moved

    def _sent_lines(self, session: Session, now: float) -> Optional[SentLines]:
        """Return what was sent of a session while it is read once more, None in the usual case."""
        if not session.row.rereading:
            return None
        if session.sent is None:
            session.sent = SentLines(self._queue.sent_hashes(session.row.session, MAX_HASHES))
            session.reread_until = now + REREAD_GRACE_S
        return session.sent

    def _see(self, head: sqlitestore.Head, now: float, room: bool) -> bool:
        """Note how a session stands: behind or not, and what the index says of it. True when it is a new one."""
        name = head.session.encode("utf-8")
        session = self.sessions.get(name)
        new = session is None and name not in self._behind
        if new and not room:
            return False
        if session is not None:
            session.met_at, session.last = now, head.last
            session.row.size = max(session.row.size, head.last + 1)
        entry = Entry(*head.entry, subagent(head.entry[0])) if head.entry is not None else None
        if entry is not None and self.entries.get(head.session) != entry:
            self.entries[head.session] = entry
            if session is not None and session.row.id:
                self._queue.touch_sessions([session.row.session])
        if session is None or session.row.offset != head.last + 1 or session.parts()[0] != head.generation:
            self._behind.setdefault(name)
        return new

    def _walked(self, answer: sqlitestore.Answer, now: float) -> bool:
        """Go on with the walk over all sessions, or end it. True while it goes on."""
        self._rowid = max(0, answer.rowid)
        before = self._walk
        if before is None:
            if answer.lost:
                self._walk = ""
            return answer.lost
        if answer.lost or answer.after == before:
            self._pause_until = now + LOST_PAUSE_S
            return False
        if answer.after is not None and answer.after > before and not self._full:
            self._walk = answer.after
            return True
        self._walk, self._walked_at = None, now
        too_many = "more than %d sessions; the rest is not read" % sqlitestore.MAX_SESSIONS
        self._problem(self._label + ": sessions", too_many if self._full else None)
        if answer.after is None:
            self._forget(now)
        return False

    def _forget(self, now: float) -> None:
        """Drop the cursors of sessions that have been gone from the database for an hour."""
        stale = [name for name, session in self.sessions.items() if session.met_at < min(self._walk_began, now - FORGET_AFTER_S)]
        waiting = self._queue.forget_sources([self.sessions[name].row.id for name in stale]) if stale else set()
        for name in stale:
            if self.sessions[name].row.id in waiting:
                continue
            self._behind.pop(name, None)
            self.entries.pop(name.decode("utf-8", "replace"), None)
            del self.sessions[name]
