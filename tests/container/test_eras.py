# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names and labels of each era of OpenShell's Docker driver, side by side on one engine."""

from __future__ import annotations

import contextlib
import io
import tarfile
from typing import Optional

from support.ingest import Ingest
from support.sandbox import LABEL, SANDBOX_IMAGE, Sandbox, docker, openshell_0_0_72, openshell_0_0_111
from support.tree import make_tree

from .conftest import MakeNode
from .test_sandboxes import arrived, expected

IDLE = b"#!/bin/busybox sh\ntrap exit TERM\nwhile :; do /bin/busybox sleep 3600 & wait; done\n"


def openshell_0_1(name: str, program: str, network: str, cleanup: contextlib.ExitStack, sandbox_id: Optional[str] = None) -> Sandbox:
    """One container of the pair that 0.1.x makes: its first process is PROGRAM."""
    sandbox_id = sandbox_id or "id-" + name
    container = "openshell-default--%s-%s%s" % (name, sandbox_id, "-supervisor" if program.endswith("supervisor") else "")
    labels = {"managed-by": "openshell", "sandbox-id": sandbox_id, "sandbox-name": name, "sandbox-namespace": "default",
              "sandbox-workspace": "default"}  # fmt: skip
    flags = ["--label", LABEL, "--network", network, "--name", container, "--entrypoint", program]
    for key, value in labels.items():
        flags += ["--label", "openshell.ai/%s=%s" % (key, value)]
    box = Sandbox(name, container, docker("create", "--pull", "never", *flags, SANDBOX_IMAGE).decode().strip())
    cleanup.enter_context(box)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(program.lstrip("/"))
        entry.size, entry.mode = len(IDLE), 0o755
        archive.addfile(entry, io.BytesIO(IDLE))
    docker("cp", "-", box.id + ":/", stdin=packed.getvalue())
    docker("start", box.id)
    return box


def test_every_era_is_one_row_each(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    """0.0.40 and 0.0.72 label alike; 0.0.111 adds a workspace; 0.1.x runs two containers, of which one holds the agent."""
    boxes = [
        cleanup.enter_context(openshell_0_0_72(unique + "-40")),
        cleanup.enter_context(openshell_0_0_72(unique + "-72")),
        cleanup.enter_context(openshell_0_0_111(unique + "-111", workspace="team-a")),
        openshell_0_1(unique + "-01", "/usr/bin/openshell-sandbox", "none", cleanup),
    ]
    openshell_0_1(unique + "-01", "/usr/bin/openshell-supervisor", "host", cleanup)
    trees = {}
    for number, box in enumerate(boxes):
        trees[box.name] = make_tree(sessions=1, events=20, seed=number)
        box.put_tree(trees[box.name])
    daemon = node()
    daemon.start()
    ingest.wait_events(80)
    for name, tree in trees.items():
        assert arrived(ingest, name) == expected(tree)
    rows = {row["name"]: row for row in daemon.json("snapshot")["sandboxes"]}
    assert set(rows) == set(trees)
    assert all((row["type"], row["route"], row["readable"]) == ("nemoclaw", "proc", True) for row in rows.values())
    assert rows[unique + "-111"]["workspace"] == "team-a" and str(rows[unique + "-111"]["image"]).startswith("sha256:")
    assert rows[unique + "-01"]["id"] == "id-" + unique + "-01"
    assert ingest.duplicate_events == 0
