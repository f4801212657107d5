# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rule into a sandbox and out of it, against stand-ins for the command lines of three versions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Optional

import pytest

from clawmetry_sync.discover import binaries
from clawmetry_sync.egress import apply, files, render, rule
from clawmetry_sync.egress.policy import PolicyError, load_yaml
from clawmetry_sync.errors import ConfigError
from support.openshell_cli import BASE, SANDBOX, World

pytestmark = pytest.mark.spawns

BINARY = "/opt/clawmetry/venv/bin/python3"
RULE = rule.build(binary=BINARY)
WANTED = {**BASE, "network_policies": {**BASE["network_policies"], RULE.key: render.entry(RULE)}}
HOST = RULE.host


@pytest.fixture(params=["0.0.40", "0.0.72", "0.0.111"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path, request.param)


def plan(
    world: World, made: rule.Rule = RULE, *, present: bool = True, home: Optional[Path] = None, sandbox: str = SANDBOX, **more: Any
) -> apply.Plan:
    wide = more.pop("allow_wide_binary", False)
    home = home or world.file.parent
    target = apply.find(
        sandbox, openshell=str(world.openshell), nemoclaw=str(world.nemoclaw), home=str(home), environ={}, timeout_s=5, **more
    )
    return apply.plan(target, made, present=present, allow_wide_binary=wide)


def push(world: World, made: rule.Rule = RULE, **more: Any) -> apply.Outcome:
    return apply.carry_out(plan(world, made, **more))


def registry(home: Path, **entry: Any) -> None:
    (home / ".nemoclaw").mkdir(exist_ok=True)
    entry = {"name": SANDBOX, "gatewayName": "nemoclaw", "gatewayPort": 8080, **entry}
    (home / ".nemoclaw/sandboxes.json").write_text(json.dumps({"sandboxes": {SANDBOX: entry}, "defaultSandbox": SANDBOX}))


def test_present_adds_the_rule_and_keeps_everything_else(world: World) -> None:
    outcome = push(world)
    assert (outcome.changed, outcome.via, outcome.revision) == (True, "openshell", 3)
    assert world.policy == WANTED
    assert len(world.writes) == 1 and "--wait" in world.writes[0]


def test_present_again_writes_nothing(world: World) -> None:
    push(world)
    again = push(world)
    assert (again.changed, again.via, again.revision) == (False, None, 3)
    assert len(world.writes) == 1


def test_a_changed_rule_is_updated_in_place(world: World) -> None:
    push(world)
    other = rule.build(ingest_url="https://ingest.example.com:8443/x", binary=BINARY)
    assert push(world, other).revision == 4
    assert world.policy["network_policies"] == {**BASE["network_policies"], RULE.key: render.entry(other)}


def test_absent_takes_out_ours_only_and_absent_again_writes_nothing(world: World) -> None:
    push(world)
    assert push(world, present=False).changed
    assert world.policy == BASE
    assert not push(world, present=False).changed
    assert len(world.writes) == 2


def test_a_plan_writes_nothing_and_its_diff_is_the_whole_change(world: World) -> None:
    made = plan(world)
    diff = made.diff()
    assert made.changed and not world.writes
    assert (load_yaml(diff["before"]), load_yaml(diff["after"])) == (BASE, WANTED)
    assert diff["before_header"] == "policy of my-assistant (revision 2)"


def test_what_the_gateway_composed_is_never_written_back(world: World) -> None:
    push(world)
    push(world, present=False)
    for revision in world.revisions:
        assert not [key for key in revision["document"]["network_policies"] if key.startswith("_provider_")]


def test_a_revision_that_does_not_load_is_followed_by_the_former_policy(world: World) -> None:
    world.set(fail=HOST)
    with pytest.raises(apply.PushFailed, match="former policy is in force again") as caught:
        push(world)
    assert caught.value.restored is True
    assert "conflicting tls settings" in str(caught.value) or "failed to load" in str(caught.value)
    assert [item["status"] for item in world.revisions[2:]] == ["Failed", "Loaded"]
    assert world.policy == BASE and world.revisions[-1]["document"] == BASE


def test_a_sandbox_that_never_confirms_is_given_its_former_policy(world: World) -> None:
    world.set(deaf=True)
    with pytest.raises(apply.PushFailed, match="no answer from the sandbox in 5 s.*could not be restored") as caught:
        push(world)
    assert caught.value.restored is False and "previous_policy" in str(caught.value)
    assert world.revisions[-1]["document"] == BASE


def test_a_policy_the_gateway_does_not_even_store_is_not_pushed_a_second_time(world: World) -> None:
    world.set(reject="network_policies.clawmetry_ingest: not today")
    with pytest.raises(apply.PushFailed, match="not today.*as it was") as caught:
        push(world)
    assert caught.value.restored is None
    assert len(world.writes) == 1 and len(world.revisions) == 2


def test_the_active_revision_counts_when_the_newest_did_not_load(world: World) -> None:
    world.set(fail="bad.example")
    broken = {**BASE, "network_policies": {"x": {"name": "x", "endpoints": [{"host": "bad.example", "port": 1}], "binaries": []}}}
    world.put(broken)
    assert "revision 3 of the policy did not load" in plan(world).warnings[0]
    outcome = push(world)
    assert (outcome.changed, outcome.warnings, world.policy) == (True, (), WANTED)
    world.put(broken)
    again = push(world)
    assert not again.changed and "revision 5 of the policy did not load" in again.warnings[0]


def test_a_change_that_is_under_way_is_not_overwritten(world: World) -> None:
    world.set(deaf=True)
    world.put({**BASE, "network_policies": {}})
    with pytest.raises(PolicyError, match="another change is under way.*revision 3"):
        plan(world)
    assert not world.writes


def test_a_global_policy_is_refused(world: World) -> None:
    world.set(**{"global": BASE})
    with pytest.raises(PolicyError, match="for all sandboxes"):
        plan(world)
    assert not world.writes


@pytest.mark.parametrize(
    ("error", "said", "cure"),
    [
        ("no gateway", "No active gateway", "become the user"),
        (["Unavailable", "fake gateway: forced UNAVAILABLE"], "forced UNAVAILABLE", "start the gateway"),
        (["PermissionDenied", "denied by the gateway"], "denied", "become the user"),
    ],
)
def test_an_unreadable_policy_is_refused_in_the_clis_own_words(world: World, error: Any, said: str, cure: str) -> None:
    world.set(error=error)
    with pytest.raises(PolicyError, match="cannot read the policy") as caught:
        plan(world)
    assert said in str(caught.value) and cure in str(caught.value)
    assert not world.writes


def test_a_sandbox_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(PolicyError, match="sandbox not found.*openshell sandbox list"):
        plan(world, sandbox="nobody")


@pytest.mark.parametrize("name", ["", "-g", "--global", "a b", "../x", "a\n", "x" * 300])
def test_a_name_that_is_an_option_or_worse_never_reaches_a_command_line(tmp_path: Path, name: str) -> None:
    world = World(tmp_path)
    with pytest.raises(PolicyError, match="no sandbox name"):
        plan(world, sandbox=name)
    assert not world.load()["calls"]


def test_an_entry_of_somebody_elses_is_refused(world: World) -> None:
    world.put({**BASE, "network_policies": {RULE.key: {"name": "theirs", "endpoints": [], "binaries": []}}})
    with pytest.raises(PolicyError, match="another origin"):
        plan(world)
    assert not world.writes


def test_an_interpreter_the_policy_lets_the_agent_write_is_refused_unless_allowed(world: World) -> None:
    wide = rule.build(binary="/srv/agent/python3")
    with pytest.raises(PolicyError, match="too wide"):
        plan(world, wide)
    assert push(world, wide, allow_wide_binary=True).changed


def test_a_version_that_does_not_say_so_is_asked_in_every_form(world: World) -> None:
    """An unknown version starts with the newest flags, and each "unexpected argument" leads to the next older form."""
    text = world.openshell.read_text()
    world.openshell.write_text(text.replace("exec", '[ "$1" != --version ] || exit 3\nexec', 1))
    assert push(world).changed and world.policy == WANTED


def test_a_binary_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="gave no answer"):
        apply.plan(apply.find(SANDBOX, openshell=str(tmp_path / "none"), home=str(tmp_path), environ={}), RULE)


