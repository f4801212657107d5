# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""The bodies ClawMetry's ingest takes, as bytes. Pure. Source: reference/clawmetry.md §1.

Every content upload is {"node_id", "encrypted": true, "blob"}; the plaintexts are built here. We add
a generic ``source`` to sealed batches, so that two sandboxes of one host stay apart.
"""

from __future__ import annotations

import json
from typing import Any, Mapping, Optional, Sequence

AUTH = "/auth"
EVENTS = "/ingest/events"
SESSIONS = "/ingest/sessions"
MEMORY = "/ingest/memory"
SNAPSHOT = "/ingest/system-snapshot"
HEARTBEAT = "/ingest/heartbeat"

SESSION_ROWS_PER_POST = 50
MAX_MEMORY_CHARS = 100_000


def dumps(value: Any) -> bytes:
    """Return VALUE as ASCII JSON: escapes carry whatever a sandbox put into a name, lone surrogates too."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def events(
    *, node_id: str, session_file: str, lines: Sequence[bytes], source: Mapping[str, Optional[str]], subagent_id: Optional[str] = None
) -> bytes:
    """Return the plaintext of an events batch; LINES are JSON objects and go in byte for byte."""
    head: dict[str, Any] = {"session_file": session_file, "node_id": node_id, "source": source}
    if subagent_id is not None:
        head["subagent_id"] = subagent_id
    # One join: a record of 8 MiB must not be copied for each piece that is put around it.
    return b"".join((dumps(head)[:-1], b',"events":[', b",".join(lines), b"]}"))


def split(plaintext: bytes) -> Optional[tuple[bytes, bytes]]:
    """Return two halves of an events or sessions plaintext, None when there is no list of two or more in it."""
    body = json.loads(plaintext)
    for name in ("events", "sessions"):
        records = body.get(name)
        if isinstance(records, list) and len(records) >= 2:
            middle = len(records) // 2
            return dumps({**body, name: records[:middle]}), dumps({**body, name: records[middle:]})
    return None


def memory(*, node_id: str, files: Sequence[Mapping[str, Any]], source: Mapping[str, Optional[str]]) -> bytes:
    """Return the plaintext of a memory upload. FILES: {"name", "size", "modified", "content"}."""
    return dumps(
        {
            "node_id": node_id,
            "source": source,
            "memory_state": {"files": [{key: item[key] for key in ("name", "size", "modified")} for item in files]},
            "memory_content": [{"path": item["name"], "content": item["content"]} for item in files],
        }
    )


def sealed_body(node_id: str, blob: bytes) -> list[bytes]:
    """Return the JSON body of a content upload around a base64url BLOB, in pieces: a blob is large and need not be copied."""
    return [dumps({"node_id": node_id, "encrypted": True})[:-1] + b',"blob":"', blob, b'"}']
