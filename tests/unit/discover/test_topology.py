# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The small parsers behind the layers: blueprints, versions, the kernel's tables; and gateways from single sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.discover import docker, gateways, topology
from clawmetry_sync.discover.accounts import Account
from clawmetry_sync.discover.gateways import Gateway, Process
from clawmetry_sync.discover.nemoclaw import MAX_ENTRIES, Found, parse_registry
from clawmetry_sync.discover.openshellcli import Answer, Registration
from support.bighost import BLUEPRINT, HEADER, listening

ALICE = Account("alice", 1000, "/home/alice", "/home/alice", 1000)


def test_blueprint_s_own_versions_and_no_deeper_ones() -> None:
    assert topology.parse_blueprint(BLUEPRINT) == {
        "version": "0.1.0",
        "min_openshell_version": "0.0.72",
        "min_openclaw_version": "2026.5.18",
    }


@pytest.mark.parametrize("text", ["", "version:\n", "version: [1]\n", "version: $(x)\n", " version: 1.0\n", "version: '1.0\n", "\x00"])
def test_what_is_no_blueprint_has_no_versions(text: str) -> None:
    assert topology.parse_blueprint(text) == {}


@given(st.text(max_size=500))
def test_any_blueprint_gives_short_words(text: str) -> None:
    assert all(len(value) <= 40 for value in topology.parse_blueprint(text).values())


@pytest.mark.parametrize(
    ("have", "need", "answer"),
    [
        ("0.0.72", "0.0.72", True),
        ("0.0.111", "0.0.72", True),
        ("0.0.44", "0.0.72", False),
        ("0.1.9", "0.0.72", True),
        ("v2026.6.10", "2026.5.18", True),
        ("0.0.76-3-g1a2b3c4", "0.0.76", True),
        (None, "0.0.72", None),
        ("0.0.72", None, None),
        ("nightly", "0.0.72", None),
    ],
)
def test_versions_are_compared_as_numbers(have: Optional[str], need: Optional[str], answer: Optional[bool]) -> None:
    assert topology._at_least(have, need) is answer


def test_listening_sockets_of_the_kernel_s_table() -> None:
    other = listening(443, 9).replace(" 0A ", " 01 ")
    assert gateways.listening(HEADER + listening(17670, 7) + other + "garbage\n") == [(17670, "7")]


@given(st.text(max_size=500))
def test_any_table_gives_ports(text: str) -> None:
    assert all(0 <= port < 65536 for port, _inode in gateways.listening(HEADER + text))


def known(**sources: Any) -> tuple[Gateway, ...]:
    nothing: dict[str, Any] = {"answers": [], "registries": [], "containers": docker.Containers(), "running": [], "boxes": []}
    return gateways.gateways(accounts=[ALICE], **{**nothing, **sources})


def container(name: str, image: str = "ghcr.io/nvidia/openshell/cluster:0.0.26", state: str = "running", *ports: int) -> docker.Containers:
    return docker.Containers(gateway_rows=(docker.Row("c" * 64, name, image, state, "Up", {}, ports),))


def test_gateway_container_of_the_k3s_era() -> None:
    (row,) = known(containers=container("openshell-cluster-mine", "ghcr.io/nvidia/openshell/cluster:0.0.26", "running", 8081))
    assert (row.name, row.kind, row.driver, row.port, row.running, row.version) == ("mine", "container", "kubernetes", 8081, True, "0.0.26")
    (row,) = known(containers=container("openshell-cluster-mine", state="exited"))
    assert row.running is False


def test_gateway_container_for_old_c_libraries_has_nemoclaw_s_name() -> None:
    (row,) = known(containers=container("nemoclaw-openshell-gateway-18080", "nvcr.io/x:1"))
    assert (row.name, row.kind, row.driver, row.running) == ("nemoclaw-18080", "container", "docker", True)


@pytest.mark.parametrize("name", ["nemoclaw-nim-a", "openshell-supervisor-x"])
def test_helper_container_is_no_gateway(name: str) -> None:
    assert known(containers=container(name, "ghcr.io/nvidia/openshell/supervisor:0.1.9")) == ()


