# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What is known of a sandbox between two passes: its agents, their files, and what tells that one has changed."""

from __future__ import annotations

import os
import time
from collections import ChainMap, Counter
from dataclasses import dataclass, field
from typing import Callable, Mapping, Optional, Union

from ..queue import Queue, SourceRow
from ..read import layout, tail
from ..read.index import Entry
from ..read.sent import SentLines
from ..seal import Sealer
from .database import Database

Signature = tuple[int, int, int, int, int]  # ino, dev, size, mtime_ns, ctime_ns
_63_BITS = 0x7FFF_FFFF_FFFF_FFFF


def signature_of(seen: os.stat_result) -> Signature:
    """Return what tells whether a file has changed; in 63 bits each, for a sandbox can set a time SQLite has no room for."""
    return seen.st_ino & _63_BITS, seen.st_dev & _63_BITS, seen.st_size & _63_BITS, seen.st_mtime_ns & _63_BITS, seen.st_ctime_ns & _63_BITS


def identified(seen: os.stat_result, row: SourceRow) -> os.stat_result:
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
class File:
    """One transcript as last seen: its row (None until first read), and what was found in it."""

    row: SourceRow
    signature: Optional[Signature] = None
    skip: Optional[tail.Skip] = None
    sent: Optional[SentLines] = None
    reread_until: float = float("inf")  # until when repeated lines are still expected, once its end has been reached
    seen_at: float = 0.0
    changed_at: float = 0.0
    served_at: float = 0.0
    size: int = 0
    from_database: int = 0  # records of the session that the database had sent when this file was last read


@dataclass
class Agent:
    """One agent's transcripts: what the directory listed, what the index said, and every file's state."""

    place: layout.Agent
    files: dict[tuple[bytes, int], File]  # by (session, inode)
    sessions: dict[bytes, int]  # session -> id of its row, once it has one
    listing: list[tuple[bytes, layout.SessionName]]
    listing_signature: tuple[int, int] = (0, 0)
    listed_at: float = -1e9
    entries: Optional[dict[str, Entry]] = None
    index_signature: Optional[Signature] = None
    index_at: float = -1e9
    scanned_at: float = -1e9
    counted: tuple[float, set[bytes]] = (-1e9, set())
    named: dict[bytes, SourceRow] = field(default_factory=dict)  # only where files have no inode numbers
    database: Optional[Database] = None

    def several(self, now: float) -> set[bytes]:
        """Return the sessions that are known by more than one file; counted once per scan."""
        if self.counted[0] != now:
            count = Counter(session for session, _ino in self.files)
            self.counted = (now, {session for session, files in count.items() if files > 1})
        return self.counted[1]

    @property
    def index(self) -> Mapping[str, Entry]:
        """What sessions.json and the database say of sessions; the database is the newer store."""
        entries = self.entries or {}
        return ChainMap(self.database.entries, entries) if self.database is not None else entries


# Something to read: an agent's file by its name, or its database.
Work = tuple[Agent, Union[File, Database], bytes, layout.SessionName]
DATABASE = layout.SessionName(b"", "live")
