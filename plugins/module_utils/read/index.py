# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""sessions.json: titles, keys and sub-agents of an agent's sessions. Metadata only, never the list of transcripts.

Source: reference/openclaw.md §2 (object of sessionKey -> entry). Keys can hold chat and phone
numbers; those parts leave the host hashed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ..errors import shown
from . import jsonl

# 14 to 40 KB for one to three entries are usual; beyond this the index is not read and nothing else suffers.
MAX_INDEX_BYTES = 8 << 20
MAX_ENTRIES = 10_000

_SAFE_PART = re.compile(r"[A-Za-z][A-Za-z_-]{0,40}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Entry:
    """What the index says of one session; every text is untrusted."""

    key: str
    title: Optional[str] = None
    channel: Optional[str] = None
    chat_type: Optional[str] = None
    subagent_id: Optional[str] = None


def parse(data: bytes) -> Optional[dict[str, Entry]]:
    """Return {session id: entry}, None when DATA is not such an index (or was caught half-written)."""
    if jsonl.has_too_many_values(data):
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    found: dict[str, Entry] = {}
    for key, value in document.items():
        if not isinstance(value, dict) or len(found) >= MAX_ENTRIES:
            continue
        session = value.get("sessionId")
        if not isinstance(session, str) or not session or len(session) > 255:
            continue
        entry = Entry(
            key=key[:500],
            title=_first_text(value, "displayName", "label", "subject", limit=300),
            channel=_first_text(value, "lastChannel", "channel", limit=60),
            chat_type=_first_text(value, "chatType", limit=60) or _origin_chat_type(value),
            subagent_id=subagent(key),
        )
        for name in (session, _file_session(value.get("sessionFile"))):
            if name:
                found[name] = entry
    return found


def subagent(key: str) -> Optional[str]:
    return key.rsplit(":", 1)[-1][:200] if ":subagent:" in key else None


def _file_session(path: Any) -> Optional[str]:
    """Return the session id a sessionFile's name tells: the two can differ (reference/openclaw.md §4)."""
    if not isinstance(path, str) or not path.endswith(".jsonl"):
        return None
    return path.rsplit("/", 1)[-1][: -len(".jsonl")] or None


def _first_text(value: dict[str, Any], *names: str, limit: int) -> Optional[str]:
    for name in names:
        text = value.get(name)
        if isinstance(text, str) and text:
            return text[:limit]
    return None


def _origin_chat_type(value: dict[str, Any]) -> Optional[str]:
    origin = value.get("origin")
    return _first_text(origin, "chatType", limit=60) if isinstance(origin, dict) else None


def public_key(key: str, pseudonym: Callable[[str], str]) -> str:
    """Return a session key fit to be sent in the clear: words and UUIDs stay, any other part becomes a pseudonym.

    agent:main:telegram:direct:15550100 -> agent:main:telegram:direct:h-<12 hex digits>
    """
    parts = [part if _SAFE_PART.fullmatch(part) or _UUID.fullmatch(part) else "h-" + pseudonym(part) for part in key.split(":")]
    return shown(":".join(parts), 500)
