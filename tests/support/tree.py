# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A deterministic OpenClaw state directory: the same arguments make the same bytes.

The shape is that of OpenClaw's JSONL era: a header line, model and thinking-level changes, then messages
whose size varies around MEAN_BYTES, some with text outside ASCII and U+2028, which is no line end.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import uuid
from dataclasses import dataclass, field
from typing import IO, Any, Iterator

_PROSE = (
    "check the build, then merge the draft; h\u00e9llo \u4e16\u754c \U0001f99e, a line\u2028separator is no line end. "
    "Read the plan, gather the notes, run the tests, write down what failed and why, and ship what is left. "
)
EPOCH_MS = 1_795_000_000_000


def dumps(event: Any) -> bytes:
    """One transcript line as OpenClaw writes it: no blanks, raw UTF-8, LF."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def numbered(number: int, size_bytes: int = 0) -> dict[str, Any]:
    """A message with a sequence number; at least SIZE_BYTES of text."""
    return {"type": "message", "id": "%08x" % number, "seq": number, "message": {"role": "user", "content": "x" * size_bytes}}


def session_lines(chance: random.Random, session: str, events: int, mean_bytes: int) -> Iterator[bytes]:
    """Yield EVENTS lines of one transcript."""
    parent = None
    for number in range(events):
        stamp = EPOCH_MS + number * 1500
        event: dict[str, Any] = {"type": "message", "id": "%08x" % chance.getrandbits(32), "parentId": parent, "seq": number}
        if number == 0:
            event = {"type": "session", "version": 3, "id": session, "seq": 0, "cwd": "/sandbox/.openclaw/workspace"}
        elif number == 1:
            event.update(type="model_change", provider="testing", modelId="testing-1")
        elif number == 2:
            event.update(type="thinking_level_change", thinkingLevel="low")
        else:
            length = int(min(chance.expovariate(1.0 / max(1, mean_bytes - 200)), mean_bytes * 20))
            text = ""
            while len(text) < length:  # prose compresses as transcripts do: about five to one
                start = chance.randrange(len(_PROSE) - 40)
                text += _PROSE[start : start + chance.randrange(20, 60)] + "%x" % chance.getrandbits(40)
            text = text[:length]
            role = ("user", "assistant", "toolResult")[number % 3]
            event["message"] = {"role": role, "content": [{"type": "text", "text": text}], "timestamp": stamp}
            if role == "assistant":
                usage = {"input": length, "output": 7, "totalTokens": length + 7}
                event["message"].update(provider="testing", model="testing-1", stopReason="stop", usage=usage)
        parent = event.get("id")
        yield dumps(event)


@dataclass
class Tree:
    """Files of a state directory, path below it → content, and what must arrive of it."""

    files: dict[str, bytes] = field(default_factory=dict)

    def transcripts(self) -> dict[str, list[Any]]:
        """Session file name → its events in order."""
        return {
            path.rsplit("/", 1)[1]: [json.loads(line) for line in content.split(b"\n") if line]
            for path, content in self.files.items()
            if path.endswith(".jsonl")
        }

    @property
    def events(self) -> int:
        return sum(content.count(b"\n") for path, content in self.files.items() if path.endswith(".jsonl"))

    @property
    def transcript_bytes(self) -> int:
        return sum(len(content) for path, content in self.files.items() if path.endswith(".jsonl"))

    def to_tar(self, stream: IO[bytes], prefix: str, uid: int = 998) -> None:
        """Write the files below PREFIX to STREAM, directories included, owned by UID."""
        with tarfile.open(fileobj=stream, mode="w|") as archive:
            made: set[str] = set()
            for path, content in self.files.items():
                parts = (prefix + "/" + path).strip("/").split("/")
                for depth in range(1, len(parts)):
                    directory = "/".join(parts[:depth])
                    if directory not in made:
                        made.add(directory)
                        entry = tarfile.TarInfo(directory)
                        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o700, uid, uid
                        archive.addfile(entry)
                entry = tarfile.TarInfo("/".join(parts))
                entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = len(content), 0o600, uid, uid, EPOCH_MS // 1000
                archive.addfile(entry, io.BytesIO(content))


def make_tree(*, sessions: int, events: int, seed: int = 1, mean_bytes: int = 1000, agent: str = "main", title: str = "A title") -> Tree:
    """Return a state directory with SESSIONS transcripts of EVENTS lines, its index, and two memory files."""
    chance = random.Random(seed)
    tree, index = Tree(), {}
    for number in range(sessions):
        session = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        tree.files["agents/%s/sessions/%s.jsonl" % (agent, session)] = b"".join(session_lines(chance, session, events, mean_bytes))
        key = "agent:%s:main" % agent if number == 0 else "agent:%s:subagent:%s" % (agent, session)
        path = "/sandbox/.openclaw/agents/%s/sessions/%s.jsonl" % (agent, session)
        index[key] = {"sessionId": session, "sessionFile": path, "updatedAt": EPOCH_MS, "displayName": "%s %d" % (title, number)}
    tree.files["agents/%s/sessions/sessions.json" % agent] = json.dumps(index, indent=2).encode()
    tree.files["workspace/MEMORY.md"] = b"# Memory\nThe tests of seed %d.\n" % seed
    tree.files["workspace/memory/2026-11-21.md"] = b"- looked around\n"
    return tree
