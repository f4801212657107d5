# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""``clawmetry dead-letters``: what the ingest refused for good, and a person's word on it.

A running daemon is asked to do it over its status socket; without one the state is opened here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from typing import Any

from . import control
from .config import load
from .errors import StateError
from .queue import DatabaseError, Queue
from .terminal import line


def add_parser(verbs: Any, shared: argparse.ArgumentParser) -> None:
    text = "what the ingest refused for good: list it, send it once more, or discard it"
    parser = verbs.add_parser("dead-letters", help=text, description=text, parents=[shared])
    parser.add_argument("--json", action="store_true", help="print JSON")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--send-again", action="store_const", const="send-again", dest="action", help="once the ingest is mended")
    what.add_argument("--discard", action="store_const", const="discard", dest="action", help="delete them; they are not sent any more")


def perform(queue: Queue, action: Any) -> dict[str, Any]:
    """Do ACTION (send-again, discard, or nothing) and return {"done": rows, "dead_letters": rows left, "bytes", "newest": [...]}."""
    done = queue.send_again() if action == "send-again" else queue.discard_dead_letters() if action == "discard" else 0
    rows, size = queue.dead_letters_size()
    return {"done": done, "dead_letters": rows, "bytes": size, "newest": queue.dead_letters()}


def run(args: argparse.Namespace) -> int:
    settings = load(args.config)
    answer = control.ask(settings.socket_path, {"op": "dead-letters", "action": args.action})
    if answer is None and os.path.lexists(settings.queue_path):
        opened = Queue.looked_into(settings.queue_path) if args.action is None else contextlib.closing(Queue(settings.queue_path))
        try:
            with opened as queue:
                answer = perform(queue, args.action)
        except DatabaseError as exc:
            raise StateError("queue.db cannot be read", where=settings.queue_path, cause=str(exc)) from exc
    answer = answer or {"done": 0, "dead_letters": 0, "bytes": 0, "newest": []}
    if args.json:
        line(json.dumps(answer, indent=2))
        return 0
    if args.action is not None:
        line("%d %s" % (answer["done"], "wait to be sent again" if args.action == "send-again" else "discarded"))
    line("%d dead letters, %d bytes" % (answer["dead_letters"], answer["bytes"]))
    for letter in answer["newest"]:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter["at"]))
        line("%s %s: %d records of %s, %s" % (when, letter["endpoint"], letter["records"], letter["file"] or "this host", letter["reason"]))
    return 0
