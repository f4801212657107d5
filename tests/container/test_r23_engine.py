# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R23: the engine hangs, ends, comes back. What is open goes on; what is new is found once it answers again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from support.engineproxy import EngineProxy
from support.ingest import Ingest, canonical
from support.node import until
from support.sandbox import Sandbox, openshell_0_0_72, openshell_0_0_111
from support.tree import numbered

from .conftest import MakeNode

HANG_S = 12.0  # two discoveries, and the time an answer is waited for


def test_r23_open_sources_flow_without_an_engine_and_discovery_resumes(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack, tmp_path: Path
) -> None:
    count = 0

    def flows(sandbox: Sandbox) -> None:
        nonlocal count
        event = numbered(count)
        count += 1
        sandbox.append("s.jsonl", event)
        ingest.wait(lambda me: canonical(event) in me.all_events(), 10, "line %d of %s" % (count, sandbox.name))

    engine = cleanup.enter_context(EngineProxy(tmp_path / "engine.sock"))
    first = cleanup.enter_context(openshell_0_0_72(unique + "-first"))
    daemon = node(docker_host=engine.url)
    daemon.start()
    flows(first)

    engine.hang()
    second = cleanup.enter_context(openshell_0_0_111(unique + "-second"))
    second.append("later.jsonl", numbered(1000))
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline:
        flows(first)
        time.sleep(1.0)
    assert not [key for key in ingest.events if key[1] == "later.jsonl"], "it was found although the engine hung"
    engine.go_on()
    ingest.wait(lambda me: canonical(numbered(1000)) in me.all_events(), 60, "what appeared while the engine hung")
    flows(first)

    engine.stop()
    third = cleanup.enter_context(openshell_0_0_72(unique + "-third"))
    third.append("last.jsonl", numbered(2000))
    for sandbox in (first, second) * 3:
        flows(sandbox)
        time.sleep(1.0)
    engine.start()
    ingest.wait(lambda me: canonical(numbered(2000)) in me.all_events(), 60, "what appeared while the engine was down")
    for sandbox in (first, second, third):
        flows(sandbox)
    # A sandbox that ends while nobody can be asked is drained and let go of all the same.
    engine.hang()
    second.append("s.jsonl", numbered(3000))
    second.remove()
    ingest.wait(lambda me: canonical(numbered(3000)) in me.all_events(), 10, "last line of a sandbox that is gone")
    engine.go_on()
    until(lambda: len(daemon.status()["sandboxes"]) == 2, 60, "release of what is gone")
    assert ingest.duplicate_events == 0
    assert "Traceback" not in daemon.log()
