# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module: the whole story of a rule, as a playbook would tell it, against the stand-ins."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args

from clawmetry_sync.egress import render, rule
from support.openshell_cli import BASE, SANDBOX, World

pytestmark = pytest.mark.spawns

ROOT = Path(__file__).resolve().parents[2]
BINARY = "/opt/clawmetry/venv/bin/python3"
RULE = rule.build(binary=BINARY)
SHAPE = {"changed", "rendered", "files", "via", "revision", "restored", "previous_policy"}

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the module in this process: call(binary=…, check=True) returns what it answers."""
    monkeypatch.syspath_prepend(str(ROOT / "collections"))
    module = importlib.import_module("ansible_collections.clawmetry.sync.plugins.modules.clawmetry_policy")

    def run(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
        warned: list[str] = []
        monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _module, text: warned.append(text))
        with patch_module_args({**arguments, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
            module.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert set(answer) >= SHAPE
        return {**answer, "warned": " ".join(warned)}

    return run


@pytest.fixture(params=["0.0.40", "0.0.72", "0.0.111"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path, request.param)


def test_the_story_of_a_rule(call: Call, world: World) -> None:
    common: dict[str, Any] = {"sandbox": SANDBOX, "openshell": str(world.openshell), "via": "openshell", "timeout": 5}
    wanted = {**BASE, "network_policies": {**BASE["network_policies"], RULE.key: render.entry(RULE)}}

    check = call(binary=BINARY, check=True, **common)
    assert (check["changed"], check["via"], check["revision"], world.writes) == (True, "openshell", 2, [])
    assert yaml.safe_load(check["diff"][0]["before"]) == BASE and yaml.safe_load(check["diff"][0]["after"]) == wanted

    first = call(binary=BINARY, **common)
    assert (first["changed"], first["revision"], first["diff"]) == (True, 3, check["diff"])
    assert world.policy == wanted

    again = call(binary=BINARY, **common)
    assert (again["changed"], again["via"], again["revision"], again["diff"]) == (False, None, 3, [])

    moved = call(binary=BINARY, ingest_url="https://ingest.example.com:8443", **common)
    assert (moved["changed"], moved["revision"]) == (True, 4)

    world.set(fail=RULE.host)
    failed = call(binary=BINARY, **common)
    assert failed["failed"] and failed["restored"] is True and failed["previous_policy"] is None
    assert world.policy["network_policies"][RULE.key]["endpoints"][0]["host"] == "ingest.example.com"

    gone = call(state="absent", check=True, **common)
    assert gone["changed"] and gone["rendered"] is None and yaml.safe_load(gone["diff"][0]["after"]) == BASE
    assert call(state="absent", **common)["changed"] and world.policy == BASE
    assert not call(state="absent", **common)["changed"]

    assert len(world.writes) == 5
    assert "_provider_" not in json.dumps(world.revisions)


def test_a_former_policy_that_cannot_be_restored_is_handed_back(call: Call, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.set(deaf=True)
    failed = call(binary=BINARY, sandbox=SANDBOX, openshell=str(world.openshell), via="openshell", timeout=5)
    assert failed["restored"] is False and yaml.safe_load(failed["previous_policy"]) == BASE


def test_a_global_policy_fails_with_the_full_shape(call: Call, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.set(**{"global": BASE})
    failed = call(binary=BINARY, sandbox=SANDBOX, openshell=str(world.openshell), via="openshell")
    assert failed["failed"] and "for all sandboxes" in failed["msg"] and failed["changed"] is False


def test_files_without_a_sandbox(call: Call, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in render.FILES.values()]
    check = call(binary=BINARY, dest=str(tmp_path), check=True)
    assert check["changed"] and check["files"] == paths and not list(tmp_path.iterdir())
    assert [item["after"] for item in check["diff"]] == list(render.all_of(RULE).values())
    assert call(binary=BINARY, dest=str(tmp_path))["changed"]
    assert [Path(path).read_text() for path in paths] == list(render.all_of(RULE).values())
    assert not call(binary=BINARY, dest=str(tmp_path))["changed"]
    assert call(state="absent", dest=str(tmp_path))["changed"] and not list(tmp_path.iterdir())


def test_nothing_is_written_when_a_file_is_a_link_or_the_policy_cannot_be_read(call: Call, tmp_path: Path) -> None:
    world = World(tmp_path)
    place = tmp_path / "out"
    place.mkdir()
    command: dict[str, Any] = {"sandbox": SANDBOX, "openshell": str(world.openshell), "via": "openshell"}
    common = {**command, "binary": BINARY, "dest": str(place)}
    world.set(error="no gateway")
    assert "No active gateway" in call(**common)["msg"] and not list(place.iterdir())
    world.set(error=None)
    (place / render.FILES["openshell"]).symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in call(**common)["msg"]
    assert not world.writes and not (tmp_path / "elsewhere").exists()


def test_a_wide_interpreter_needs_the_override_and_is_warned_about(call: Call) -> None:
    assert "allow_wide_binary" in call(binary="/sandbox/.venv/bin/python")["msg"]
    answer = call(binary="/sandbox/.venv/bin/python", allow_wide_binary=True)
    assert "the agent may write below /sandbox" in answer["warned"]
    assert "shared" in call(binary="/usr/bin/python3.13")["warned"]
    assert not call(binary=BINARY)["warned"]
