# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""What is kept in queue.db, as the rest of the engine holds it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Optional, Union


@dataclass
class SourceRow:
    """One file of one session: where it stands. The reader owns it between commits."""

    id: int
    session: int
    name: bytes
    ino: int
    dev: int
    generation: int = 0
    offset: int = 0
    marker: bytes = b""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    rereading: bool = False
    records: int = 0


@dataclass(frozen=True)
class SessionRow:
    """One session of one agent of one sandbox, and the counts kept for /ingest/sessions (JSON text)."""

    id: int
    sandbox: str
    agent: bytes
    session: bytes
    stats: str
    version: int


@dataclass(frozen=True)
class Sealed:
    """A sealed batch on its way into the outbox."""

    endpoint: str
    key: str  # idempotency key, stable across re-sends
    payload: Union[bytes, bytearray]  # envelope
    records: int
    slot: Optional[str] = None  # a newer envelope of the same slot replaces an unsent older one
    source: Optional[int] = None


@dataclass(frozen=True)
class OutboxRow:
    id: int
    endpoint: str
    key: str
    payload: bytes
    records: int
    source: Optional[int]
    slot: Optional[str]


def idempotency_key(*parts: object) -> str:
    """Return a key that is the same whenever the same parts are given: 32 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(text))
        digest.update(text)
    return digest.hexdigest()[:32]
