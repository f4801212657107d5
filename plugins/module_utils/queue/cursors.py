# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Sources and how far each was read: a cursor moves only in the transaction that stores its sealed batch."""

from __future__ import annotations

import json
import time
from typing import Optional, Sequence

from ..model import Poison
from ..read.sent import HASH_BYTES, MAX_HASHES
from .outbox import Outbox
from .rows import Sealed, SourceRow

# Of one source; more are counted and not listed: what a sandbox writes must not fill our disk.
MAX_QUARANTINE = 1000
_LOOK_EVERY = 100_000  # records of a source
KEEP_CLOCK_S = 600.0
_DROP_EMPTY_SESSIONS = (
    "DELETE FROM session WHERE sent_version>=version AND NOT EXISTS(SELECT 1 FROM source WHERE source.session=session.id)"
)


class Cursors(Outbox):
    """The tables session, source, sent_hashes and quarantine.

    ``clock_s`` is what "last seen" is told in: seconds that this daemon has run, counted on from the day its state was made.
    It stands still while nothing runs, and no change of the host's clock moves it.
    """

    def __init__(self, path: str, *, check: bool = True) -> None:
        """As StateFile."""
        super().__init__(path, check=check)
        stored = self.get_meta("clock")
        self.clock_s = float(stored) if stored is not None else time.time()
        self._clock_kept_s = self.clock_s if stored is not None else 0.0

    def tick(self, elapsed_s: float) -> None:
        """Note that so much time has passed; what is lost of it when we are killed is a few minutes."""
        self.clock_s += elapsed_s
        if self.clock_s - self._clock_kept_s > KEEP_CLOCK_S:
            with self.transaction():
                self.set_meta("clock", repr(self.clock_s))
            self._clock_kept_s = self.clock_s

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
            (row.session, row.name, row.ino, row.dev, row.generation, row.offset, row.marker, int(row.rereading), self.clock_s),
        )
        row.id = int(cursor.lastrowid or 0)

    def _store_cursor(self, row: SourceRow) -> None:
        self.db.execute(
            "UPDATE source SET name=?, ino=?, dev=?, generation=?, offset=?, marker=?, size=?, mtime_ns=?,"
            " ctime_ns=?, rereading=?, records=?, seen=? WHERE id=?",
            (
                row.name, row.ino, row.dev, row.generation, row.offset, row.marker, row.size, row.mtime_ns, row.ctime_ns,
                int(row.rereading), row.records, self.clock_s, row.id,
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
                if row.records // _LOOK_EVERY != (row.records - len(hashes) // HASH_BYTES) // _LOOK_EVERY:
                    self._drop_old_hashes(row.session)
            if poison:
                self._quarantine(row, poison, now)
            if stats is not None:
                self.db.execute("UPDATE session SET stats=?, version=version+1 WHERE id=?", (stats, row.session))
            self._store_cursor(row)

    def _quarantine(self, row: SourceRow, poison: Sequence[Poison], now: float) -> None:
        """Note what could not be taken: once for its session, however often its file is replaced.

        A source has room for so many entries; what is beyond is only counted, in the length of an entry without a hash.
        """
        room = MAX_QUARANTINE - int(self.db.execute("SELECT count(*) FROM quarantine WHERE source=?", (row.id,)).fetchone()[0])
        beyond = 0
        for bad in poison:
            known = self.db.execute(
                "SELECT 1 FROM source JOIN quarantine ON quarantine.source=source.id WHERE session=? AND sha256=? AND length=? LIMIT 1",
                (row.session, bad.sha256, bad.length),
            ).fetchone()
            if known is not None:
                continue
            if room <= 0:
                beyond += 1
                continue
            room -= 1
            self.db.execute(
                "INSERT INTO quarantine(source, generation, offset, length, sha256, reason, at) VALUES(?,?,?,?,?,?,?)",
                (row.id, row.generation, bad.offset, bad.length, bad.sha256, bad.reason, now),
            )
        if beyond:
            values = (beyond, now, row.id)
            if not self.db.execute("UPDATE quarantine SET length=length+?, at=? WHERE source=? AND sha256=''", values).rowcount:
                self.db.execute(
                    "INSERT INTO quarantine(source, generation, offset, length, sha256, reason, at) VALUES(?,?,?,?,'',?,?)",
                    (row.id, row.generation, row.offset, beyond, "as many more, only counted", now),
                )

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

    def _drop_old_hashes(self, session: int) -> None:
        """Let go of what sent_hashes() would never give out again."""
        count = 0
        for run, size in self.db.execute("SELECT id, length(hashes) FROM sent_hashes WHERE session=? ORDER BY id DESC", (session,)):
            if count >= MAX_HASHES:
                self.db.execute("DELETE FROM sent_hashes WHERE session=? AND id<=?", (session, run))
                return
            count += size // HASH_BYTES

    def stats(self, session: int) -> str:
        row = self.db.execute("SELECT stats FROM session WHERE id=?", (session,)).fetchone()
        return "{}" if row is None else str(row[0])

    def forget_sources(self, ids: Sequence[int]) -> set[int]:
        """Drop sources whose files are gone and whose batches are all acked; sessions left empty go with them.

        Returns those that are kept, as a batch of theirs waits.
        """
        kept = set()
        with self.transaction():
            for source in ids:
                pending = self.db.execute("SELECT 1 FROM outbox WHERE source=? LIMIT 1", (source,)).fetchone()
                if pending is not None:
                    kept.add(source)
                else:
                    # What was put aside of it stays with its session, for as long as that has another file.
                    (other,) = self.db.execute(
                        "SELECT max(other.id) FROM source JOIN source AS other ON other.session=source.session AND other.id<>source.id"
                        " WHERE source.id=?",
                        (source,),
                    ).fetchone()
                    if other is not None:
                        self.db.execute("UPDATE OR IGNORE quarantine SET source=? WHERE source=?", (other, source))
                    self.db.execute("DELETE FROM quarantine WHERE source=?", (source,))
                    self.db.execute("DELETE FROM source WHERE id=?", (source,))
            self.db.execute(_DROP_EMPTY_SESSIONS)
        return kept

    def forget_sandboxes(self, present: Sequence[str], now: float, patience_s: float) -> int:
        """Drop all cursors of sandboxes that have not been PRESENT for PATIENCE_S seconds and have nothing pending. NOW as clock_s.

        A sandbox that is there but silent is noted as seen once a day. Sessions without files go once their last row is sent.
        """
        names = json.dumps(list(present))
        with self.transaction():
            self.db.execute(_DROP_EMPTY_SESSIONS)
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
            if cursor.rowcount:
                self.db.execute("DELETE FROM quarantine WHERE source NOT IN (SELECT id FROM source)")
        return int(cursor.rowcount)
