# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The architecture as a running host: told layer by layer, each layer missed when it goes, and every sandbox one row."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clawmetry_sync import api
from support.daemon import Daemon
from support.realhost import RealHost
from support.sandbox import docker
from support.tree import make_tree

from .conftest import MakeNode

pytestmark = pytest.mark.root
LAYERS = ["host_cli", "engine", "gateway", "k3s", "sandbox", "proxy", "state_files"]


@pytest.fixture
def host(tmp_path: Path, unique: str, cleanup: contextlib.ExitStack) -> RealHost:
    home = tmp_path / "home"
    home.mkdir()
    return RealHost(home, unique, cleanup)


@pytest.fixture
def daemon(node: MakeNode, host: RealHost) -> Daemon:
    return node(**host.config())


def said(layer: dict[str, Any]) -> str:
    return " | ".join(layer["evidence"])


def test_every_layer_is_told_and_missed_when_it_goes(host: RealHost, daemon: Daemon) -> None:
    host.assistant.put_tree(make_tree(sessions=2, events=5))
    for pod in host.pods:
        pod.put_tree(make_tree(sessions=1, events=5))

    def look(*changed: str) -> dict[str, Any]:
        """Return the layers now; those that are not CHANGED are there as before."""
        facts: dict[str, Any] = daemon.json("snapshot")
        assert list(facts["topology"]) == LAYERS and all(layer["evidence"] for layer in facts["topology"].values())
        gone.update(changed)
        assert {name for name, layer in facts["topology"].items() if layer["present"] is not True} == gone
        layers: dict[str, Any] = {**facts["topology"], "blueprint": facts["blueprint"]}
        return layers

    gone: set[str] = set()
    layers = look()
    cli, engine, sandboxes = layers["host_cli"], layers["engine"], layers["sandbox"]
    assert (cli["version"], cli["path"], cli["node"]["version"]) == ("0.1.0", str(host.nemoclaw.program), "22.16.0")
    assert (engine["kind"], engine["running"]) == ("docker", True) and engine["version"]
    rows = {row["name"]: row for row in layers["gateway"]["gateways"]}
    older, newer = rows[host.old_gateway], rows[host.gateway]
    assert (older["kind"], older["driver"], older["port"], older["running"]) == ("container", "kubernetes", host.old_port, True)
    assert newer["kind"] in ("host process", "user service", "system service")
    assert (newer["driver"], newer["port"], newer["running"], newer["version"]) == ("docker", host.port, True, "0.0.72")
    assert "process %d" % host.process.pid in " ".join(newer["evidence"])
    assert (layers["k3s"]["embedded"], layers["k3s"]["running"]) == (True, True)
    assert (sandboxes["containers"], sandboxes["pods"], sandboxes["elsewhere"], sandboxes["running"]) == (1, 2, 0, 3)
    assert (layers["proxy"]["port"], layers["proxy"]["sandboxes"]) == (3128, 1)
    assert "~/.nemoclaw/sandboxes.json" in json.dumps(layers["state_files"]["users"])
    assert (layers["blueprint"]["openshell_satisfied"], layers["blueprint"]["openclaw_satisfied"]) == (True, True)

    host.end_proxy()
    assert "not seen in 3 running sandbox(es)" in said(look("proxy")["proxy"])

    host.end_pods()
    sandboxes = look()["sandbox"]
    assert (sandboxes["pods"], sandboxes["elsewhere"]) == (0, 2)

    docker("stop", "-t", "0", host.cluster.id)
    layers = look()
    rows = {row["name"]: row for row in layers["gateway"]["gateways"]}
    assert layers["k3s"]["running"] is False and rows[host.old_gateway]["running"] is False and rows[host.gateway]["running"] is True
    assert "container openshell-cluster-%s, exited" % host.old_gateway in rows[host.old_gateway]["evidence"]

    host.end_gateway()
    host.unreachable()
    layers = look("gateway")
    assert layers["gateway"]["present"] is False and "none of them runs" in said(layers["gateway"])

    host.cluster.remove()
    layers = look("k3s")
    assert layers["k3s"]["present"] is False and "cluster container" in said(layers["k3s"])

    docker("stop", "-t", "0", host.assistant.id)
    layers = look()
    assert layers["proxy"]["present"] is None and "no running sandbox" in said(layers["proxy"])
    assert (layers["sandbox"]["containers"], layers["sandbox"]["running"]) == (1, 0)

    host.nemoclaw.program.unlink()
    shutil.rmtree(host.home / ".nemoclaw/source")
    layers = look("host_cli")
    assert layers["host_cli"]["present"] is False and "no binary or source" in said(layers["host_cli"])
    assert layers["blueprint"]["present"] is False and "no installed source" in said(layers["blueprint"])

    host.assistant.remove()
    sandboxes = look()["sandbox"]
    assert (sandboxes["containers"], sandboxes["elsewhere"]) == (0, 3)
    host.registers({})
    layers = look("sandbox")
    assert layers["sandbox"]["present"] is False and "none is labelled, registered or listed" in said(layers["sandbox"])

    shutil.rmtree(host.home / ".nemoclaw")
    shutil.rmtree(host.home / ".config")
    layers = look("state_files")
    assert layers["state_files"]["present"] is False and "none of them in any home" in said(layers["state_files"])

    host.engine.stop()
    facts = daemon.json("snapshot")
    layers = facts["topology"]
    # Its programs may be installed; nothing answers.
    assert layers["engine"]["running"] is False and "no engine socket" in said(layers["engine"])
    assert layers["k3s"]["present"] is None and "could not be asked" in said(layers["k3s"])
    assert facts["sandboxes"] == []
    assert host.writes() == ""


