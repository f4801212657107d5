# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The architecture rebuilt as a host: each layer told, each layer missed when it is taken away, and nothing written by asking."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from clawmetry_sync import snapshot
from clawmetry_sync.discover import Discoverer, discover, openshellcli
from clawmetry_sync.hostinfo import HostInfo
from clawmetry_sync.model import Discovery, Sandbox
from support.bighost import SANDBOX_PID, BigHost, seen_files
from support.fakeengine import FakeEngine

pytestmark = [pytest.mark.network, pytest.mark.spawns]

HOST = HostInfo("build-07", "linux", "Linux", "6.1.0", "x86_64", "3.11.7", "ab" * 32, False, False)
READING = {" ".join(verb) for verb in openshellcli.READS}


@pytest.fixture
def host() -> Iterator[BigHost]:
    with FakeEngine("docker-openshell-0.0.26.json", "docker-openshell-0.0.72.json") as engine:
        yield BigHost(engine)


def look(host: BigHost, **options: Any) -> Discovery:
    return discover(root=str(host.root), **options)


def facts(found: Discovery) -> dict[str, Any]:
    result = snapshot.facts(HOST, found, {})
    assert json.loads(json.dumps(result)) == result
    return result


def topology(host: BigHost) -> dict[str, Any]:
    layers = facts(look(host))["topology"]
    assert list(layers) == ["host_cli", "engine", "gateway", "k3s", "sandbox", "proxy", "state_files"]
    for layer in layers.values():
        assert layer["evidence"], layer
    return layers


def box(found: Discovery, name: str) -> Sandbox:
    (row,) = [row for row in found.sandboxes if row.name == name]
    return row


def test_every_layer_is_told(host: BigHost) -> None:
    layers = topology(host)
    assert {name: layer["present"] for name, layer in layers.items()} == dict.fromkeys(layers, True)
    cli = layers["host_cli"]
    assert (cli["version"], cli["user"], cli["node"]["version"]) == ("0.1.0", "alice", "22.16.0")
    assert cli["path"] == "/home/alice/.nvm/versions/node/v22.16.0/bin/nemoclaw"
    assert (layers["engine"]["kind"], layers["engine"]["version"]) == ("docker", "28.2.2")
    old, new = layers["gateway"]["gateways"]
    evidence = old.pop("evidence")
    assert old == {
        "name": "nemoclaw", "user": "alice", "kind": "container", "driver": "kubernetes", "port": 8080, "running": True,
        "version": "0.0.72",
    }  # fmt: skip
    assert "container openshell-cluster-nemoclaw, running" in evidence
    evidence = new.pop("evidence")
    assert new == {
        "name": "nemoclaw-18080", "user": "alice", "kind": "user service", "driver": "docker", "port": 18080, "running": True,
        "version": "0.0.72",
    }  # fmt: skip
    assert "process 700 of nemoclaw-openshell-gateway.service" in evidence
    assert layers["k3s"]["embedded"] is True and layers["k3s"]["running"] is True
    assert layers["k3s"]["containers"] == ["openshell-cluster-nemoclaw"]
    assert (layers["sandbox"]["containers"], layers["sandbox"]["bare"], layers["sandbox"]["running"]) == (2, 1, 1)
    assert (layers["proxy"]["port"], layers["proxy"]["sandboxes"]) == (3128, 1)
    (files,) = layers["state_files"]["users"]
    assert files["user"] == "alice" and "~/.nemoclaw/sandboxes.json" in files["files"] and "~/.config/openshell/gateways" in files["files"]


def test_blueprint_is_told_and_judged(host: BigHost) -> None:
    result = facts(look(host))["blueprint"]
    evidence = result.pop("evidence")
    assert result == {
        "present": True, "version": "0.1.0", "min_openshell_version": "0.0.72", "min_openclaw_version": "2026.5.18",
        "openshell_satisfied": True, "openclaw_satisfied": True, "plugin_version": "0.1.0",
        "path": "/home/alice/.nemoclaw/source/nemoclaw-blueprint/blueprint.yaml", "user": "alice",
    }  # fmt: skip
    assert "openshell 0.0.72" in evidence and "openclaw 2026.6.10 (the oldest recorded)" in evidence


