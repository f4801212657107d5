# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The rows of /ingest/sessions: what is counted of a session, in the clear, and its title, sealed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Mapping, Optional

from .. import wire
from ..errors import shown
from ..model import Sandbox
from ..queue import SessionRow
from ..read import index
from ..read.jsonl import Counts
from ..seal import Sealer, to_blob

ACTIVE_S, IDLE_S = 120.0, 600.0


def session_row(stored: SessionRow, entries: Mapping[str, index.Entry], sandbox: Optional[Sandbox], sealer: Sealer) -> dict[str, Any]:
    """Return one row of /ingest/sessions (reference/clawmetry.md §1 "Session row")."""
    counts = Counts(stored.stats)
    session = stored.session.decode("utf-8", "backslashreplace")
    entry = entries.get(session)
    key = index.public_key(entry.key, sealer.pseudonym) if entry is not None else None
    status = "completed" if counts.end_reason else _status(counts.updated)
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
        "status": status,
        "ended_at": counts.updated if status in ("ended", "completed") else None,
        "end_reason": counts.end_reason,
        "model": counts.main_model,
        "recent_model": counts.model,
        "runtime": "openclaw",
        "thinking_level": counts.thinking,
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
