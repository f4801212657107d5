# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandbox containers on a real engine: which are found, what of them arrives, what happens when they go."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from support.ingest import Ingest, Source, canonical
from support.sandbox import SANDBOX_IMAGE, docker, openshell_0_0_72, openshell_0_0_111, run_container, unrelated_cuda
from support.tree import Tree, make_tree, numbered

from .conftest import MakeNode


def expected(tree: Tree) -> dict[str, list[str]]:
    return {name: [canonical(event) for event in events] for name, events in tree.transcripts().items()}


def arrived(ingest: Ingest, sandbox: str) -> dict[str, list[str]]:
    return {session: events for (source, session), events in ingest.events.items() if source.name == sandbox}


def actions_on(container: str, since: float) -> list[str]:
    """What the engine was asked to do with a container since a moment, exec among it."""
    span = ("--since", "%.3f" % since, "--until", "%.3f" % time.time())
    return docker("events", *span, "--filter", "container=" + container, "--format", "{{.Action}}").decode().split()


def test_both_generations_of_openshell_are_synced_whole_and_cuda_is_left_alone(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """Two sandboxes whose session ids collide, and a container of an NVIDIA image that is none."""
    older = cleanup.enter_context(openshell_0_0_72(unique + "-older"))
    newer = cleanup.enter_context(openshell_0_0_111(unique + "-newer"))
    cuda = cleanup.enter_context(unrelated_cuda())
    trees = {older: make_tree(sessions=3, events=60, seed=1), newer: make_tree(sessions=3, events=60, seed=1)}
    trees[newer].files = {path: content.replace(b"testing-1", b"testing-2") for path, content in trees[newer].files.items()}
    for sandbox, tree in trees.items():
        sandbox.put_tree(tree)
    since = time.time()

    daemon = node(sandboxes={"include": [unique + "*", cuda.container, "cuda*"]})
    daemon.start()
    ingest.wait_events(360)
    ingest.wait(lambda me: len(me.snapshots) >= 1 and len(me.sessions) >= 3, what="snapshot and sessions")
    snapshot = daemon.json("snapshot")
    assert daemon.terminate() == 0

    for sandbox, tree in trees.items():
        assert arrived(ingest, sandbox.name) == expected(tree)
        assert actions_on(sandbox.id, since) == []
    assert {source.name for source, _session in ingest.events} == {older.name, newer.name}
    assert ingest.duplicate_events == 0
    ours = {entry["name"]: entry for entry in snapshot["sandboxes"] if entry["name"].startswith(unique)}
    assert set(ours) == {older.name, newer.name}
    assert all(entry["readable"] and entry["route"] == "proc" and entry["store"] == "jsonl" for entry in ours.values())
    assert {entry["sessions"]["count"] for entry in ours.values()} == {3}
    assert not [entry for entry in snapshot["sandboxes"] if cuda.id in str(entry) or cuda.container in str(entry)]
    assert actions_on(cuda.id, since) == []
    assert docker("diff", cuda.id) == b""


def test_the_early_nemoclaw_layout_is_read_behind_its_links(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """.openclaw/agents is a link to .openclaw-data/agents: each line arrives once, through the real path."""
    sandbox = cleanup.enter_context(openshell_0_0_72(unique))
    tree = make_tree(sessions=2, events=30)
    sandbox.put_tree(tree, "/sandbox/.openclaw-data")
    sandbox.sh("mkdir /sandbox/.openclaw; ln -s ../.openclaw-data/agents ../.openclaw-data/workspace /sandbox/.openclaw/")
    node().start()
    ingest.wait_events(60)
    ingest.wait(lambda me: bool(me.memory), what="memory")
    assert arrived(ingest, unique) == expected(tree)
    assert [entry["path"] for entry in ingest.memory[0]["memory_content"]] == ["MEMORY.md", "memory/2026-11-21.md"]
    assert ingest.duplicate_events == 0


def test_every_agent_of_a_sandbox_is_a_source_of_its_own(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    sandbox = cleanup.enter_context(openshell_0_0_111(unique))
    trees = {agent: make_tree(sessions=1, events=20, agent=agent) for agent in ("main", "advisor")}
    for tree in trees.values():
        sandbox.put_tree(tree)
    node().start()
    ingest.wait_events(40)
    for agent, tree in trees.items():
        for name, events in expected(tree).items():
            assert ingest.events[Source(unique, "nemoclaw", agent), name] == events


def test_lines_that_are_appended_arrive_once_and_in_order(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """Through a restart, which re-sends nothing."""
    sandbox = cleanup.enter_context(openshell_0_0_72(unique))
    sandbox.start_writer("live.jsonl", lines=2000, pause_every=100)
    daemon = node()
    daemon.start()
    ingest.wait_events(300)
    assert daemon.terminate() == 0
    daemon.start()
    ingest.wait_events(2000)
    ((_where, events),) = ingest.events.items()
    assert events == [canonical(event) for event in sandbox.written("live.jsonl")]
    assert (len(events), ingest.duplicate_events) == (2000, 0)


def test_r13_a_sandbox_made_anew_under_its_old_name_starts_at_its_first_line(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """Same name, same path, and the new file is longer than the old cursor: nothing is skipped."""
    first: list[Any] = [numbered(number) for number in range(50)]
    second: list[Any] = [numbered(number) for number in range(1000, 1100)]
    old = cleanup.enter_context(openshell_0_0_72(unique, sandbox_id="1"))
    old.append("s.jsonl", *first)
    node().start()
    ingest.wait_events(50)
    old.remove()
    new = cleanup.enter_context(openshell_0_0_72(unique, sandbox_id="1"))
    new.append("s.jsonl", *second)
    ingest.wait_events(150)
    assert arrived(ingest, unique) == {"s.jsonl": [canonical(event) for event in first + second]}
    assert ingest.duplicate_events == 0


def test_r13_the_same_path_in_two_sandboxes_has_two_cursors(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """Identical bytes at first; then each goes its own way."""
    both = [cleanup.enter_context(openshell_0_0_111(unique + end)) for end in ("-a", "-b")]
    for sandbox in both:
        sandbox.append("s.jsonl", *map(numbered, range(10)))
    node().start()
    ingest.wait_events(20)
    both[1].append("s.jsonl", *map(numbered, range(10, 15)))
    ingest.wait_events(25)
    both[0].append("s.jsonl", *map(numbered, range(20, 22)))
    ingest.wait_events(27)
    wanted = [[*range(10), 20, 21], [*range(15)]]
    for sandbox, numbers in zip(both, wanted):
        assert arrived(ingest, sandbox.name) == {"s.jsonl": [canonical(numbered(number)) for number in numbers]}


def test_r14_what_a_sandbox_wrote_just_before_it_was_removed_arrives(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """1,000 lines and ``docker rm -f`` at once; the held root is let go of afterwards."""
    sandbox = cleanup.enter_context(openshell_0_0_72(unique))
    sandbox.append("s.jsonl", numbered(0))
    daemon = node()
    daemon.start()
    ingest.wait_events(1)
    sandbox.append("s.jsonl", *map(numbered, range(1, 1001)))
    sandbox.remove()
    ingest.wait_events(1001)
    assert arrived(ingest, unique) == {"s.jsonl": [canonical(numbered(number)) for number in range(1001)]}
    assert ingest.duplicate_events == 0


def test_a_sandbox_that_was_stopped_goes_on_where_it_was(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    sandbox = cleanup.enter_context(openshell_0_0_72(unique))
    sandbox.append("s.jsonl", *map(numbered, range(5)))
    node().start()
    ingest.wait_events(5)
    sandbox.stop()
    sandbox.start()
    sandbox.append("s.jsonl", *map(numbered, range(5, 9)))
    ingest.wait_events(9)
    assert arrived(ingest, unique) == {"s.jsonl": [canonical(numbered(number)) for number in range(9)]}
    assert ingest.duplicate_events == 0


def test_a_sandbox_that_appears_later_is_found(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    daemon = node()
    daemon.start()
    sandbox = cleanup.enter_context(openshell_0_0_111(unique))
    sandbox.append("s.jsonl", *map(numbered, range(5)))
    ingest.wait_events(5)


@pytest.mark.parametrize("image", ["clawmetry-test/sandbox:1"])
def test_a_plain_container_is_a_sandbox_only_when_openclaw_is_in_it(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack, image: str
) -> None:
    """Its name makes it a candidate; a readable state directory confirms it."""
    empty = cleanup.enter_context(run_container(unique + "-openclaw-empty", unique + "-openclaw-empty", image))
    used = cleanup.enter_context(run_container(unique + "-openclaw-used", unique + "-openclaw-used", image))
    used.append("s.jsonl", *map(numbered, range(5)))
    daemon = node()
    daemon.start()
    ingest.wait_events(5)
    names = [entry["name"] for entry in daemon.json("snapshot")["sandboxes"]]
    assert used.name in names
    assert empty.name not in names
    assert {source for source, _session in ingest.events} == {Source(used.name, "docker", "main")}


PLACES = ("/root/.openclaw", "/data", "/app/.openclaw", "/home/node/.openclaw", "/home/alice/.openclaw-dev")


def test_plain_docker_keeps_it_where_its_image_does(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    """No label says so; a name makes it a candidate and its state directories a sandbox, running and stopped."""
    box = cleanup.enter_context(run_container(unique, unique + "-openclaw", SANDBOX_IMAGE))
    for number, place in enumerate(PLACES):
        sessions = place + "/agents/main/sessions"
        event = b'{"type":"message","seq":%d}\n' % number
        box.sh('mkdir -p "$1"; cat >"$1/s$2.jsonl"', sessions, str(number), stdin=event, user="0")
    daemon = node(discover=["docker"])
    daemon.start()
    ingest.wait_events(len(PLACES))
    assert {name: texts for (_source, name), texts in ingest.events.items()} == {
        "s%d.jsonl" % number: [canonical({"type": "message", "seq": number})] for number in range(len(PLACES))
    }
    (row,) = daemon.json("snapshot")["sandboxes"]
    assert (row["type"], row["agent"], row["route"], row["sessions"]["count"]) == ("docker", "openclaw", "proc", len(PLACES))
    assert row["security"] == {"sandbox_enabled": None, "network_policy": None, "policies": None}
    daemon.kill()
    box.stop()
    # An engine has no call that lists a directory: homes of other users and profiles are not asked for.
    (row,) = daemon.json("snapshot")["sandboxes"]
    assert (row["status"], row["route"], row["sessions"]["count"]) == ("stopped", "archive", len(PLACES) - 1)
