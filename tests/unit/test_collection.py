# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection around the engine: what has to agree, the release file, the rendered unit, the size of the payload."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import plistlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from clawmetry_sync.model import RUNTIMES
from clawmetry_sync.version import VERSION
from support.shape import problems

ROOT = Path(__file__).resolve().parents[2]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def imported(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documentation() -> dict[str, Any]:
    text = (ROOT / "plugins/modules/clawmetry_snapshot.py").read_text()
    found = yaml.safe_load(text.split('DOCUMENTATION = r"""')[1].split('"""')[0])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("role", ["daemon", "detect", "policy", "sandbox_daemon"])
def test_defaults_and_argument_specs_are_the_same(role: str) -> None:
    defaults = load("roles/%s/defaults/main.yml" % role)
    options = load("roles/%s/meta/argument_specs.yml" % role)["argument_specs"]["main"]["options"]
    assert {name: spec["default"] for name, spec in options.items()} == defaults
    assert all(name.startswith("clawmetry_%s_" % role) for name in defaults)


@pytest.mark.parametrize("role", ["daemon", "sandbox_daemon"])
def test_secrets_are_not_logged_by_the_argument_check(role: str) -> None:
    options = load("roles/%s/meta/argument_specs.yml" % role)["argument_specs"]["main"]["options"]
    secret = {"clawmetry_%s_%s" % (role, name) for name in ("api_key", "encryption_key")}
    assert {name for name, spec in options.items() if spec.get("no_log")} == secret


def test_collection_and_engine_have_one_version() -> None:
    assert load("galaxy.yml")["version"] == VERSION


def test_subsets_of_the_module_are_the_runtimes_of_the_engine() -> None:
    assert documentation()["options"]["gather_subset"]["choices"] == ["all", "min", *RUNTIMES]


def test_release_is_the_same_bytes_each_time_and_starts_the_command() -> None:
    action = imported("plugins/action/clawmetry_release.py")
    first, second = io.BytesIO(), io.BytesIO()
    action.write_release(first)
    action.write_release(second)
    assert first.getvalue() == second.getvalue()
    with zipfile.ZipFile(first) as release:
        names = release.namelist()
        assert names[0] == "__main__.py" and names[1:] == sorted(names[1:])
        assert {"clawmetry_sync/__init__.py", "clawmetry_sync/cli.py", "clawmetry_sync/read/opener.py"} <= set(names)
        assert all(entry.date_time == (1980, 1, 1, 0, 0, 0) for entry in release.infolist())
        assert not [name for name in names if not name.endswith(".py")]


def unit(**changes: Any) -> str:
    given = {
        "_clawmetry_daemon_command_line": "/opt/clawmetry/venv/bin/python -I /opt/clawmetry/current/clawmetry.pyz",
        "_clawmetry_daemon_user": "clawmetry",
        "_clawmetry_daemon_has_api_key": False,
        "_clawmetry_daemon_api_key_file": "/etc/clawmetry/api_key",
        "_clawmetry_daemon_encryption_key_file": "/etc/clawmetry/encryption_key",
        "_clawmetry_daemon_archive_elsewhere": "",
        "_systemd_version": 252,
        **load("roles/daemon/defaults/main.yml"),
        **changes,
    }
    text = (ROOT / "roles/daemon/templates/clawmetry.service.j2").read_text()
    return str(Templar(loader=DataLoader(), variables=given).template(trust_as_template(text)))


def directives(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_unit_has_five_capabilities_and_no_more() -> None:
    lines = directives(unit())
    five = "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_SYS_CHROOT CAP_SETUID CAP_SETGID"
    assert "CapabilityBoundingSet=" + five in lines
    assert "AmbientCapabilities=" + five in lines
    assert not [line for line in lines if line.startswith(("ProtectProc=", "PrivateUsers=", "ReadWritePaths="))]


def test_unit_hands_over_only_the_keys_there_are() -> None:
    assert [line for line in directives(unit()) if line.startswith("LoadCredential")] == [
        "LoadCredential=encryption_key:/etc/clawmetry/encryption_key"
    ]
    assert "LoadCredential=api_key:/etc/clawmetry/api_key" in directives(unit(_clawmetry_daemon_has_api_key=True))
    assert "LoadCredential" not in unit(_systemd_version=247)


def test_unit_may_write_an_archive_that_is_elsewhere() -> None:
    assert "ReadWritePaths=/srv/archive" in directives(unit(_clawmetry_daemon_archive_elsewhere="/srv/archive"))


def launch_agent(home: str, **facts: Any) -> dict[str, Any]:
    """Return the launch agent as macOS would parse it, made with the role's own variables for a user at HOME."""
    given = {
        **load("roles/daemon/defaults/main.yml"),
        **{name: trust(value) for name, value in load("roles/daemon/vars/main.yml").items()},
        "ansible_facts": {"system": "Darwin", "user_uid": 501, "user_dir": home, **facts},
    }
    text = (ROOT / "roles/daemon/templates/clawmetry.plist.j2").read_text()
    rendered = Templar(loader=DataLoader(), variables=given).template(trust_as_template(text))
    parsed = plistlib.loads(str(rendered).encode())
    assert isinstance(parsed, dict)
    return parsed


def trust(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: trust(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [trust(inner) for inner in value]
    return trust_as_template(value) if isinstance(value, str) else value


def test_launch_agent_is_the_users_and_starts_again_after_a_failure_only() -> None:
    share = "/Users/ann/.local/share/clawmetry"
    assert launch_agent("/Users/ann") == {
        "Label": "com.clawmetry.sync-host",
        "ProgramArguments": [
            share + "/venv/bin/python",
            "-I",
            share + "/current/clawmetry.pyz",
            "--config",
            "/Users/ann/.config/clawmetry/clawmetry.yml",
            "run",
        ],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 20,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Umask": 0o077,
        "SoftResourceLimits": {"Core": 0},
        "HardResourceLimits": {"Core": 0},
        "StandardErrorPath": "/Users/ann/Library/Logs/clawmetry.log",
    }


def test_launch_agent_takes_any_home() -> None:
    assert launch_agent("/Users/<a> & b")["StandardErrorPath"] == "/Users/<a> & b/Library/Logs/clawmetry.log"


@pytest.mark.spawns
def test_launchd_tasks_load_once_reload_a_change_and_unload(tmp_path: Path) -> None:
    """The tasks themselves, with stand-ins for macOS's launchctl and plutil: no Mac has run them."""
    home, stub = tmp_path / "home", tmp_path / "bin"
    stub.mkdir()
    (stub / "plutil").write_text("#!/bin/sh\nexit 0\n")
    (stub / "launchctl").write_text(
        """#!/bin/sh
cd %s
case $1 in
print) exec test -e loaded ;;
bootstrap) touch loaded ;;
bootout) rm loaded ;;
esac
echo "$*" >>calls
"""
        % tmp_path
    )
    for program in stub.iterdir():
        program.chmod(0o755)
    facts = {"system": "Darwin", "os_family": "Darwin", "user_uid": 501, "user_dir": str(home), "cacheable": True}
    role = {"name": "clawmetry.sync.daemon", "tasks_from": "launchd"}
    stopped = {"clawmetry_daemon_started": False}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {
            "clawmetry_daemon_api_key": "cm_canary",
            "clawmetry_daemon_encryption_key": "canary=",
            "clawmetry_daemon_proxy": "http://me:canary@p:1",
        },
        "tasks": [
            {"ansible.builtin.set_fact": facts},
            {"ansible.builtin.include_role": role},
            {"ansible.builtin.include_role": role},
            {"ansible.builtin.include_role": role, "vars": stopped},
        ],
    }
    (tmp_path / "play.json").write_text(json.dumps([play]))
    environment = {
        **os.environ,
        "PATH": "%s:%s" % (stub, os.environ["PATH"]),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
    }
    argv = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", "-vvv", "--diff", tmp_path / "play.json"]
    argv += ["-e", "ansible_python_interpreter=" + sys.executable]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    plist = home / "Library/LaunchAgents/com.clawmetry.sync-host.plist"
    assert (tmp_path / "calls").read_text().splitlines() == [
        "bootstrap gui/501 %s" % plist,
        "kickstart -k gui/501/com.clawmetry.sync-host",
        "bootout gui/501/com.clawmetry.sync-host",
    ]
    assert "+  <key>Label</key>" in done.stdout
    for text in (done.stdout, done.stderr, plist.read_text(), (tmp_path / "calls").read_text()):
        assert "canary" not in text, "a secret is shown, or handed to launchd"


@pytest.mark.spawns
@pytest.mark.parametrize("name", ["clawmetry_snapshot", "clawmetry.sync.clawmetry_snapshot"])
def test_p7_snapshot_works_from_a_checkout_by_both_names(name: str, tmp_path: Path) -> None:
    facts, _sent = snapshot_ad_hoc(name, tmp_path)
    assert set(facts["runtimes"]) == set(RUNTIMES)
    assert "sync" not in facts  # check mode


@pytest.mark.spawns
def test_p7_the_payload_ansible_packs_is_small(tmp_path: Path) -> None:
    _facts, sent = snapshot_ad_hoc("clawmetry_snapshot", tmp_path)
    zipped = max(len(base64.b64decode(text)) for text in re.findall(r"[\"']([A-Za-z0-9+/=\n]{1000,})[\"']", sent))
    assert zipped <= 300_000
    # It travels as text within a script of Ansible's; ansible.builtin.setup of the same core is 347 KB, 179 KB of it any module's.
    assert len(sent) <= 355_000


@pytest.mark.spawns
def test_snapshot_that_fails_still_has_every_fact(tmp_path: Path) -> None:
    done = ad_hoc("clawmetry_snapshot", tmp_path, "config=%s/absent.yml" % tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    result = json.loads(done.stdout[done.stdout.index("=> {") + 3 :])
    assert "absent.yml" in result["msg"] and problems(result["ansible_facts"]["clawmetry"]) == []


def snapshot_ad_hoc(name: str, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """Return the facts of one ad-hoc call in check mode, and what Ansible sent."""
    done = ad_hoc(name, tmp_path, "sync=true gather_subset=min", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    (payload,) = (tmp_path / "remote").glob("*/AnsiballZ_clawmetry_snapshot.py")
    facts = json.loads(done.stdout[done.stdout.index("=> {") + 3 :])["ansible_facts"]["clawmetry"]
    assert problems(facts) == []
    return facts, payload.read_text()


def ad_hoc(name: str, tmp_path: Path, arguments: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_KEEP_REMOTE_FILES": "true",
        "ANSIBLE_PIPELINING": "false",
    }
    argv = [sys.executable, "-m", "ansible", "adhoc", "localhost", "-m", name, "-a", arguments, *options]
    return subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