@pytest.mark.parametrize(
    ("process", "kind"),
    [
        (Process(7, 1000, None, False, (17670,)), "host process"),
        (Process(7, 1000, "openshell-gateway.service", True, (17670,)), "user service"),
        (Process(7, 0, "snap.openshell.gateway.service", False, (17670,)), "system service"),
    ],
)
def test_process_nobody_registered_is_a_gateway_without_a_name(process: Process, kind: str) -> None:
    (row,) = known(running=[process])
    assert (row.name, row.kind, row.port, row.running, row.user) == (None, kind, 17670, True, "alice" if process.uid else None)


def test_process_is_the_registered_gateway_at_its_port() -> None:
    two = (Registration("a", 1), Registration("b", 2))
    answers = [Answer("alice", "/home/alice", gateway, error="not_asked", detail="x") for gateway in two]
    first, second = known(answers=answers, running=[Process(7, 1000, None, False, (2, 3))])
    assert (first.running, first.kind) == (None, None) and (second.running, second.kind, second.port) == (True, "host process", 2)


def test_process_whose_ports_are_hidden_is_its_user_s_only_gateway() -> None:
    answers = [Answer("alice", "/home/alice", Registration("a", 1), error="not_asked", detail="x")]
    (row,) = known(answers=answers, running=[Process(7, 1000)])
    assert (row.name, row.running, row.port) == ("a", True, 1)


def test_registry_alone_names_a_gateway_of_unknown_state() -> None:
    entry = {"sandboxes": {"a": {"name": "a", "gatewayPort": 18080, "openshellDriver": "vm"}}}
    (row,) = known(registries=[Found("/home/alice/.nemoclaw/sandboxes.json", "alice", parse_registry(json.dumps(entry).encode()))])
    assert (row.name, row.port, row.driver, row.running) == ("nemoclaw-18080", 18080, "vm", None)


@pytest.mark.parametrize(
    ("error", "running"), [("unreachable", False), ("no_gateway", False), ("hangs", None), ("denied", None), ("not_asked", None)]
)
def test_failure_says_whether_a_gateway_runs_or_not(error: str, running: Optional[bool]) -> None:
    (row,) = known(answers=[Answer("alice", "/home/alice", Registration("a", 1), error=error, detail=error)])
    assert row.running is running


def test_unit_and_ports_are_read_from_proc(tmp_path: Path) -> None:
    place = tmp_path / "proc/42"
    (place / "net").mkdir(parents=True)
    (place / "fd").mkdir()
    (place / "cgroup").write_text("0::/system.slice/snap.openshell.gateway.service\n")
    (place / "net/tcp").write_text(HEADER + listening(17670, 77))
    (place / "net/tcp6").write_text(HEADER + listening(17671, 78, "0" * 32))
    for number, target in enumerate(("socket:[77]", "socket:[78]", "/dev/null", "socket:[]")):
        (place / "fd" / str(number)).symlink_to(target)
    (found,) = gateways.processes(str(tmp_path), [42])
    assert (found.unit, found.user_scope, found.ports) == ("snap.openshell.gateway.service", False, (17670, 17671))


def test_process_that_is_gone_is_described_by_its_number(tmp_path: Path) -> None:
    assert gateways.processes(str(tmp_path), [42]) == (Process(42),)


def test_registry_longer_than_any_host_s_is_not_believed() -> None:
    many = {"sandboxes": {"n%d" % number: {} for number in range(MAX_ENTRIES + 1)}}
    with pytest.raises(ValueError, match="no more than"):
        parse_registry(json.dumps(many).encode())


KEYS = ["sandboxes", "a", "name", "messaging", "plan", "channels", "channelId", "active", "policies", "gatewayPort", "agent"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = st.recursive(
    LEAVES, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner) | st.lists(inner, max_size=3), max_leaves=30
)


@given(JSON)
def test_any_json_is_a_registry_or_a_value_error(document: object) -> None:
    try:
        found = parse_registry(json.dumps(document).encode())
    except ValueError:
        return
    for entry in found.entries:
        assert entry.messaging is None or all(isinstance(kind, str) for kind in entry.messaging)
