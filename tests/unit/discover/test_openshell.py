# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenShell's presence: processes, containers, configuration, and their look-alikes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clawmetry_sync.discover import k3s, openshell, podman
from clawmetry_sync.discover.accounts import Account, Accounts
from clawmetry_sync.discover.binaries import Lookups
from clawmetry_sync.run import Result


def lookups(host: Path) -> Lookups:
    def runner(argv: list[str], **_options: object) -> Result:
        return Result(tuple(argv), 0, b"openshell 0.0.72\n", b"")

    return Lookups(root=str(host), runner=runner, euid=0)


def process(host: Path, pid: int, comm: str, status: str) -> None:
    (host / "proc" / str(pid)).mkdir(parents=True)
    (host / "proc" / str(pid) / "comm").write_text(comm + "\n")
    (host / "proc" / str(pid) / "status").write_text(status)


def accounts(host: Path, complete: bool = True) -> Accounts:
    (host / "home/alice").mkdir(parents=True, exist_ok=True)
    return Accounts((Account("alice", 1000, "/home/alice", str(host / "home/alice")),), complete)


def test_gateway_process_of_the_host_counts_and_one_inside_a_container_does_not(tmp_path: Path) -> None:
    process(tmp_path, 400, "openshell-gatew", "Name:\topenshell-gatew\nNSpid:\t400\n")
    process(tmp_path, 500, "openshell-gatew", "Name:\topenshell-gatew\nNSpid:\t500\t1\n")
    process(tmp_path, 600, "bash", "NSpid:\t600\n")
    (tmp_path / "proc/meminfo").write_text("x")
    assert openshell.gateway_processes(str(tmp_path)) == [400]
    runtime = openshell.probe(lookups=lookups(tmp_path), accounts=accounts(tmp_path))
    assert runtime.present is True and "pid 400" in runtime.evidence[0]


def test_configuration_alone_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "home/alice/.config/openshell").mkdir(parents=True)
    runtime = openshell.probe(lookups=lookups(tmp_path), accounts=accounts(tmp_path))
    assert runtime.present is None and runtime.evidence == ("configuration /home/alice/.config/openshell",)


def test_nothing_is_absent_only_where_everything_was_looked_into(tmp_path: Path) -> None:
    assert openshell.probe(lookups=lookups(tmp_path), accounts=accounts(tmp_path)).present is False
    assert openshell.probe(lookups=lookups(tmp_path), accounts=accounts(tmp_path, complete=False)).present is None


def test_containers_prove_openshell_and_the_cluster_container_k3s(tmp_path: Path) -> None:
    looks = lookups(tmp_path)
    assert openshell.probe(lookups=looks, accounts=accounts(tmp_path), sandboxes=2).present is True
    gateways = ("openshell-cluster-nemoclaw", "nemoclaw-nim-x")
    assert openshell.probe(lookups=looks, accounts=accounts(tmp_path), gateways=gateways).present is True
    assert k3s.probe(lookups=looks, gateways=gateways).present is True
    assert k3s.probe(lookups=looks, gateways=("nemoclaw-nim-x",)).present is False


def test_left_over_k3s_directory_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "var/lib/rancher/k3s").mkdir(parents=True)
    assert k3s.probe(lookups=lookups(tmp_path)).present is None


@pytest.mark.root
def test_podman_by_socket_or_binary(tmp_path: Path) -> None:
    assert podman.probe(lookups=lookups(tmp_path), accounts=accounts(tmp_path)).present is False
    (tmp_path / "run/user/1000/podman").mkdir(parents=True)
    os.mknod(tmp_path / "run/user/1000/podman/podman.sock", stat.S_IFSOCK | 0o600)
    os.chown(tmp_path / "run/user/1000/podman/podman.sock", 1000, 1000)
    runtime = podman.probe(lookups=lookups(tmp_path), accounts=accounts(tmp_path))
    assert runtime.present is True and runtime.evidence == ("socket /run/user/1000/podman/podman.sock",)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("openshell-cluster-nemoclaw", "ghcr.io/nvidia/openshell/cluster:0.0.26", True),
        ("anything", "ghcr.io/nvidia/openshell/gateway@sha256:00", True),
        ("anything", "registry.corp.example/mirror/openshell/supervisor", True),
        ("nemoclaw-openshell-gateway-18080", "debian", True),
        ("nemoclaw-nim-my-assistant", "nvcr.io/nim/x", True),
        ("openshell-my-assistant-1", "ghcr.io/nvidia/openshell-community/sandboxes/openclaw", False),
        ("gateway", "corp/openshell-gateway-dashboard", False),
    ],
)
def test_infrastructure_containers(name: str, image: str, expected: bool) -> None:
    assert openshell.is_infrastructure(name, image, None) is expected