def test_blueprint_that_asks_for_more_is_not_satisfied(host: BigHost) -> None:
    place = host.home / ".nemoclaw/source/nemoclaw-blueprint/blueprint.yaml"
    place.write_text('version: 0.2.0\nmin_openshell_version: "0.0.106"\n')
    result = facts(look(host))["blueprint"]
    assert (result["openshell_satisfied"], result["openclaw_satisfied"], result["min_openclaw_version"]) == (False, None, None)


def test_blueprint_behind_a_link_is_not_read(host: BigHost) -> None:
    place = host.home / ".nemoclaw/source/nemoclaw-blueprint/blueprint.yaml"
    place.rename(host.root / "elsewhere.yaml")
    place.symlink_to(host.root / "elsewhere.yaml")
    result = facts(look(host))["blueprint"]
    assert result["present"] is None and result["version"] is None and "symbolic link" in " ".join(result["evidence"])


def no_engine(host: BigHost) -> None:
    host.engine.stop()
    host.engine.socket.unlink()


def no_gateways(host: BigHost) -> None:
    host.remove_gateway_process()
    host.remove_container("cluster")
    host.openshell.says("sandbox-list", rc=1, err=b"Error: transport error\n tcp connect error\n")
    host.openshell.forgets("sandbox-list+nemoclaw")


def no_proxy(host: BigHost) -> None:
    (host.proc / str(SANDBOX_PID) / "net/tcp").write_text("  sl  local_address\n")


def no_sandboxes(host: BigHost) -> None:
    for name in ("my-assistant", "researcher", "cuda"):
        host.remove_container(name)
    host.registry.write_text('{"sandboxes": {}}')
    host.openshell.says("sandbox-list", b"[]\n")
    shutil.rmtree(host.home / ".openclaw")


def no_state(host: BigHost) -> None:
    shutil.rmtree(host.home / ".nemoclaw")
    shutil.rmtree(host.home / ".config")


@pytest.mark.parametrize(
    ("take", "layer", "present", "reason"),
    [
        (BigHost.remove_cli, "host_cli", False, "no binary or source"),
        (no_engine, "engine", False, "no engine socket"),
        (no_gateways, "gateway", False, "registered, and none of them runs"),
        (lambda host: host.remove_container("cluster"), "k3s", False, "no binary, data directory or cluster container"),
        (no_sandboxes, "sandbox", False, "none is labelled, registered or listed"),
        (no_proxy, "proxy", False, "not seen in 1 running sandbox(es)"),
        (no_state, "state_files", False, "none of them in any home"),
    ],
)
def test_layer_taken_away_is_missed(host: BigHost, take: Callable[[BigHost], None], layer: str, present: object, reason: str) -> None:
    before = topology(host)
    take(host)
    after = topology(host)
    assert before[layer]["present"] is True and after[layer]["present"] is present
    assert any(reason in text for text in after[layer]["evidence"]), after[layer]


@pytest.mark.parametrize(
    ("take", "layer", "reason"),
    [
        (no_engine, "k3s", "the engine, in which it would run, could not be asked"),
        (lambda host: shutil.rmtree(host.proc / str(SANDBOX_PID)), "proxy", "not all could be looked at"),
        (lambda host: (host.remove_container("my-assistant"), host.remove_container("researcher")), "proxy", "no running sandbox"),
    ],
)
def test_layer_that_cannot_be_looked_at_is_unknown(host: BigHost, take: Callable[[BigHost], None], layer: str, reason: str) -> None:
    take(host)
    after = topology(host)[layer]
    assert after["present"] is None and any(reason in text for text in after["evidence"]), after


def test_gateway_that_nothing_tells_of_is_unknown_not_down(host: BigHost) -> None:
    host.remove_gateway_process()
    host.openshell.program.unlink()
    rows = {row["name"]: row for row in topology(host)["gateway"]["gateways"]}
    assert rows["nemoclaw"]["running"] is True
    assert rows["nemoclaw-18080"]["running"] is None and "does not tell: no openshell binary" in rows["nemoclaw-18080"]["evidence"]