def test_a_sandbox_in_five_sources_is_one_row(host: RealHost, daemon: Daemon) -> None:
    """Registry, openshell's list, nemoclaw's list and status, labels or kernel, and what /proc lets us read: all at once."""
    host.assistant.put_tree(make_tree(sessions=2, events=5))
    for pod in host.pods:
        pod.put_tree(make_tree(sessions=1, events=5))
    facts = api.snapshot(config_path=str(daemon.config_file), deep=True, env={})
    rows = {row["name"]: row for row in facts["sandboxes"]}
    assert sorted(rows) == sorted(host.names) and len(facts["sandboxes"]) == 3
    assert [row["name"] for row in facts["sandboxes"] if row["default"]] == [host.assistant.name]

    row = rows[host.assistant.name]
    # What runs: the engine's word. Its stuck phase is shown and not believed.
    assert (row["status"], row["phase_source"]) == ("running", "docker")
    evidence = " | ".join(row["evidence"])
    assert "phase Error" in evidence and "the phase is not believed: the container runs" in evidence
    # Which one it is: the label and the list agree on an id.
    assert (row["id"], row["gateway"], row["type"]) == (host.assistant_id, host.gateway, "nemoclaw")
    # What it was made for: the registry. The live route is the gateway's, for the default sandbox; the others' words are shown.
    assert (row["agent"], row["agent_version"], row["driver"]) == ("openclaw", "2026.6.10", "docker")
    assert row["inference"] == {"provider": "nvidia-prod", "model": "nvidia/live-model"}
    assert "registry says nvidia-prod / nvidia/recorded" in evidence and "model nvidia/said" in evidence
    # What is allowed: the policy in force, and the presets that were recorded.
    assert row["security"] == {"sandbox_enabled": True, "network_policy": True, "policies": ["npm", "pypi"]}
    assert "2 network entries: npm_yarn, github" in evidence
    # What is in it: read through the kernel.
    assert (row["route"], row["readable"], row["store"], row["sessions"]["count"]) == ("proc", True, "jsonl", 2)
    for source in ("label openshell.ai/*", "openshell sandbox list: gateway %s" % host.gateway, "registry %s" % host.registry,
                   "nemoclaw list", "nemoclaw %s status: phase Ready" % host.assistant.name):  # fmt: skip
        assert source in evidence, source

    for pod in host.pods:
        row, evidence = rows[pod.name], " | ".join(rows[pod.name]["evidence"])
        assert (row["id"], row["status"], row["phase_source"], row["gateway"]) == (pod.uid, "running", "host", host.old_gateway)
        assert (row["route"], row["readable"], row["sessions"]["count"]) == ("proc", True, 1)
        assert row["inference"] == {"provider": "nvidia", "model": "nvidia/old"}
        for source in ("pod %s in openshell-cluster-%s" % (pod.uid, host.old_gateway), "sandbox list: gateway " + host.old_gateway,
                       "registry %s" % host.registry, "nemoclaw %s status" % pod.name):  # fmt: skip
            assert source in evidence, source
    assert host.writes() == ""


HOSTILE = ["$(touch pwned)", "; touch pwned", "`touch pwned`", "../../etc/passwd", "..", "\x1b[31m", "-g", "--help", "a" * 64, "\u202e"]


def hostile_names(host: RealHost) -> None:
    rows = json.loads(host.registry.read_text())
    rows["sandboxes"].update({name: {"name": name, "model": name, "provider": name} for name in HOSTILE})
    rows["defaultSandbox"] = "../../etc/passwd"
    host.registry.write_text(json.dumps(rows))


def many_entries(host: RealHost) -> None:
    host.registry.write_text(json.dumps({"sandboxes": {"n%d" % number: {"name": "n%d" % number} for number in range(100_000)}}))


def one_gigabyte(host: RealHost) -> None:
    with host.registry.open("r+b") as stream:
        stream.truncate(1 << 30)


def linked_directory(host: RealHost) -> None:
    (host.home / ".nemoclaw").rename(host.home / "moved")
    (host.home / ".nemoclaw").symlink_to(host.home / "moved")


def test_a_hostile_registry_changes_nothing_but_a_warning(host: RealHost, daemon: Daemon) -> None:
    """Fresh processes with nothing kept from before: what runs is told as it was, no call is added, and people are told why."""
    known = ("name", "id", "status", "phase_source", "route", "readable", "sessions")

    def look() -> tuple[list[dict[str, Any]], list[str], set[str]]:
        host.openshell.log.write_text("")
        host.nemoclaw.log.write_text("")
        facts = daemon.json("snapshot")
        rows = [{key: row[key] for key in known} for row in facts["sandboxes"]]
        calls = {" ".join(call.words) for call in host.openshell.calls() + host.nemoclaw.calls()}
        return sorted(rows, key=lambda row: str(row["name"])), facts["deployment"]["warnings"], calls

    host.assistant.put_tree(make_tree(sessions=2, events=5))
    before = host.registry.read_text()
    rows, warnings, calls = look()
    assert warnings == [] and {row["name"] for row in rows} == set(host.names)
    for attack in (hostile_names, many_entries, one_gigabyte, linked_directory):
        host.registry.write_text(before)
        attack(host)
        rows_then, warned, calls_then = look()
        assert (rows_then, calls_then) == (rows, calls), attack
        assert warned and len(warned) <= 11 and all("registry" in text or ".nemoclaw" in text for text in warned), (attack, warned)
        assert all(text.isprintable() for text in warned), (attack, warned)
    assert host.writes() == "" and not list(host.home.rglob("pwned")) and not Path("/pwned").exists()
