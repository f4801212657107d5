# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""Target: the local encrypted archive, the default while no API key is set.

One SQLite file of envelopes, keyed by idempotency key: storing twice is storing once. It holds
ciphertext only; ``clawmetry archive`` lists, decrypts to the terminal, and forwards to an ingest.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Optional
from urllib.parse import quote

from .. import peek
from ..errors import ConfigError, StateError
from ..seal import SealError
from . import Outcome, Verdict

FILE = "archive.db"
FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS envelope(
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, node_id TEXT NOT NULL,
    at REAL NOT NULL, pushed REAL, payload BLOB NOT NULL)
"""


@dataclass(frozen=True)
class Stored:
    """One archived envelope."""

    id: int
    key: str
    endpoint: str
    node_id: str
    at: float
    pushed: Optional[float]
    payload: bytes


def foreign_envelopes(directory: str, opens: Callable[[bytes], bytes]) -> Optional[str]:
    """Return what is wrong when the oldest or the newest envelope of the archive in DIRECTORY does not open; None when all is well.

    Looks only: without an archive, or with one that cannot be read just now, there is nothing to say.
    """
    path = os.path.join(directory, FILE)
    ends = "SELECT payload FROM envelope WHERE id IN ((SELECT min(id) FROM envelope), (SELECT max(id) FROM envelope)) ORDER BY id"
    try:
        with contextlib.closing(peek.open_to_read(path)) as db:
            payloads = [payload for (payload,) in db.execute(ends)]
    except sqlite3.Error:
        return None
    closed = 0
    for payload in payloads:
        try:
            opens(payload)
        except SealError:
            closed += 1
    if not closed:
        return None
    part = "all" if closed == len(payloads) else "part"
    return "%s of %s is sealed with another encryption key: keep that key, or what it sealed cannot be read again" % (part, path)


class Archive:
    """A Target on local disk, and the reader of it."""

    def __init__(self, directory: str, *, create: bool = True, read_only: bool = False) -> None:
        self.url = "file://" + directory
        self.path = os.path.join(directory, FILE)
        if not create and not os.path.exists(self.path):
            raise ConfigError("no archive here yet", where=self.path, next_step="clawmetry sync")
        if read_only:
            with self._usable():
                self._db = peek.open_to_read(self.path)
                self._known_format()
            return
        previous = os.umask(0o077)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._db = sqlite3.connect(
                "file:%s?mode=rwc" % quote(self.path),
                uri=True,
                timeout=10.0,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=0,
            )
            self._db.execute("PRAGMA page_size=16384")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA cache_size=-1024")
            self._known_format()
            self._db.execute(_SCHEMA)
            self._db.execute("PRAGMA user_version=%d" % FORMAT)
        except OSError as exc:
            raise ConfigError("cannot make the archive", where=directory, cause=os.strerror(exc.errno or 0)) from exc
        except sqlite3.DatabaseError as exc:
            raise self._unusable(exc) from exc
        finally:
            os.umask(previous)

    def _known_format(self) -> None:
        if int(self._db.execute("PRAGMA user_version").fetchone()[0]) > FORMAT:
            raise StateError("the archive was written by a newer clawmetry", where=self.path, next_step="install the newer release")

    def _unusable(self, exc: sqlite3.Error) -> StateError:
        step = "move it away to start a new one (what is in it is not sent again), or restore it"
        return StateError("the archive cannot be used", where=self.path, cause=str(exc), next_step=step)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self._unusable(exc) from exc

    def close(self) -> None:
        self._db.close()

    def register(self, node_id: Optional[str], hostname: str, machine_id: str) -> Outcome:
        return Outcome(Verdict.ACK)

    def heartbeat(self, body: dict[str, Any]) -> Outcome:
        return Outcome(Verdict.ACK)

    def deliver(self, endpoint: str, node_id: str, key: str, envelope: bytes) -> Outcome:
        try:
            self._db.execute(
                "INSERT OR IGNORE INTO envelope(key, endpoint, node_id, at, payload) VALUES(?,?,?,?,?)",
                (key, endpoint, node_id, time.time(), envelope),
            )
        except sqlite3.Error as exc:
            return Outcome(Verdict.RETRY, "archive: %s" % exc)
        return Outcome(Verdict.ACK)

    def summary(self) -> list[tuple[str, int, int, float, float]]:
        """Return (endpoint, envelopes, bytes, oldest, newest) of what is kept."""
        with self._usable():
            rows = self._db.execute(
                "SELECT endpoint, count(*), sum(length(payload)), min(at), max(at) FROM envelope GROUP BY endpoint ORDER BY endpoint"
            ).fetchall()
        return [(str(row[0]), int(row[1]), int(row[2]), float(row[3]), float(row[4])) for row in rows]

    def envelopes(self, endpoint: Optional[str] = None, *, unpushed: bool = False) -> Iterator[Stored]:
        """Yield archived envelopes in the order they were stored."""
        last = -1
        while True:
            with self._usable():
                rows = self._db.execute(
                    "SELECT id, key, endpoint, node_id, at, pushed, payload FROM envelope"
                    " WHERE id>? AND (? IS NULL OR endpoint=?) AND (NOT ? OR pushed IS NULL) ORDER BY id LIMIT 16",
                    (last, endpoint, endpoint, unpushed),
                ).fetchall()
            if not rows:
                return
            for row in rows:
                yield Stored(*row)
            last = rows[-1][0]

    def mark_pushed(self, stored: Stored) -> None:
        with self._usable():
            self._db.execute("UPDATE envelope SET pushed=? WHERE id=?", (time.time(), stored.id))
