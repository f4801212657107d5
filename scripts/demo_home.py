# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause
"""Writes a small OpenClaw state directory, of the JSONL era, for scripts/quickstart: python3 demo_home.py DIRECTORY.

Everything in it is invented here and always the same, so a second run writes the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TALKS = {
    "demo-weather": (
        "Weather for the field trip",
        [
            ("user", "Will it rain on Saturday?"),
            ("assistant", "A shower before noon, then dry. Take a jacket."),
            ("user", "Note that for the others."),
            ("assistant", "Done: it is in MEMORY.md."),
        ],
    ),
    "demo-report": (
        "Report of the week",
        [
            ("user", "Sum up the three tickets we closed."),
            ("assistant", "Two fixes to the importer and one to its documentation; the importer is twice as fast."),
        ],
    ),
}
FILES = {
    "AGENTS.md": "# How we work\n\nShort answers, with the source.\n",
    "MEMORY.md": "# What to remember\n\n- Saturday: a shower before noon.\n",
    "memory/2026-01-05.md": "Closed three tickets.\n",
}


def lines(session: str, talk: list[tuple[str, str]]) -> list[dict[str, object]]:
    header: dict[str, object] = {"type": "session", "version": 3, "id": session, "timestamp": "2026-01-05T09:00:00.000Z", "cwd": "/demo"}
    found = [header]
    parent = None
    for number, (role, text) in enumerate(talk, start=1):
        name = "%08x" % (number * 4097)
        message: dict[str, object] = {"role": role, "content": [{"type": "text", "text": text}]}
        if role == "assistant":
            message.update(provider="demo", model="demo-1", usage={"input": 40, "output": 20, "totalTokens": 60})
        stamp = "2026-01-05T09:%02d:00.000Z" % number
        found.append({"type": "message", "id": name, "parentId": parent, "timestamp": stamp, "message": message})
        parent = name
    return found


def main() -> None:
    state = Path(sys.argv[1])
    sessions = state / "agents/main/sessions"
    sessions.mkdir(parents=True, exist_ok=True)
    index = {}
    for session, (title, talk) in TALKS.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines(session, talk))
        (sessions / (session + ".jsonl")).write_text(text, encoding="utf-8")
        index["agent:main:" + session] = {"sessionId": session, "displayName": title, "updatedAt": 1767604200000, "model": "demo-1"}
    (sessions / "sessions.json").write_text(json.dumps(index), encoding="utf-8")
    for name, text in FILES.items():
        path = state / "workspace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
