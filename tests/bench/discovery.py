# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a discovery pass costs: CPU ms of this process and of its children, and the calls made. Prints JSON; claims nothing by itself.

    python tests/bench/discovery.py [--sandboxes 20] [--files 1000] [--passes 20]

A made-up host with that many sandboxes (containers of a fake engine, registered, listed by a stub CLI) and
transcripts; the first pass, then the mean of passes five seconds apart as a daemon makes them (CLIs answer from
memory), then one pass a minute later (the lists are asked again).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

importlib.import_module("conftest")  # maps the engine
from clawmetry_sync.discover import Discoverer, openshellcli
from support.bighost import BigHost
from support.fakeengine import FakeEngine


def fill(host: BigHost, sandboxes: int, files: int) -> None:
    """Add sandboxes like my-assistant until there are that many, and transcripts below alice's own .openclaw."""
    registry = json.loads(host.registry.read_text())
    pattern = next(row for row in host.engine.containers if "my-assistant" in row["Names"][0])
    listed = []
    for number in range(sandboxes - 2):
        name, identity = "agent-%d" % number, "id%d" % number
        registry["sandboxes"][name] = {**registry["sandboxes"]["my-assistant"], "name": name}
        labels = {**pattern["Labels"], "openshell.ai/sandbox-name": name, "openshell.ai/sandbox-id": identity}
        row = {**pattern, "Id": "%064x" % (number + 1), "Names": ["/openshell-" + name], "Labels": labels}
        host.engine.containers.append(row)
        host.engine.inspect[row["Id"]] = {**host.engine.inspect[pattern["Id"]], "Id": row["Id"]}
        listed.append({"id": identity, "name": name, "phase": "Ready", "current_policy_version": 1})
    host.registry.write_text(json.dumps(registry))
    host.openshell.says("sandbox-list", json.dumps(listed).encode())
    place = host.home / ".openclaw/agents/main/sessions"
    for number in range(files):
        (place / ("%08x.jsonl" % number)).write_text('{"type":"session"}\n')


def cost(work: Callable[[], object]) -> dict[str, float]:
    before, began = os.times(), time.monotonic()
    work()
    after = os.times()
    return {
        "own_cpu_ms": round(1000 * (after.user + after.system - before.user - before.system), 2),
        "children_cpu_ms": round(1000 * (after.children_user + after.children_system - before.children_user - before.children_system), 2),
        "wall_ms": round(1000 * (time.monotonic() - began), 2),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sandboxes", type=int, default=20)
    arguments.add_argument("--files", type=int, default=1000)
    arguments.add_argument("--passes", type=int, default=20)
    args = arguments.parse_args()
    with FakeEngine("docker-openshell-0.0.72.json") as engine:
        host = BigHost(engine)
        fill(host, args.sandboxes, args.files)
        discoverer = Discoverer(root=str(host.root))
        figures: dict[str, object] = {"sandboxes": args.sandboxes, "files": args.files, "first": cost(discoverer.discover)}
        calls = len(host.calls())
        figures["first_calls"] = {"cli": calls, "engine": len(engine.asked)}
        engine.asked.clear()

        def passes() -> None:
            for _pass in range(args.passes):
                discoverer.discover()

        total = cost(passes)
        figures["next"] = {name: round(value / args.passes, 2) for name, value in total.items()}
        figures["next_calls"] = {"cli": len(host.calls()) - calls, "engine": len(engine.asked) / args.passes}
        calls = len(host.calls())
        openshellcli.LIST_EVERY_S = 0.0
        figures["lists_again"] = cost(discoverer.discover)
        figures["lists_again_calls"] = {"cli": len(host.calls()) - calls}
        figures["rows"] = len(discoverer.discover().sandboxes)
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
