# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""``ansible -m clawmetry_snapshot`` from a checkout: on a host with sandboxes, in a container, in check mode."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.sandbox import HOST_IMAGE, docker, openshell_0_0_72, openshell_0_0_111, run_container
from support.tree import make_tree

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"schema_version", "node", "runtimes", "deployment", "sandboxes", "metadata", "topology", "blueprint"}
SANDBOX = {
    "name", "id", "type", "status", "phase_source", "gateway", "workspace", "agent", "image", "default", "inference", "security",
    "store", "agents", "sessions", "route", "readable", "reason", "agent_version", "driver", "messaging", "evidence",
}  # fmt: skip
METADATA = {
    "sandbox.name", "sandbox.status", "sandbox.type", "inference.provider", "inference.model", "security.sandbox_enabled",
    "security.network_policy",
}  # fmt: skip


def ansible(home: Path, *arguments: str, host: str = "localhost", **variables: str) -> dict[str, Any]:
    """Run one ad-hoc command from the checkout and return the module's result."""
    inventory = home / "hosts"
    inventory.write_text("%s %s\n" % (host, " ".join("%s=%s" % item for item in variables.items())))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "extensions" / "molecule" / "plugins" / "connection"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    argv = [sys.executable, "-m", "ansible", "adhoc", "-i", str(inventory), host, *arguments]
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.split("=> ", 1)[1])
    return result


def changes(container: str) -> set[bytes]:
    """Every path of a container that is not as in its image."""
    return set(docker("diff", container).split(b"\n"))


