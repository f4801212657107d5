# Copyright (c) 2026, ClawMetry sync contributors
# BSD-2-Clause licence (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: BSD-2-Clause

"""``clawmetry adopt``: its arguments and what it prints. No secret is an argument or printed."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from .adopt import adopt
from .terminal import line, note


def add_parser(verbs: Any, shared: argparse.ArgumentParser) -> None:
    text = "take over node id, keys, endpoint and cursors of a host connected with ClawMetry's own client"
    parser = verbs.add_parser("adopt", help=text, description=text, parents=[shared])
    parser.add_argument("--from", dest="home", metavar="HOME", help="home directory, or its .clawmetry (default: the only one found)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; write nothing, stop nothing")
    parser.add_argument("--stop-old", action="store_true", help="stop and disable the old daemon first")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when it was, or could be, done; 2 when something stands against it."""
    result = adopt(args.config, args.home, os.environ, dry_run=args.dry_run, stop_old=args.stop_old)
    if args.json:
        line(json.dumps(result, indent=2))
    else:
        verdict = "not taken over" if not result["ok"] else "can be taken over" if args.dry_run else "taken over"
        line("%s: %s" % (result["home"], verdict))
        for step in result["steps"]:
            line("  %-14s %s: %s" % (step["name"], step["result"], step["detail"]))
        for problem in result["problems"]:
            note("clawmetry: %s" % problem)
        if result["ok"]:
            note("next: %s" % ("clawmetry adopt" if args.dry_run else "clawmetry check-config, then start the daemon"))
    return 0 if result["ok"] else 2