def test_the_commands_are_found_where_their_installers_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "SYSTEM_DIRS", ())
    with pytest.raises(PolicyError, match="no openshell command.*become the user"):
        apply.find(SANDBOX, home=str(tmp_path), environ={})
    (tmp_path / ".local/bin").mkdir(parents=True)
    world = World(tmp_path / ".local/bin")
    assert apply.find(SANDBOX, home=str(tmp_path), environ={}).openshell.path == str(world.openshell)
    registry(tmp_path)
    made = apply.plan(apply.find(SANDBOX, home=str(tmp_path), environ={}, timeout_s=5), RULE)
    assert apply.carry_out(made).via == "nemoclaw"
    world.nemoclaw.unlink()
    assert "there is no nemoclaw command" in apply.find(SANDBOX, home=str(tmp_path), environ={}).warnings[0]


# -- through NemoClaw ---------------------------------------------------------------------------


@pytest.fixture
def owned(tmp_path: Path) -> World:
    registry(tmp_path)
    return World(tmp_path, "0.0.72")


def test_nemoclaw_is_asked_where_it_owns_the_sandbox(owned: World) -> None:
    outcome = push(owned)
    assert (outcome.changed, outcome.via, outcome.revision, outcome.warnings) == (True, "nemoclaw", 3, ())
    assert owned.policy == WANTED and list(owned.load()["custom"]) == ["clawmetry-ingest"]
    assert not push(owned).changed
    reads = [call for call in owned.load()["calls"] if call[:3] == ["openshell", "policy", "get"]]
    assert all(call[3:5] == ["-g", "nemoclaw"] for call in reads)


