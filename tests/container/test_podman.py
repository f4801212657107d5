# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes as OpenShell's Podman driver makes them: its labels, and /sandbox on a named volume."""

from __future__ import annotations

import contextlib
import uuid

from support.ingest import Ingest, canonical
from support.sandbox import LABEL, SANDBOX_IMAGE, Sandbox, docker, run_container, until
from support.tree import make_tree, numbered

from .conftest import MakeNode
from .test_sandboxes import arrived, expected


def podman_sandbox(name: str, cleanup: contextlib.ExitStack) -> Sandbox:
    sandbox_id = str(uuid.uuid4())
    volume = "openshell-sandbox-%s-workspace" % sandbox_id
    docker("volume", "create", "--label", LABEL, volume)
    cleanup.callback(docker, "volume", "rm", "-f", volume, check=False)
    labels = {
        "openshell.managed": "true",
        "openshell.ai/sandbox-id": sandbox_id,
        "openshell.ai/sandbox-name": name,
        "openshell.ai/sandbox-namespace": "default",
    }
    options = ("-v", volume + ":/sandbox", "--hostname", "sandbox-" + name)
    box = run_container(name, "openshell-%s-%s" % (name, sandbox_id), SANDBOX_IMAGE, labels=labels, options=options)
    return cleanup.enter_context(box)


def test_a_podman_sandbox_is_read_running_and_stopped(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    box = podman_sandbox(unique, cleanup)
    tree = make_tree(sessions=2, events=30)
    box.put_tree(tree)
    daemon = node()
    daemon.start()
    ingest.wait_events(60)
    (row,) = daemon.json("snapshot")["sandboxes"]
    assert (row["name"], row["type"], row["route"], row["security"]["sandbox_enabled"]) == (unique, "nemoclaw", "proc", True)
    assert arrived(ingest, unique) == expected(tree)
    # Stopped, its volume is read in place; the cursors are those of before.
    box.stop()
    until(lambda: [row["route"] for row in daemon.status()["sandboxes"]] == ["volume"], 30, "volume route")
    box.start()
    until(lambda: [row["route"] for row in daemon.status()["sandboxes"]] == ["proc"], 30, "proc route")
    box.append("more.jsonl", *map(numbered, range(5)))
    ingest.wait_events(65)
    assert arrived(ingest, unique)["more.jsonl"] == [canonical(numbered(number)) for number in range(5)]
    assert ingest.duplicate_events == 0
    # Held through its volume alone, it is let go of when its container is removed.
    box.stop()
    until(lambda: [row["route"] for row in daemon.status()["sandboxes"]] == ["volume"], 30, "volume route")
    box.remove()
    until(lambda: daemon.status()["sandboxes"] == [], 40, "release")


def test_lines_on_a_volume_written_just_before_the_container_is_removed_arrive(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """Its mounts go with its last process; what was held of the volume does not."""
    box = podman_sandbox(unique, cleanup)
    box.append("s.jsonl", numbered(0))
    daemon = node()
    daemon.start()
    ingest.wait_events(1)
    box.append("s.jsonl", *map(numbered, range(1, 501)))
    docker("rm", "-f", box.id)
    ingest.wait_events(501)
    assert arrived(ingest, unique) == {"s.jsonl": [canonical(numbered(number)) for number in range(501)]}
    assert ingest.duplicate_events == 0
