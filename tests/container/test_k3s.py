# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sandboxes that are pods inside OpenShell's cluster container, found and read from the host alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.cluster import KUBECTL, cluster, pod_list, start_pod
from support.ingest import Ingest
from support.sandbox import docker, openshell_0_0_72, until
from support.tree import dumps, make_tree, numbered

from .conftest import MakeNode
from .test_sandboxes import actions_on, arrived, expected

pytestmark = pytest.mark.root
KINDS = ["nemoclaw", "openshell", "k3s"]


def registry(home: Path, gateway: str, *names: str) -> str:
    """A NemoClaw registry as of March 2026."""
    (home / ".nemoclaw").mkdir(parents=True, mode=0o700)
    rows = {
        name: {"name": name, "createdAt": "2026-03-20T10:00:00Z", "model": "nvidia/testing", "provider": "nvidia", "policies": ["pypi"],
               "gatewayName": gateway}
        for name in names
    }  # fmt: skip
    (home / ".nemoclaw" / "sandboxes.json").write_text(json.dumps({"sandboxes": rows, "defaultSandbox": names[0]}))
    return str(home)


def test_two_pods_are_read_through_proc_with_no_kubectl(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack, tmp_path: Path
) -> None:
    """One with its claim over /sandbox, one of before 0.0.22 without; a third pod is no sandbox."""
    box = cleanup.enter_context(cluster("nemoclaw-18080"))
    newer, older = start_pod(box, unique + "-newer"), start_pod(box, unique + "-older", claim=False)
    other = start_pod(box, "coredns-5d78c9869d-x")
    os.rmdir(other.root / "sandbox") if not os.path.ismount(other.root / "sandbox") else None
    trees = {pod.name: make_tree(sessions=2, events=40, seed=number) for number, pod in enumerate((newer, older))}
    for pod in (newer, older):
        pod.put_tree(trees[pod.name])
    home = registry(tmp_path / "home", "nemoclaw-18080", newer.name, "gone-" + unique)
    since = time.time()

    daemon = node(discover=KINDS, homes=[home], sandboxes={"include": ["*" + unique + "*"]})
    daemon.start()
    ingest.wait_events(160)
    for name, tree in trees.items():
        assert arrived(ingest, name) == expected(tree)
    rows: dict[str, Any] = {row["name"]: row for row in daemon.json("snapshot")["sandboxes"]}
    assert set(rows) == {newer.name, older.name, "gone-" + unique}
    for pod in (newer, older):
        row = rows[pod.name]
        assert (row["type"], row["route"], row["readable"], row["status"]) == ("nemoclaw", "proc", True, "running")
        assert (row["id"], row["gateway"], row["sessions"]["count"]) == (pod.uid, "nemoclaw-18080", 2)
    assert rows[newer.name]["inference"] == {"provider": "nvidia", "model": "nvidia/testing"} and rows[newer.name]["default"]
    assert rows[older.name]["inference"] == {"provider": None, "model": None}
    assert rows["gone-" + unique]["readable"] is False
    assert actions_on(box.id, since) == []
    assert ingest.duplicate_events == 0

    # A pod that ends is drained and released; another of its name is another sandbox.
    newer.append("last.jsonl", b"".join(dumps(numbered(number)) for number in range(300)))
    os.kill(newer.pid, signal.SIGKILL)
    ingest.wait_events(460)
    again = start_pod(box, newer.name)
    again.append("last.jsonl", b"".join(dumps(numbered(number)) for number in range(1000, 1010)))
    ingest.wait_events(470)
    assert ingest.duplicate_events == 0


