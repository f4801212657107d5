# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Sealed batches until their ack: who is served next, and what becomes of a row.

States of a row: stored -> acked (deleted) | split (two stored rows) | dead-letter (moved), and from there by a person's
word back to stored, or away.
"""

from __future__ import annotations

import collections
import time
from typing import Optional, Sequence

from .rows import OutboxRow, Sealed, SessionRow
from .statefile import StateFile

# How long an order of serving stands before those who came since are taken into it.
PLAN_S = 0.5
# How often full dead letters are counted anew.
DEAD_COUNT_S = 5.0


class Outbox(StateFile):
    """The tables outbox and dead_letter, and session rows that wait to be uploaded."""

    def __init__(self, path: str, *, check: bool = True) -> None:
        """As StateFile."""
        # Who is served next, and which turn each was last served in; of this process and connection only.
        self._turns: collections.deque[tuple[Optional[int], Optional[str]]] = collections.deque()
        self._planned_at = 0.0
        self._turn = 0
        self._served: dict[Optional[int], int] = {}
        self._served_boxes: dict[Optional[str], int] = {}
        self._dead_bytes = 0
        self._dead_counted_at = float("-inf")
        super().__init__(path, check=check)

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

    def pass_over(self, row: OutboxRow) -> None:
        """ROW stays where it is; the others have their turn before it is looked at again."""
        self._turn_over()

    # -- dead letters -----------------------------------------------------------

    def dead_letter(self, row: OutboxRow, reason: str) -> None:
        """Move a row the target refused for good to the dead letters, payload included."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO dead_letter(endpoint, key, source, records, reason, at, payload) VALUES(?,?,?,?,?,?,?)",
                (row.endpoint, row.key, row.source, row.records, reason, time.time(), row.payload),
            )
            self.db.execute("DELETE FROM outbox WHERE id=?", (row.id,))
        self._dead_bytes += len(row.payload)
        self._turn_over()

    def room_for_dead_letter(self, row: OutboxRow, most: float) -> bool:
        """Would the dead letters stay within MOST bytes with ROW? Counted anew when it seems not: a person may have cleared them."""
        now = time.monotonic()
        never = self._dead_counted_at < 0
        if never or (self._dead_bytes + len(row.payload) > most and now - self._dead_counted_at > DEAD_COUNT_S):
            self._dead_bytes, self._dead_counted_at = self.dead_letters_size()[1], now
        return self._dead_bytes + len(row.payload) <= most

    def dead_letters_size(self) -> tuple[int, int]:
        """Return (rows, bytes) of what was refused for good."""
        rows, size = self.db.execute("SELECT count(*), coalesce(sum(length(payload)), 0) FROM dead_letter").fetchone()
        return int(rows), int(size)

    def send_again(self) -> int:
        """Put all dead letters back into the outbox, behind what waits there. Returns how many."""
        with self.transaction():
            moved = self.db.execute(
                "INSERT INTO outbox(endpoint, slot, key, source, records, size, created, payload) SELECT endpoint, NULL, key,"
                " (SELECT source.id FROM source WHERE source.id=dead_letter.source), records, length(payload), ?, payload"
                " FROM dead_letter ORDER BY id",
                (time.time(),),
            )
            self.db.execute("DELETE FROM dead_letter")
        return int(moved.rowcount)

    def discard_dead_letters(self) -> int:
        """Delete all dead letters. Returns how many."""
        with self.transaction():
            return int(self.db.execute("DELETE FROM dead_letter").rowcount)

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
            self._note_rows(rows)

    def pass_rows(self, rows: Sequence[SessionRow]) -> None:
        """Note these rows as sent though they are not: nobody is to hear of them."""
        with self.transaction():
            self._note_rows(rows)

    def _note_rows(self, rows: Sequence[SessionRow]) -> None:
        self.db.executemany("UPDATE session SET sent_version=? WHERE id=?", [(row.version, row.id) for row in rows])

    def waiting(self, endpoint: str) -> int:
        """Return how many envelopes for ENDPOINT wait for an ack."""
        return int(self.db.execute("SELECT count(*) FROM outbox WHERE endpoint=?", (endpoint,)).fetchone()[0])
