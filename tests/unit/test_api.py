# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts as a whole, on hosts of every kind: each key is there, each null has its reason, and no question outlasts the time given."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from clawmetry_sync import api, run, snapshot
from clawmetry_sync.dockerapi import Engine, EngineError
from clawmetry_sync.errors import CommandError, ConfigError
from support.fakeengine import FakeEngine
from support.shape import problems

pytestmark = [pytest.mark.network, pytest.mark.spawns]


def facts(tmp_path: Path, config: Optional[dict[str, Any]] = None, **options: Any) -> dict[str, Any]:
    """Take facts of this machine, of which only what CONFIG names is looked at, and hold them to their shape."""
    path = tmp_path / "clawmetry.yml"
    settings = {"docker_host": "unix://%s/absent.sock" % tmp_path, "homes": [], "state_dir": str(tmp_path / "state"), **(config or {})}
    path.write_text(json.dumps(settings))
    found = api.snapshot(config_path=str(path), **{"env": {}, **options})
    assert problems(found) == [] and json.loads(json.dumps(found)) == found
    return found


def home(tmp_path: Path, *agents: str) -> str:
    for agent in agents or ("main",):
        sessions = tmp_path / "home/.openclaw/agents" / agent / "sessions"
        sessions.mkdir(parents=True)
        (sessions / "same.jsonl").write_bytes(b'{"type":"session","id":"same"}\n')
    return str(tmp_path / "home")


def openshell_that_sleeps(tmp_path: Path) -> None:
    """An openshell, in the home's own bin, that answers nothing for longer than anyone waits."""
    program = tmp_path / "home/.local/bin/openshell"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    gateway = tmp_path / "home/.config/openshell/gateways/nemoclaw"
    gateway.mkdir(parents=True)
    (gateway / "metadata.json").write_text('{"name": "nemoclaw"}')


@pytest.mark.parametrize("subset", [["all"], ["min"], ["docker"], ["openclaw", "min"], ["nemoclaw", "k3s"]])
def test_every_key_is_there_for_every_subset(tmp_path: Path, subset: list[str]) -> None:
    found = facts(tmp_path, {"homes": [home(tmp_path, "main", "advisor")]}, gather_subset=subset)
    (box,) = found["sandboxes"] or [None]
    assert (box is not None) == (not {"all", "min", "openclaw"}.isdisjoint(subset))
    if box is not None:
        assert (box["type"], box["readable"]) == ("bare", None if subset == ["min"] else True)


def test_every_key_is_there_with_an_engine_and_containers_that_cannot_be_read(tmp_path: Path) -> None:
    with FakeEngine("docker-openshell-0.0.26.json", "docker-openshell-0.0.72.json") as engine:
        found = facts(tmp_path, {"docker_host": engine.url})
    assert found["sandboxes"] and all(not box["readable"] for box in found["sandboxes"])
    assert found["metadata"]["sandbox.name"]


@pytest.mark.parametrize("options", [{"sandbox": "nope"}, {"env": {"NEMOCLAW_SANDBOX": "nope"}}])
def test_an_unknown_sandbox_gives_no_row_and_says_so(tmp_path: Path, options: dict[str, Any]) -> None:
    found = facts(tmp_path, {"homes": [home(tmp_path)]}, **options)
    assert not found["sandboxes"] and any("nope" in text for text in found["deployment"]["warnings"])
    assert set(found["metadata"].values()) == {None}


def test_failure_has_the_whole_shape_and_its_reason_everywhere() -> None:
    found = snapshot.unknown("no configuration could be read")
    assert problems(found) == []
    assert {text for runtime in found["runtimes"].values() for text in runtime["evidence"]} == {"no configuration could be read"}
    assert {layer["present"] for layer in found["topology"].values()} == {None}


def test_an_engine_that_never_answers_takes_no_longer_than_the_time_given(tmp_path: Path) -> None:
    with FakeEngine() as engine:
        engine.hang.set()
        found = facts(tmp_path, {"docker_host": engine.url}, timeout_s=0.3)
        engine.release.set()
    assert found["runtimes"]["docker"]["present"] is None
    assert any("no answer in 0." in text for text in found["runtimes"]["docker"]["evidence"])  # not in the usual 5 s


def test_a_command_that_never_answers_takes_no_longer_than_the_time_given(tmp_path: Path) -> None:
    place = home(tmp_path)
    openshell_that_sleeps(tmp_path)
    found = facts(tmp_path, {"homes": [place]}, timeout_s=0.5)
    assert found["runtimes"]["openshell"]["present"] is True
    assert any(run.NO_TIME in text or "no answer after 0." in text for text in found["runtimes"]["openshell"]["evidence"])
    # What needed nobody's answer was found all the same; what would have had to be looked into was not.
    for box in found["sandboxes"]:
        assert box["readable"] is False and run.NO_TIME in box["reason"] and box["sessions"]["count"] is None


def test_after_the_end_nothing_is_run_and_nobody_asked() -> None:
    ran: list[Any] = []
    with pytest.raises(CommandError, match=run.NO_TIME):
        run.until(lambda *args, **options: ran.append(args), time.monotonic() - 1)(["true"])
    with FakeEngine() as engine, pytest.raises(EngineError, match=run.NO_TIME) as caught:
        Engine(engine.url, ends_at=time.monotonic() - 1).version()
    assert caught.value.kind == "hangs" and not ran and not engine.asked


def test_a_subset_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bogus"):
        facts(tmp_path, gather_subset=["bogus"])
