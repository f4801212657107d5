# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Route archive on a real engine: stopped sandboxes, running ones that are out of reach, and hostile ones (S17)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from support.ingest import Ingest, canonical
from support.sandbox import STATE, docker, openshell_0_0_72, until
from support.tree import make_tree, numbered

from .conftest import MakeNode
from .test_sandboxes import actions_on, arrived, expected

SESSIONS = STATE + "/agents/main/sessions"
CANARY = b"canary-of-the-host-archive"


def test_s17_a_stopped_sandbox_is_read_through_its_engine_and_left_as_it_is(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    box = cleanup.enter_context(openshell_0_0_72(unique))
    tree = make_tree(sessions=3, events=60, seed=3)
    box.put_tree(tree)
    box.stop()
    since = time.time()
    daemon = node()
    daemon.start()
    ingest.wait_events(180)
    assert arrived(ingest, unique) == expected(tree)
    assert [row["route"] for row in daemon.status()["sandboxes"]] == ["archive"]
    ingest.wait(lambda me: len(me.memory) >= 1, what="memory files")
    assert {row["name"]: row["readable"] for row in daemon.json("snapshot")["sandboxes"]} == {unique: True}
    # archive-path is the engine's word for GET of /archive; a PUT would be "extract-to-dir", an exec "exec_create".
    assert {action.split(":")[0] for action in actions_on(box.id, since)} <= {"archive-path"}
    assert daemon.json("status")["problems"] == {}
    # A second life finds the cursors of the first and fetches nothing again.
    daemon.kill()
    since = time.time()
    daemon.start()
    until(lambda: bool(daemon.status()["sandboxes"]), what="sandbox")
    time.sleep(1.5)
    assert ingest.duplicate_events == 0
    fetched = actions_on(box.id, since)
    assert len(fetched) <= 6, fetched  # three directories listed, sessions.json, memory files


def test_what_went_through_proc_is_not_sent_again_through_archive_and_back(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    box = cleanup.enter_context(openshell_0_0_72(unique))
    box.append("a.jsonl", *map(numbered, range(50)))
    daemon = node()
    daemon.start()
    ingest.wait_events(50)
    box.stop()
    until(lambda: [row["route"] for row in daemon.status()["sandboxes"]] == ["archive"], 40, "archive route")
    box.start()
    until(lambda: [row["route"] for row in daemon.status()["sandboxes"]] == ["proc"], 40, "proc route")
    box.append("a.jsonl", *map(numbered, range(50, 60)))
    ingest.wait_events(60)
    assert arrived(ingest, unique) == expected_lines(60)
    assert ingest.duplicate_events == 0


def expected_lines(count: int) -> dict[str, list[str]]:
    return {"a.jsonl": [canonical(numbered(number)) for number in range(count)]}


def test_a_running_sandbox_out_of_reach_is_followed(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    """As with an engine in a virtual machine: the only way is to ask, and not often."""
    box = cleanup.enter_context(openshell_0_0_72(unique))
    box.append("a.jsonl", *map(numbered, range(20)))
    daemon = node(routes=["archive"])
    daemon.start()
    ingest.wait_events(20)
    box.append("a.jsonl", *map(numbered, range(20, 30)))
    box.sh('cd "$1" && mv a.jsonl "a.jsonl.reset.2026-11-21T19-43-04.582Z"', SESSIONS)
    box.append("a.jsonl", *map(numbered, range(30, 40)))
    ingest.wait_events(40, timeout_s=60)
    assert sorted(arrived(ingest, unique)["a.jsonl"]) == sorted(expected_lines(40)["a.jsonl"])
    assert ingest.duplicate_events == 0


def test_s17_links_devices_and_pipes_in_a_stopped_sandbox_give_nothing(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret.jsonl").write_bytes(CANARY + b"\n")
    (canary / "MEMORY.md").write_bytes(CANARY)
    ingest.canaries.append(CANARY)
    # /etc/openshell is where keys are handed in; nothing of it may be had by a link either.
    box = cleanup.enter_context(openshell_0_0_72(unique, options=("-v", "%s:/etc/openshell:ro" % canary)))
    box.append("good.jsonl", *map(numbered, range(5)))
    box.sh(
        """
        cd "$1"
        ln -s /etc/openshell/secret.jsonl link.jsonl
        ln -s "$2/secret.jsonl" host.jsonl
        ln -s /proc/1/environ proc.jsonl
        mkfifo pipe.jsonl
        mkdir dir.jsonl
        mknod device.jsonl c 1 5
        mknod block.jsonl b 7 0
        ln good.jsonl hard.jsonl
        dd if=/dev/zero of=sparse.jsonl bs=1 seek=900000000 count=1 2>/dev/null
        ln -s /etc/openshell /sandbox/.openclaw/workspace
        mkdir -p ../../other ../../../agents2
        ln -s /etc/openshell ../../other/sessions
        ln -s ../agents2 ../../loop
        printf x >"$(printf 'new\\nline.jsonl')"
        """,
        SESSIONS,
        str(canary),
        user="0",
        check=False,
    )
    box.stop()
    daemon = node()
    daemon.start()
    ingest.wait_events(5)
    until(lambda: len(daemon.status()["problems"].get(unique, {})) >= 6, what="problems")
    problems = daemon.status()["problems"][unique]
    assert {"link.jsonl", "host.jsonl", "proc.jsonl", "pipe.jsonl", "device.jsonl", "sparse.jsonl"} <= set(problems), problems
    assert set(arrived(ingest, unique)) == {"good.jsonl"}
    assert CANARY not in b"".join(path.read_bytes() for path in daemon.state_dir.rglob("*") if path.is_file())
    assert daemon.rss_kib() < 80 * 1024


def test_a_removed_sandbox_is_let_go(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    box = cleanup.enter_context(openshell_0_0_72(unique))
    box.append("a.jsonl", *map(numbered, range(5)))
    box.stop()
    daemon = node()
    daemon.start()
    ingest.wait_events(5)
    box.remove()
    until(lambda: daemon.status()["sandboxes"] == [], 40, "release")


@pytest.mark.parametrize("routes", [["proc", "volume"], []])
def test_a_stopped_sandbox_without_the_route_says_why(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack, routes: list[str]
) -> None:
    box = cleanup.enter_context(openshell_0_0_72(unique))
    box.append("a.jsonl", numbered(1))
    box.stop()
    if not routes:
        docker("start", box.id)
        routes = ["volume"]
    row = node(routes=routes).json("snapshot")["sandboxes"][0]
    assert row["readable"] is False and row["sessions"]["count"] is None
    assert ("not running" if routes[0] == "proc" else "no route") in row["reason"]
