# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""All durable state: one SQLite file with the cursors and the outbox in the same transaction.

A cursor moves only in the transaction that stores its sealed batch; an outbox row goes only with
its ack. WAL with synchronous=FULL, so what a commit acknowledged survives power loss. Payloads are
envelopes, never plaintext.

rows: what is kept. place: the state directory and its lock. statefile: the file and its tables.
outbox: what waits for an ack. cursors: how far each source was read.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

from .. import peek
from ..errors import shown
from .cursors import Cursors
from .place import InstanceLock, check_own, prepare_state_dir
from .rows import OutboxRow, Sealed, SessionRow, SourceRow, idempotency_key
from .statefile import SCHEMA_VERSION, DatabaseError

__all__ = [
    "SCHEMA_VERSION",
    "DatabaseError",
    "InstanceLock",
    "OutboxRow",
    "Queue",
    "Sealed",
    "SessionRow",
    "SourceRow",
    "check_own",
    "idempotency_key",
    "prepare_state_dir",
]


# An entry without a hash stands for as many as its length says.
_QUARANTINED = "coalesce(sum(CASE sha256 WHEN '' THEN length ELSE 1 END), 0)"

_PEEKED = ("pending", "pending_bytes", "oldest_pending", "quarantined", "dead_letters", "dead_letter_bytes", "last_ack")


class Queue(Cursors):
    """One connection to queue.db with all its tables, and what status shows of them."""

    @classmethod
    @contextlib.contextmanager
    def looked_into(cls, path: str) -> Iterator[Queue]:
        """Give a queue.db to read while no daemon runs; writes nothing. Raises DatabaseError."""
        queue = cls.__new__(cls)
        queue.path = path
        with contextlib.closing(peek.open_to_read(path)) as queue.db:
            yield queue

    @classmethod
    def peek_status(cls, path: str) -> dict[str, Any]:
        """Return what status can tell of a queue.db while no daemon runs; writes nothing."""
        try:
            with cls.looked_into(path) as queue:
                counts = queue.counts()
                sources, quarantine = queue.source_status(), queue.quarantined()
        except DatabaseError as exc:
            return {"reason": "queue.db cannot be read: %s" % exc}
        return {
            **{name: counts[name] for name in _PEEKED},
            "quarantine": quarantine,
            "sources": sources,
        }

    def counts(self) -> dict[str, Any]:
        rows, size = self.outbox_size()
        dead, dead_bytes = self.dead_letters_size()
        return {
            "pending": rows,
            "pending_bytes": size,
            "quarantined": self.db.execute("SELECT %s FROM quarantine" % _QUARANTINED).fetchone()[0],
            "dead_letters": dead,
            "dead_letter_bytes": dead_bytes,
            "oldest_pending": self.db.execute("SELECT min(created) FROM outbox").fetchone()[0],
            "last_ack": float(self.get_meta("last_ack") or 0) or None,
        }

    def source_status(self) -> list[dict[str, Any]]:
        """Return one mapping per source, as ``clawmetry status --json`` shows them."""
        return self._mappings(
            "SELECT source.id, session.sandbox, session.agent, session.session, source.name AS file, generation, offset,"
            " source.size, records, last_ack,"
            " (SELECT " + _QUARANTINED + " FROM quarantine WHERE quarantine.source=source.id) AS quarantined,"
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

    def dead_letters(self, most: int = 100) -> list[dict[str, Any]]:
        """Return the newest envelopes the target refused for good: for which endpoint, how large, and what it answered."""
        return self._mappings(
            "SELECT dead_letter.id, session.sandbox, session.agent, source.name AS file, endpoint, dead_letter.records, length(payload)"
            " AS bytes, reason, at FROM dead_letter LEFT JOIN source ON source.id=dead_letter.source"
            " LEFT JOIN session ON session.id=source.session ORDER BY dead_letter.id DESC LIMIT ?",
            most,
        )

    def _mappings(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Return rows as mappings by column; names from a sandbox (stored as bytes) come out escaped."""
        cursor = self.db.execute(query, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, (shown(value) if isinstance(value, bytes) else value for value in row))) for row in cursor]
