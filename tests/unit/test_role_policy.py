# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role policy, run by ansible-playbook against the stand-ins: shows, renders, applies only when asked to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync.egress import render, rule
from support.openshell_cli import BASE, COMPOSED, SANDBOX, World

pytestmark = pytest.mark.spawns

ROOT = Path(__file__).resolve().parents[2]
RULE = rule.build(binary="/opt/clawmetry/venv/bin/python3")


def play(directory: Path, *times: dict[str, Any], options: tuple[str, ...] = (), **environment: str) -> str:
    """Run the role on this host, once with each of TIMES as its variables; return what was printed."""
    file = directory / "play.json"
    tasks = [{"ansible.builtin.include_role": {"name": "clawmetry.sync.policy"}, "vars": variables} for variables in times]
    file.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "ANSIBLE_LOCAL_TEMP": str(directory / "local"), "LC_ALL": "C.UTF-8"}
    extra = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", file, "-e", json.dumps(extra), *options],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **settings, **environment},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_nothing_is_applied_unless_asked_and_then_only_a_difference(tmp_path: Path) -> None:
    world = World(tmp_path)
    place = tmp_path / "policy"
    variables = {
        "clawmetry_policy_dest": str(place),
        "clawmetry_policy_sandboxes": [SANDBOX],
        "clawmetry_policy_openshell": str(world.openshell),
        "clawmetry_policy_via": "openshell",
    }
    applied = {**variables, "clawmetry_policy_apply": True}
    said = play(tmp_path, applied, options=("--check", "--diff"))
    assert "failed=0" in said and "+  clawmetry_ingest:" in said, said
    assert not place.exists() and not world.writes

    said = play(tmp_path, variables)
    assert "changed=2 " in said and "failed=0" in said, said
    assert world.policy == BASE and not world.writes
    assert {key: (place / name).read_text() for key, name in render.FILES.items()} == render.all_of(RULE)

    said = play(tmp_path, applied, applied, {**applied, "clawmetry_policy_state": "absent"})
    assert "changed=3 " in said and "failed=0" in said, said
    assert len(world.writes) == 2 and RULE.key in world.revisions[-2]["document"]["network_policies"]
    assert world.policy == BASE and not list(place.iterdir())


def test_applying_without_names_says_what_to_set(tmp_path: Path) -> None:
    said = play(tmp_path, {"clawmetry_policy_apply": True})
    assert "failed=1" in said and "clawmetry_policy_sandboxes is empty" in said


@pytest.mark.parametrize("version", ["0.0.40", "0.0.72", "0.0.111"])
def test_no_secret_is_shown_written_or_passed_on(tmp_path: Path, version: str) -> None:
    """Neither of the caller's environment nor of what the gateway itself adds: at -vvv, in diffs, files, and the commands run."""
    secrets = {name: "canary-" + name.lower() for name in ("CLAWMETRY_API_KEY", "NVIDIA_API_KEY", "OPENSHELL_TOKEN", "HTTPS_PROXY")}
    world = World(tmp_path, version)
    world.set(composed={"_provider_nvidia": {**COMPOSED, "name": "canary-provider"}})
    seen, watching = tmp_path / "seen", tmp_path / "watching"
    watching.write_text('#!/bin/sh\n(export -p; printf "%%s\\n" "$@") >>"%s"\nexec "%s" "$@"\n' % (seen, world.openshell))
    watching.chmod(0o755)
    variables = {
        "clawmetry_policy_dest": str(tmp_path / "policy"),
        "clawmetry_policy_sandboxes": [SANDBOX],
        "clawmetry_policy_openshell": str(watching),
        "clawmetry_policy_via": "openshell",
        "clawmetry_policy_apply": True,
    }
    said = play(tmp_path, variables, options=("-vvv", "--diff"), **secrets)
    world.set(fail=RULE.host)
    said += play(tmp_path, {**variables, "clawmetry_policy_ingest_url": "https://other.example"}, options=("-vvv", "--diff"), **secrets)
    assert "+  clawmetry_ingest:" in said and "changed=3 " in said and "ok=" in said, said
    shown = [said, seen.read_text(), json.dumps(world.revisions), *(file.read_text() for file in (tmp_path / "policy").iterdir())]
    assert "policy" in shown[1] and len(shown) > 4
    for text in shown:
        assert "canary-" not in text, text[: text.index("canary-") + 40][-500:]