def test_a_sandbox_of_no_registry_is_openshells(tmp_path: Path) -> None:
    registry(tmp_path, name=SANDBOX)
    other = tmp_path / "empty"
    other.mkdir()
    assert push(World(tmp_path), home=other).via == "openshell"


def test_a_preset_nemoclaw_refuses_is_not_pushed_another_way(owned: World) -> None:
    owned.set(builtin=["clawmetry-ingest"])
    with pytest.raises(PolicyError, match="collides with a built-in preset"):
        push(owned)
    assert not owned.writes


def test_a_nemoclaw_without_presets_from_files_is_passed_by(owned: World) -> None:
    owned.set(march=True)
    outcome = push(owned)
    assert outcome.via == "openshell" and "takes no preset from a file" in outcome.warnings[0]
    assert owned.policy == WANTED


def test_a_failed_load_through_nemoclaw_is_undone(owned: World) -> None:
    owned.set(fail=HOST)
    with pytest.raises(apply.PushFailed) as caught:
        push(owned)
    assert caught.value.restored is True and "policy validation failed" in str(caught.value)
    assert owned.policy == BASE and owned.revisions[-1]["status"] == "Loaded"


def test_a_nemoclaw_that_loses_other_entries_is_undone(owned: World) -> None:
    owned.set(lossy=True)
    with pytest.raises(apply.PushFailed, match="other parts of the policy came out changed") as caught:
        push(owned)
    assert caught.value.restored is True and owned.policy == BASE


def test_absent_is_finished_by_openshell_when_nemoclaw_does_not_know_the_preset(owned: World) -> None:
    push(owned)
    outcome = push(owned, present=False)
    assert outcome.via == "openshell" and "rebuild" in outcome.warnings[0]
    assert owned.policy == BASE


def test_another_gateway_of_nemoclaw_is_named_to_both(tmp_path: Path) -> None:
    registry(tmp_path, gatewayName="nemoclaw-18080", gatewayPort=18080)
    world = World(tmp_path)
    world.nemoclaw.write_text(world.nemoclaw.read_text().replace("exec", 'echo "$NEMOCLAW_GATEWAY_PORT" >%s/port\nexec' % tmp_path, 1))
    assert push(world).via == "nemoclaw"
    assert (tmp_path / "port").read_text() == "18080\n"
    assert [call[3:5] for call in world.load()["calls"] if call[1:3] == ["policy", "list"]] == [["-g", "nemoclaw-18080"]]


def test_a_registry_that_cannot_be_read_is_no_leave_to_go_past_nemoclaw(owned: World) -> None:
    (owned.file.parent / ".nemoclaw/sandboxes.json").write_text("{")
    with pytest.raises(PolicyError, match="cannot tell whether NemoClaw owns the sandbox"):
        plan(owned)
    assert push(owned, via="openshell").changed


def test_via_nemoclaw_needs_it_to_own_the_sandbox(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no registry of this user has the sandbox"):
        plan(World(tmp_path), via="nemoclaw")


def test_a_sandbox_named_like_a_verb_is_never_handed_to_nemoclaw(tmp_path: Path) -> None:
    (tmp_path / ".nemoclaw").mkdir()
    (tmp_path / ".nemoclaw/sandboxes.json").write_text(json.dumps({"sandboxes": {"stop": {"name": "stop"}}}))
    world = World(tmp_path)
    state = world.load()
    world.set(sandboxes={"stop": state["sandboxes"][SANDBOX]})
    assert push(world, sandbox="stop").via == "openshell"
    assert not [call for call in world.load()["calls"] if call[0] == "nemoclaw"]


# -- files --------------------------------------------------------------------------------------


def test_the_three_files_are_written_once_and_removed(tmp_path: Path) -> None:
    wanted = render.all_of(RULE)
    files.write(str(tmp_path), wanted)
    assert files.look(str(tmp_path)) == wanted
    kept = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert {path.name for path in kept} == set(render.FILES.values())
    files.write(str(tmp_path), wanted)
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == kept
    files.write(str(tmp_path), dict.fromkeys(wanted))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "fifo"])
def test_a_symbolic_link_or_anything_but_a_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / render.FILES["nemoclaw"]
    outside = tmp_path / "outside"
    if kind in ("link", "dangling"):
        if kind == "link":
            outside.write_text("precious")
        place.symlink_to(outside)
    elif kind == "directory":
        place.mkdir()
    else:
        os.mkfifo(place)
    with pytest.raises(ConfigError, match="is not written"):
        files.write(str(tmp_path), render.all_of(RULE))
    assert not outside.exists() or outside.read_text() == "precious"