def test_stopped_engine_does_not_stop_gateways_that_answer(host: BigHost) -> None:
    no_engine(host)
    rows = {row["name"]: row for row in topology(host)["gateway"]["gateways"]}
    assert rows["nemoclaw-18080"]["running"] is True and rows["nemoclaw-18080"]["kind"] == "user service"


def test_sandbox_in_five_sources_is_one_row(host: BigHost) -> None:
    found = look(host, deep=True)
    row = box(found, "my-assistant")
    assert row.uid.startswith("docker:") and row.id == "4b7e11d0"
    assert (row.gateway, row.status, row.phase_source, row.agent, row.agent_version, row.driver) == (
        "nemoclaw-18080", "running", "docker", "openclaw", "2026.6.10", "docker",
    )  # fmt: skip
    sources = " | ".join(row.evidence)
    for source in ("label openshell.ai/*", "sandbox list: gateway nemoclaw-18080", "registry /home/alice", "nemoclaw my-assistant status"):
        assert source in sources
    # Its stale phase is said and not believed.
    other = box(found, "researcher")
    assert other.status == "stopped" and "openshell sandbox list: gateway nemoclaw-18080, phase Error" in other.evidence


def test_channels_are_told_by_kind_and_nothing_private_is(host: BigHost) -> None:
    result = facts(look(host, deep=True))
    row = next(row for row in result["sandboxes"] if row["name"] == "my-assistant")
    assert row["messaging"] == ["other", "telegram"] and row["agent_version"] == "2026.6.10"
    assert "canary" not in json.dumps(result)


def test_policy_and_route_are_what_was_read(host: BigHost) -> None:
    row = next(row for row in facts(look(host))["sandboxes"] if row["name"] == "my-assistant")
    assert row["security"] == {"sandbox_enabled": True, "network_policy": True, "policies": ["npm", "pypi"]}
    assert facts(look(host, enabled=["nemoclaw", "docker"]))["sandboxes"][0]["security"]["network_policy"] is None


def test_no_writing_verb_and_no_nemoclaw_verb_without_deep(host: BigHost) -> None:
    before = seen_files(host.root)
    discoverer = Discoverer(root=str(host.root))
    for _pass in range(3):
        discoverer.discover()
    assert host.writes() == "" and seen_files(host.root) == before
    assert set(host.nemoclaw.verbs()) == {"--version"}
    assert {verb.partition(" -")[0] for verb in host.openshell.verbs()} <= READING
    for call in host.openshell.calls():
        if call.words[0] != "--version":
            assert call.words[2 if call.words[0] != "status" else 1] == "-g"
            assert call.home == str(host.home)
        assert call.uid == os.getuid()


def test_deep_asks_nemoclaw_in_reading_words(host: BigHost) -> None:
    before = seen_files(host.root)
    found = look(host, deep=True)
    assert host.writes() == "" and seen_files(host.root) == before
    assert host.nemoclaw.verbs() == [
        "list --json", "status --json", "my-assistant status --json", "researcher status --json", "--version",
    ]  # fmt: skip
    assert not [text for text in found.warnings if "nemoclaw" in text]


def test_deep_does_not_mistake_a_sandbox_for_a_verb(host: BigHost) -> None:
    host.registry.write_text(json.dumps({"sandboxes": {"connect": {"name": "connect"}}}))
    found = look(host, deep=True)
    assert "called like a verb" in " ".join(found.warnings) and host.writes() == ""


def test_gateway_that_contradicts_everything_gives_a_page_of_warnings_at_most(host: BigHost) -> None:
    rows = [{"id": "4b7e11d0", "name": "liar-%d" % number, "phase": "Ready"} for number in range(900)]
    rows += [{"id": "i%d" % number, "name": "n%d" % number, "phase": "Ready"} for number in range(90)]
    host.openshell.says("sandbox-list", json.dumps(rows).encode())
    found = look(host)
    assert len(found.warnings) <= 51 and box(found, "my-assistant").status == "running"


def test_first_pass_of_the_daemon_asks_no_cli(host: BigHost) -> None:
    host.openshell.hangs("sandbox-list")
    began = time.monotonic()
    Discoverer(root=str(host.root), quick_start=True).discover()
    assert time.monotonic() - began < 2.0 and "sandbox list" not in host.openshell.verbs()


