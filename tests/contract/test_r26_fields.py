# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R26: each fault moves the field that the documentation names for it, within two cycles; and no field is undocumented."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from clawmetry_sync import control
from support.ingest import EVENTS, Fault, Ingest
from support.node import Node, until

DOCUMENTED = Path(__file__).parents[2] / "docs/operation.md"
FAST = "from clawmetry_sync.ship import shipper\nshipper.PAUSE_BASE_S = shipper.BACKOFF_BASE_S = 0.05\n"
# Of who answers, not of how it goes.
IDENTITY = {"version", "pid", "uptime_s", "node_id", "passes", "sandboxes", "target.url"}
SOURCE_IDENTITY = {"sandbox", "sandbox_name", "agent", "session", "file", "records"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Ingest() as ingest:
        node = Node(tmp_path, ingest)
        node.daemon.prelude = FAST
        yield node
        node.daemon.kill()


def status(node: Node) -> dict[str, Any]:
    answer = control.ask(str(node.daemon.state_dir / "status.sock"), {"op": "status"})
    if answer is None:
        raise AssertionError("nobody answers")
    return answer


@dataclass(frozen=True)
class Case:
    fault: Callable[[Node], None]
    moved: Callable[[dict[str, Any]], Any]


def refuse(code: int) -> Callable[[Node], None]:
    def fault(node: Node) -> None:
        node.ingest.policy = lambda request: Fault(status=code) if request.endpoint == EVENTS else None
        node.append("one", 1)

    return fault


def down(node: Node) -> None:
    node.ingest.stop()
    node.append("one", 1)


def source(answer: dict[str, Any]) -> Any:
    return next(item for item in answer["sources"] if item["file"] == "one.jsonl")


def waits(now: dict[str, Any]) -> Any:
    return now["queue"]["pending"] and now["queue"]["pending_bytes"] and now["queue"]["oldest_pending_s"] > 0


def retried(now: dict[str, Any]) -> Any:
    return now["target"]["state"] == "retrying" and now["target"]["reason"] and source(now)["retries"] and source(now)["lag_s"] > 0


def counted(now: dict[str, Any]) -> Any:
    return now["target"]["retries"] and now["target"]["retries_total"] and source(now)["pending"]


def half_line(node: Node) -> None:
    node.write("one", b'{"half":')


def poison(node: Node) -> None:
    node.write("one", b"not json\n")


def rewritten(node: Node) -> None:
    node.write("one", b"".join(node.lines("one", 1)), mode="wb")


def pipe(node: Node) -> None:
    os.mkfifo(node.path("pipe"))


CASES = {
    "half a line": Case(half_line, lambda now: source(now)["lag_bytes"] == 8 and source(now)["lag_s"] > 0),
    "poison": Case(poison, lambda now: now["quarantined"] == source(now)["quarantined"] == 1 and now["quarantine"][0]["reason"]),
    "rewritten": Case(rewritten, lambda now: source(now)["generation"] == 1),
    "not a file": Case(pipe, lambda now: "pipe.jsonl" in str(now["problems"])),
    "ingest gone": Case(down, retried),
    "ingest in trouble": Case(refuse(503), counted),
    "what waits": Case(refuse(429), waits),
    "refused us": Case(refuse(401), lambda now: now["target"]["state"] == "paused"),
    "refused a record": Case(refuse(400), lambda now: now["dead_letters"] == 1 and now["dead_letter_bytes"] > 0),
}


@pytest.mark.parametrize("kind", CASES)
def test_r26_a_fault_moves_its_field_within_two_cycles(node: Node, kind: str) -> None:
    node.append("one", 3)
    node.daemon.start()
    node.arrived()
    until(lambda: status(node)["queue"]["pending"] == 0, 10, "empty outbox")
    case = CASES[kind]
    before = status(node)
    assert before["state"] == "ok" and not case.moved(before)
    case.fault(node)
    began = status(node)["passes"]
    deadline = time.monotonic() + 20
    while not case.moved(now := status(node)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert case.moved(now), "%s: %s" % (kind, now)
    # The cycle that was under way does not count, and neither does the one in which it is seen.
    assert now["passes"] - began <= 3, "%d cycles" % (now["passes"] - began)
    wanted = "ok" if kind in ("half a line", "poison", "rewritten") else "degraded"
    until(lambda: status(node)["state"] == wanted, 10, wanted)


def test_r26_last_ack_and_what_was_delivered_move_with_each_ack(node: Node) -> None:
    node.append("one", 1)
    node.daemon.start()
    node.arrived()
    first = until(lambda: (now := status(node)) and now["queue"]["pending"] == 0 and now, 10, "ack")
    time.sleep(0.05)
    node.append("one", 1)
    node.arrived()
    second = until(lambda: (now := status(node)) and source(now)["last_ack"] > source(first)["last_ack"] and now, 10, "another ack")
    assert second["target"]["last_ack"] >= source(second)["last_ack"] > first["target"]["last_ack"]
    assert second["target"]["delivered"] > first["target"]["delivered"]


def test_r26_every_field_is_documented_and_every_documented_field_is_there(node: Node) -> None:
    node.append("one", 1)
    node.daemon.start()
    node.arrived()
    answer = until(lambda: (now := status(node)) and now["sources"] and now, 10, "source")
    found = set()
    for name, value in answer.items():
        if name in ("target", "queue"):
            found |= {"%s.%s" % (name, inner) for inner in value}
        elif name == "sources":
            found |= {"sources[].%s" % inner for inner in value[0] if inner not in SOURCE_IDENTITY}
        else:
            found.add(name)
    documented = set()
    for line in DOCUMENTED.read_text().splitlines():
        if line.startswith("| `") and not line.startswith("| `pending_queries"):
            names = re.findall(r"`([a-z_.\[\]]+)`", line.split("|")[1])
            prefix = names[0].rpartition(".")[0] + "." if names and names[0].startswith("sources[]") else ""
            documented |= {name if "." in name or not prefix else prefix + name for name in names}
    assert documented == found - IDENTITY
