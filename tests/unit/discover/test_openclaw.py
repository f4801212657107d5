# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bare OpenClaw homes: what counts, what is refused, and under which name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync.discover import discover, openclaw
from clawmetry_sync.discover.accounts import Account
from clawmetry_sync.errors import Unreadable, shown
from clawmetry_sync.model import Sandbox
from clawmetry_sync.read.opener import HeldDir


def account(host: Path, name: str = "alice", uid: int = 1000) -> Account:
    home = host / "home" / name
    home.mkdir(parents=True, exist_ok=True)
    return Account(name, uid, "/home/" + name, str(home))


def make_state(path: Path) -> None:
    (path / "agents/main/sessions").mkdir(parents=True)


def found(host: Path, *accounts: Account, **env: str) -> dict[str, Sandbox]:
    boxes, _warnings = openclaw.find(accounts, env, str(host))
    return {box.uid: box for box in boxes}


def test_state_directory_and_profiles_of_a_home(tmp_path: Path) -> None:
    alice = account(tmp_path)
    make_state(Path(alice.path, ".openclaw"))
    Path(alice.path, ".openclaw-dev/workspace").mkdir(parents=True)
    boxes = found(tmp_path, alice)
    assert {uid: box.name for uid, box in boxes.items()} == {
        "bare:/home/alice/.openclaw": "openclaw@alice",
        "bare:/home/alice/.openclaw-dev": "openclaw@alice-dev",
    }
    box = boxes["bare:/home/alice/.openclaw"]
    assert box.home is not None and box.home.root == alice.path.encode() and box.home.state == b".openclaw" and box.home.owner == "alice"
    assert box.confirmed and box.type == "bare" and box.status == "present" and box.phase_source == "host"
    assert box.security.sandbox_enabled is False and box.security.network_policy is None


def test_home_without_agents_or_workspace_does_not_count(tmp_path: Path) -> None:
    alice = account(tmp_path)
    Path(alice.path, ".openclaw").mkdir()
    Path(alice.path, ".openclaw/openclaw.json").write_text("{}")
    Path(alice.path, ".openclawrc").mkdir()
    make_state(Path(alice.path, "openclaw"))
    assert found(tmp_path, alice) == {}


def test_linked_state_directory_is_refused(tmp_path: Path) -> None:
    alice, bob = account(tmp_path), account(tmp_path, "bob", 1001)
    make_state(Path(bob.path, ".openclaw"))
    Path(alice.path, ".openclaw").symlink_to("../bob/.openclaw")
    assert list(found(tmp_path, alice, bob)) == ["bare:/home/bob/.openclaw"]


def test_state_dir_of_the_environment_is_held_itself(tmp_path: Path) -> None:
    make_state(tmp_path / "srv/claw")
    (box,) = found(tmp_path, account(tmp_path), OPENCLAW_STATE_DIR="/srv/claw").values()
    assert box.uid == "bare:/srv/claw" and box.home is not None
    assert box.home.root == str(tmp_path / "srv/claw").encode() and box.home.state == b"."


def test_state_dir_of_the_environment_that_is_a_home_s_own_is_not_counted_twice(tmp_path: Path) -> None:
    alice = account(tmp_path)
    make_state(Path(alice.path, ".openclaw"))
    boxes = found(tmp_path, alice, OPENCLAW_STATE_DIR="/home/alice/.openclaw/", OPENCLAW_HOME="/home/alice")
    assert list(boxes) == ["bare:/home/alice/.openclaw"]


def test_openclaw_home_of_the_environment_is_looked_into(tmp_path: Path) -> None:
    make_state(tmp_path / "srv/home/.openclaw")
    assert list(found(tmp_path, OPENCLAW_HOME="/srv/home")) == ["bare:/srv/home/.openclaw"]


def test_settings_that_name_nothing_are_said_and_not_fatal(tmp_path: Path) -> None:
    boxes, warnings = openclaw.find([], {"OPENCLAW_STATE_DIR": "/nowhere", "OPENCLAW_HOME": "/gone"}, str(tmp_path))
    assert boxes == [] and len(warnings) == 2
    assert openclaw.find([], {"OPENCLAW_STATE_DIR": "relative", "OPENCLAW_HOME": ""}, str(tmp_path)) == ([], [])


def test_hostile_profile_name_is_shown_printable(tmp_path: Path) -> None:
    alice = account(tmp_path)
    make_state(Path(alice.path, ".openclaw-\x1b[31m\n"))
    (box,) = found(tmp_path, alice).values()
    assert box.name.isprintable() and all(text.isprintable() for text in box.evidence)
    assert box.home is not None and box.home.state == b".openclaw-\x1b[31m\n"


@pytest.mark.parametrize("kind", ["link", "closed", "file", "empty"])
def test_a_state_directory_that_cannot_be_looked_into_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    state = tmp_path / "home/.openclaw"
    state.parent.mkdir()
    if kind == "link":
        (tmp_path / "elsewhere/agents").mkdir(parents=True)
        state.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        state.write_bytes(b"")
    else:
        (state / "agents").mkdir(parents=True)
    if kind == "closed":

        def refusing(self: HeldDir, path: bytes) -> HeldDir:
            raise Unreadable("cannot open", where=shown(path), cause="Permission denied")

        monkeypatch.setattr(HeldDir, "open_dir", refusing)
    seen = discover(
        root="/", homes=[str(state.parent)], enabled=("openclaw",), docker_host="unix://%s/absent" % tmp_path, env={"PATH": "/nowhere"}
    )
    (row,) = [row for row in seen.runtimes if row.name == "openclaw"]
    told = kind in ("link", "closed")
    assert row.present is not True or any("binary" in text for text in row.evidence)
    assert bool(seen.warnings) == told
    if told and not row.present:
        assert row.present is None and any(".openclaw" in text for text in row.evidence)


def test_the_profile_in_the_environment_is_the_default_among_bare_homes(tmp_path: Path) -> None:
    for name in (".openclaw", ".openclaw-work"):
        (tmp_path / "home" / name / "agents/main/sessions").mkdir(parents=True)
    options: Any = {"homes": [str(tmp_path / "home")], "enabled": ("openclaw",), "docker_host": "unix://%s/absent" % tmp_path}
    for profile, wanted in (("", ".openclaw"), ("work", ".openclaw-work"), ("gone", ".openclaw")):
        boxes = discover(**options, env={"OPENCLAW_PROFILE": profile}).sandboxes
        assert [box.uid for box in boxes if box.default] == ["bare:%s/home/%s" % (tmp_path, wanted)]
