# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waits until the log of an ingest program holds numbered sessions whole; says what is missing, twice, or wrong.

    python -m support.seen --log seen.jsonl --sandbox build-7 one.jsonl=0-399 …
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any


def problem(entries: list[dict[str, Any]], sandbox: str, session: str, first: int, last: int) -> str:
    """Return what is not as it must be, empty when all of SESSION arrived in order."""
    violations = [entry["violation"] for entry in entries if "violation" in entry]
    if violations:
        return "violations: %s" % violations[:5]
    batches = [entry for entry in entries if entry.get("session_file") == session]
    if any(batch["source"]["sandbox.name"] != sandbox for batch in batches):
        return "%s came from %s" % (session, [batch["source"] for batch in batches][:3])
    numbers = list(dict.fromkeys(event["seq"] for batch in batches for event in batch["events"]))
    if numbers == list(range(first, last + 1)):
        return ""
    missing = sorted(set(range(first, last + 1)) - set(numbers))
    return "%s: %d numbers, missing %s, in order: %s" % (session, len(numbers), missing[:10], numbers == sorted(numbers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--sandbox", required=True)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("session", nargs="+", metavar="SESSION=FIRST-LAST")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.timeout
    while True:
        entries = [json.loads(line) for line in arguments.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = []
        for wanted in arguments.session:
            session, span = wanted.split("=")
            first, last = map(int, span.split("-"))
            found.append(problem(entries, arguments.sandbox, session, first, last))
        if not any(found):
            return
        if time.monotonic() > deadline:
            sys.exit("; ".join(filter(None, found)))
        time.sleep(0.5)


if __name__ == "__main__":
    main()