HOSTILE_NAMES = ["$(touch pwned)", "; reboot", "../../etc", "\x1b[31mred", "-g", "--help", "a" * 64, "UPPER", "", "a\nb", "\u202eevil"]


def hostile(host: BigHost, kind: str) -> None:
    real = json.loads(host.registry.read_text())
    if kind == "names":
        real["sandboxes"].update({name: {"name": name, "agent": "x"} for name in HOSTILE_NAMES})
        host.registry.write_text(json.dumps(real))
    elif kind == "entries":
        real["sandboxes"].update({"n%d" % number: {"name": "n%d" % number} for number in range(100_000)})
        host.registry.write_text(json.dumps(real))
    elif kind == "sparse":
        with host.registry.open("r+b") as stream:
            stream.truncate(1 << 30)
    elif kind == "link":
        (host.home / ".nemoclaw").rename(host.root / "moved")
        (host.home / ".nemoclaw").symlink_to(host.root / "moved")
    elif kind == "values":
        keys = ("agent", "model", "provider", "policies", "messaging", "agentVersion", "gatewayPort", "openshellDriver")
        real["sandboxes"]["odd"] = {key: {"deep": ["x" * 10_000]} for key in keys}
        real["defaultSandbox"] = {"x": 1}
        host.registry.write_text(json.dumps(real))
    elif kind == "roots":
        for name in ("0", "99999", "../x", "abc", "70000"):
            place = host.home / ".nemoclaw/gateways" / name.replace("/", "_")
            place.mkdir(parents=True)
            (place / "sandboxes.json").write_text('{"sandboxes": {"my-assistant": {"name": "other"}}}')


@pytest.mark.parametrize("kind", ["names", "entries", "sparse", "link", "values", "roots"])
def test_hostile_registry_changes_nothing_but_a_warning(host: BigHost, kind: str) -> None:
    discoverer = Discoverer(root=str(host.root))
    before = discoverer.discover()
    calls = len(host.calls())
    hostile(host, kind)
    began = time.process_time()
    after = discoverer.discover()
    assert time.process_time() - began < 2.0
    known = {row.uid: row for row in before.sandboxes}
    new = [row for row in after.sandboxes if row.uid not in known]
    assert [row.uid for row in after.sandboxes if row.uid in known] == list(known)
    assert [row.name for row in new] == (["odd"] if kind == "values" else [])
    if kind != "link":
        # What was read before a registry went bad is still used.
        assert [row for row in after.sandboxes if row.uid in known and row.name != "researcher"][0].agent == "openclaw"
    warned = [text for text in after.warnings if text not in before.warnings]
    assert warned or kind == "values", after.warnings
    assert all(text.isprintable() and len(text) < 500 for text in after.warnings)
    assert len(host.calls()) == calls and host.writes() == "" and not list(host.root.rglob("pwned"))
    assert len(json.dumps(facts(after))) < 16_000


def test_added_facts_of_ten_sandboxes_are_small(host: BigHost) -> None:
    real = json.loads(host.registry.read_text())
    pattern = next(row for row in host.engine.containers if "my-assistant" in row["Names"][0])
    for number in range(8):
        name = "agent-%d" % number
        real["sandboxes"][name] = {**real["sandboxes"]["my-assistant"], "name": name}
        labels = {**pattern["Labels"], "openshell.ai/sandbox-name": name, "openshell.ai/sandbox-id": "id%d" % number}
        row = {**pattern, "Id": "%064x" % (number + 1), "Names": ["/openshell-" + name], "Labels": labels}
        host.engine.containers.append(row)
        host.engine.inspect[row["Id"]] = {**host.engine.inspect[pattern["Id"]], "Id": row["Id"]}
    host.registry.write_text(json.dumps(real))
    result = facts(look(host))
    assert len([row for row in result["sandboxes"] if row["type"] == "nemoclaw"]) == 10
    assert len(json.dumps(result["topology"])) + len(json.dumps(result["blueprint"])) < 6_000
    assert max(len(json.dumps(row["evidence"])) for row in result["sandboxes"]) < 1_000