def facts_of(result: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = result["ansible_facts"]["clawmetry"]
    assert set(facts) == FACTS
    assert set(facts["runtimes"]) == {"nemoclaw", "openshell", "docker", "podman", "k3s", "openclaw"}
    assert set(facts["metadata"]) == METADATA
    assert all(set(sandbox) == SANDBOX for sandbox in facts["sandboxes"])
    assert result["changed"] is False
    return facts


@pytest.mark.parametrize("name", ["clawmetry.sync.clawmetry_snapshot", "clawmetry_snapshot"])
@pytest.mark.parametrize("mode", [(), ("--check", "--diff")], ids=["real", "check"])
def test_a_host_with_two_sandboxes_shows_both(
    tmp_path: Path, unique: str, cleanup: contextlib.ExitStack, name: str, mode: tuple[str, ...]
) -> None:
    older = cleanup.enter_context(openshell_0_0_72(unique + "-older"))
    newer = cleanup.enter_context(openshell_0_0_111(unique + "-newer", workspace="team"))
    for sandbox, sessions in ((older, 2), (newer, 3)):
        sandbox.put_tree(make_tree(sessions=sessions, events=10))
    before = changes(older.id)
    facts = facts_of(ansible(tmp_path, "-m", name, *mode, ansible_connection="local", ansible_python_interpreter=sys.executable))
    ours = {sandbox["name"]: sandbox for sandbox in facts["sandboxes"] if sandbox["name"].startswith(unique)}
    assert set(ours) == {older.name, newer.name}
    assert ours[older.name]["sessions"]["count"] == 2
    assert ours[newer.name]["sessions"]["count"] == 3
    assert ours[newer.name]["workspace"] == "team"
    assert facts["runtimes"]["docker"]["present"] is True
    assert facts["deployment"]["mode"] == "host"
    assert changes(older.id) == before


def test_in_a_sandbox_it_says_so_and_writes_nothing(tmp_path: Path, unique: str, cleanup: contextlib.ExitStack) -> None:
    """A container with what OpenShell puts into one; it is no host of other sandboxes."""
    options = ("--env", "OPENSHELL_SANDBOX=%s" % unique)
    container = cleanup.enter_context(run_container(unique, unique, HOST_IMAGE, options=options, command=["sleep", "600"]))
    variables = {"ansible_connection": "docker_exec", "ansible_python_interpreter": "/usr/bin/python3"}
    ansible(tmp_path, "-m", "ansible.builtin.ping", host=container.container, **variables)
    before = changes(container.id)
    facts = facts_of(ansible(tmp_path, "-m", "clawmetry_snapshot", host=container.container, **variables))
    assert facts["sandboxes"] == []
    assert facts["deployment"]["mode"] == "sandbox"
    assert facts["deployment"]["recommended"] == "host"
    assert facts["deployment"]["warnings"]
    assert changes(container.id) == before


def test_a_bare_machine_has_no_sandboxes(tmp_path: Path, unique: str, cleanup: contextlib.ExitStack) -> None:
    """A container of no sandbox's making, with nothing in it that could be a runtime."""
    container = cleanup.enter_context(run_container(unique, unique, HOST_IMAGE, command=["sleep", "600"]))
    docker("exec", container.id, "sh", "-c", "rm -rf /usr/bin/docker* /usr/bin/containerd* /usr/sbin/dockerd /var/lib/docker /etc/docker")
    variables = {"ansible_connection": "docker_exec", "ansible_python_interpreter": "/usr/bin/python3"}
    facts = facts_of(ansible(tmp_path, "-m", "clawmetry_snapshot", host=container.container, **variables))
    assert facts["sandboxes"] == []
    assert {name: runtime["present"] for name, runtime in facts["runtimes"].items()} == dict.fromkeys(facts["runtimes"], False)
    assert facts["deployment"]["mode"] == "host"
    assert all(value is None for key, value in facts["metadata"].items() if key.startswith("sandbox."))


def test_root_asks_a_user_s_own_openshell_as_that_user(tmp_path: Path, unique: str, cleanup: contextlib.ExitStack) -> None:
    """The user's binary in the user's home; it says who runs it, and root learns what only it knows."""
    script = """#!/bin/sh
[ "$(id -u) $HOME" = "1234 /home/alice" ] || exit 9
case "$1 $2" in
--version*) echo openshell 0.0.72 ;;
"sandbox list") echo '[{"id": "77", "name": "far-away", "phase": "Ready", "current_policy_version": 2}]' ;;
"inference get") printf 'Gateway inference:\\n\\n  Provider: p\\n  Model: m\\n' ;;
"policy get") printf '{"version": 2, "status": "effective", "policy": {"network_policies": {"npm": {}}}}' ;;
"status "*) printf '  Status: Connected\\n  Version: 0.0.72\\n' ;;
*) touch /wrote; exit 1 ;;
esac
"""
    setup = """set -e
useradd --uid 1234 --create-home alice
cd /home/alice
mkdir -p .local/bin .config/openshell/gateways/nemoclaw
cat > .local/bin/openshell
chmod 755 .local/bin/openshell
echo '{"name": "nemoclaw", "gateway_endpoint": "http://127.0.0.1:8080"}' > .config/openshell/gateways/nemoclaw/metadata.json
chown -R alice:alice .local .config
"""
    container = cleanup.enter_context(run_container(unique, unique, HOST_IMAGE, command=["sleep", "600"]))
    subprocess.run(["docker", "exec", "-i", container.id, "sh", "-c", setup], input=script.encode(), check=True, timeout=60)
    before = changes(container.id)
    variables = {"ansible_connection": "docker_exec", "ansible_python_interpreter": "/usr/bin/python3"}
    facts = facts_of(ansible(tmp_path, "-m", "clawmetry_snapshot", host=container.container, **variables))
    (sandbox,) = facts["sandboxes"]
    told = [sandbox[key] for key in ("name", "status", "phase_source", "gateway")]
    assert told == ["far-away", "running", "openshell", "nemoclaw"]
    assert sandbox["inference"] == {"provider": "p", "model": "m"}
    assert sandbox["security"] == {"sandbox_enabled": True, "network_policy": True, "policies": ["npm"]}
    (gateway,) = facts["topology"]["gateway"]["gateways"]
    assert (gateway["name"], gateway["user"], gateway["port"], gateway["running"], gateway["version"]) == (
        "nemoclaw", "alice", 8080, True, "0.0.72",
    )  # fmt: skip
    assert facts["runtimes"]["openshell"]["version"] == "0.0.72"
    assert changes(container.id) == before