def test_a_container_that_plays_a_pod_of_the_cluster_is_none(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    """The same cgroup names, the same hostname, but below another container: it stays what it is (S15)."""
    box = cleanup.enter_context(cluster(unique))
    real = start_pod(box, unique + "-a")
    real.append("s.jsonl", b"".join(dumps(numbered(number)) for number in range(5)))
    options = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined")
    fake = cleanup.enter_context(openshell_0_0_72(unique + "-fake", options=options))
    played = start_pod(fake, unique + "-a")
    played.append("s.jsonl", b"".join(dumps(numbered(number)) for number in range(100, 105)))
    daemon = node(discover=KINDS)
    daemon.start()
    ingest.wait_events(5)
    time.sleep(1.0)
    assert set(arrived(ingest, unique + "-a")) == {"s.jsonl"} and len(ingest.all_events()) == 5
    assert sorted(row["name"] for row in daemon.json("snapshot")["sandboxes"]) == [unique + "-a", unique + "-fake"]


def test_a_stopped_cluster_has_no_pods(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    box = cleanup.enter_context(cluster(unique))
    pod = start_pod(box, unique + "-a")
    pod.append("s.jsonl", dumps(numbered(1)))
    daemon = node(discover=KINDS)
    daemon.start()
    ingest.wait_events(1)
    docker("stop", "-t", "0", box.id)
    until(lambda: daemon.json("snapshot")["sandboxes"] == [], 30, "no sandboxes")


def test_kubectl_is_the_only_source(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    """/proc tells nothing of the pods, as on another machine; the operator allows exec."""
    box = cleanup.enter_context(cluster(unique, files=(("/bin/kubectl", KUBECTL),)))
    pods = [start_pod(box, unique + "-a", visible=False), start_pod(box, unique + "-b", claim=False, visible=False)]
    box.sh("cat >/pods.json", stdin=pod_list(*pods, strangers=("openshell-0",)).encode(), user="0")
    trees = {pod.name: make_tree(sessions=2, events=40, seed=number) for number, pod in enumerate(pods)}
    for pod in pods:
        pod.put_tree(trees[pod.name])
        os.symlink("/etc/hostname", pod.root / "sandbox/.openclaw/agents/main/sessions/link.jsonl")
        (pod.root / "sandbox/.openclaw/agents/main/sessions/-x.jsonl").write_bytes(dumps(numbered(7)))
    assert node(discover=KINDS).json("snapshot")["sandboxes"] == []
    assert box.sh("cat /kubectl.log", check=False) == b""

    daemon = node(discover=KINDS, routes=["proc", "volume", "archive", "exec"])
    daemon.start()
    ingest.wait_events(161)
    for name, tree in trees.items():
        wanted = expected(tree)
        assert {session: events for session, events in arrived(ingest, name).items() if session != "-x.jsonl"} == wanted
    for row, pod in zip(sorted(daemon.json("snapshot")["sandboxes"], key=lambda row: str(row["name"])), pods):
        assert (row["name"], row["id"], row["route"], row["readable"]) == (pod.name, "id-" + pod.name, "exec", True)
        assert (row["phase_source"], row["status"], row["gateway"]) == ("kubectl", "running", unique)
    assert "link.jsonl" in daemon.status()["problems"][pods[0].name]
    pods[0].append("later.jsonl", b"".join(dumps(numbered(number)) for number in range(200, 230)))
    ingest.wait_events(191, timeout_s=40)
    assert set(box.sh("cat /kubectl.log").split()) == {b"get", b"exec"}
    assert ingest.duplicate_events <= 1  # "-x.jsonl" is the same line in both


def test_what_proc_shows_and_kubectl_tells_is_one_row(ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack) -> None:
    box = cleanup.enter_context(cluster(unique, files=(("/bin/kubectl", KUBECTL),)))
    pod = start_pod(box, unique + "-a")
    box.sh("cat >/pods.json", stdin=pod_list(pod).encode(), user="0")
    pod.append("s.jsonl", dumps(numbered(1)))
    (row,) = node(discover=KINDS, routes=["proc", "exec"]).json("snapshot")["sandboxes"]
    assert (row["name"], row["id"], row["route"]) == (pod.name, "id-" + pod.name, "proc")


def test_a_plain_container_by_exec_when_nothing_else_is_allowed(
    ingest: Ingest, node: MakeNode, unique: str, cleanup: contextlib.ExitStack
) -> None:
    box = cleanup.enter_context(openshell_0_0_72(unique))
    tree = make_tree(sessions=3, events=40)
    box.put_tree(tree)
    daemon = node(routes=["exec"])
    daemon.start()
    ingest.wait_events(120)
    assert arrived(ingest, unique) == expected(tree)
    ingest.wait(lambda me: bool(me.memory), what="memory")
    (row,) = daemon.json("snapshot")["sandboxes"]
    assert (row["route"], row["sessions"]["count"]) == ("exec", 3)
    # A sandbox whose shell prints without end harms nobody.
    loop = "#!/bin/busybox sh\\nwhile :; do busybox cat /bin/busybox; done\\n"
    box.sh("printf '%s' >/bin/new; chmod 755 /bin/new; mv /bin/new /bin/sh" % loop, user="0")
    until(lambda: "larger than" in str(daemon.status()["unreadable"]), 40, "trouble told")
    assert daemon.rss_kib() < 80 * 1024
