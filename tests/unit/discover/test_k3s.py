# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pods inside OpenShell's cluster container, told apart by the kernel's cgroups and parents on a made-up /proc."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.discover import k3s, nemoclaw
from clawmetry_sync.discover.k3s import Cluster, Pods, parse_pod

ID, OTHER = "a1" * 32, "b2" * 32
UID = "85ef1ba4-4176-4215-90b8-9e0b2e5e3b83"
UID2 = "9cf5a93c-de49-4f09-981e-7888b81e1247"
BOX = "e3" * 32
CLUSTER = Cluster("openshell-cluster-nemoclaw", ID, "unix:///x")

PATHS = {
    "k3s in Docker, cgroup v1": ("/docker/%s/kubepods/besteffort/pod%s/%s" % (ID, UID, BOX), (UID, BOX)),
    "guaranteed": ("/docker/%s/kubepods/pod%s/%s" % (ID, UID, BOX), (UID, BOX)),
    "systemd's driver": (
        "/system.slice/docker-%s.scope/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod%s.slice/cri-containerd-%s.scope"
        % (ID, UID.replace("-", "_"), BOX),
        (UID, "cri-containerd-%s.scope" % BOX),
    ),
    "a group made inside": ("/docker/%s/kubepods/burstable/pod%s/%s/init/x" % (ID, UID, BOX), (UID, BOX)),
    "the pod itself, no container": ("/docker/%s/kubepods/besteffort/pod%s" % (ID, UID), None),
    "a static pod": ("/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/" + BOX, None),
    "k3s itself": ("/docker/%s/k3s" % ID, None),
    "a container": ("/docker/" + ID, None),
}


@pytest.mark.parametrize("what", PATHS)
def test_cgroups_of_pods(what: str) -> None:
    path, wanted = PATHS[what]
    assert parse_pod(("/", path)) == wanted


@given(st.lists(st.text(max_size=300)))
def test_any_cgroup_text_is_survived(paths: list[str]) -> None:
    parse_pod(paths)


class Proc:
    """A /proc below ROOT, whose processes are directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()

    def add(
        self, pid: int, cgroup: str, *, parent: int = 1, start: int = 100, hostname: Optional[str] = None, sessions: bool = False
    ) -> Path:
        entry = self.root / "proc" / str(pid)
        (entry / "root" / "etc").mkdir(parents=True)
        (entry / "cgroup").write_text("9:name=systemd:%s\n0::%s\n" % (cgroup, cgroup))
        (entry / "stat").write_text("%d (evil ) 1 2 3) S %d %s %d 0" % (pid, parent, " ".join("0" * 17), start))
        if hostname is not None:
            (entry / "root" / "etc" / "hostname").write_text(hostname)
            (entry / "root" / "sandbox").mkdir()
        if sessions:
            (entry / "root" / "sandbox/.openclaw/agents/main/sessions").mkdir(parents=True)
        return entry


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def pod_path(uid: str = UID, box: str = BOX, container: str = ID) -> str:
    return "/docker/%s/kubepods/besteffort/pod%s/%s" % (container, uid, box)


def test_one_row_for_each_pod_by_its_uid(proc: Proc) -> None:
    proc.add(4_300_001, pod_path(box="f" * 64))  # pause: no /sandbox
    proc.add(4_300_005, pod_path(), start=300, hostname="my-assistant")
    proc.add(4_300_004, pod_path(), start=200, hostname="my-assistant\n", sessions=True)
    proc.add(4_300_010, pod_path(UID2), hostname="other")
    proc.add(4_300_020, "/docker/" + OTHER, hostname="no-pod", sessions=True)
    boxes, warnings = Pods(str(proc.root)).find([CLUSTER])
    first, second = boxes
    assert warnings == []
    assert (first.uid, first.name, first.gateway, first.confirmed) == ("k3s:%s:%s" % (ID, UID), "my-assistant", "nemoclaw", True)
    assert first.container is not None and (first.container.pid, first.container.started_at) == (4_300_004, "200")
    assert first.container.pod == UID and first.container.mounts == ()
    assert (second.name, second.confirmed) == ("other", False)


def test_a_pod_beside_its_container_belongs_to_it_by_its_parents(proc: Proc) -> None:
    """With the host's cgroup namespace kubelet makes its groups at the top."""
    proc.add(4_300_001, "/docker/" + ID)
    proc.add(4_300_002, "/docker/%s/k3s" % ID, parent=4_300_001)
    proc.add(4_300_003, "/kubepods/besteffort/pod%s/%s" % (UID, BOX), parent=4_300_002, hostname="a", sessions=True)
    proc.add(4_300_004, "/kubepods/besteffort/pod%s/%s" % (UID2, BOX), hostname="of-another-cluster", sessions=True)
    assert [box.name for box in Pods(str(proc.root)).find([CLUSTER])[0]] == ["a"]


def test_the_names_of_another_container_make_no_pod_of_this_one(proc: Proc) -> None:
    proc.add(4_300_001, pod_path(container=OTHER), hostname="forged", sessions=True)
    assert Pods(str(proc.root)).find([CLUSTER]) == ([], [])


def test_a_stopped_cluster_is_not_looked_for(proc: Proc) -> None:
    proc.add(4_300_001, pod_path(), hostname="a", sessions=True)
    assert Pods(str(proc.root)).find([Cluster(CLUSTER.name, ID, "unix:///x", running=False)]) == ([], [])


@pytest.mark.parametrize("hostname", ["../../etc", "-g", "\x1b[31mred", "A" * 64, "x" * 300, "", "name\nline"])
def test_a_hostile_hostname_names_nothing(proc: Proc, hostname: str) -> None:
    proc.add(4_300_001, pod_path(), hostname=hostname, sessions=True)
    (box,) = Pods(str(proc.root)).find([CLUSTER])[0]
    assert box.name == "pod-" + UID[:8] and box.reason


def test_a_process_that_may_not_be_looked_into_is_told(proc: Proc) -> None:
    entry = proc.add(4_300_001, pod_path())
    (entry / "root" / "etc").rmdir()
    (entry / "root").rmdir()
    boxes, warnings = Pods(str(proc.root)).find([CLUSTER])
    assert boxes == [] and len(warnings) == 1 and "could not be looked into" in warnings[0]


def test_another_process_behind_the_pid_is_noticed(proc: Proc) -> None:
    entry = proc.add(4_300_001, pod_path(), hostname="a", sessions=True)
    (box,) = Pods(str(proc.root)).find([CLUSTER])[0]
    assert box.container is not None
    assert k3s.reinspect(box.container, str(proc.root)) == box.container
    (entry / "cgroup").write_text("0::%s\n" % pod_path(UID2))
    assert k3s.reinspect(box.container, str(proc.root)) is None
    (entry / "cgroup").write_text("0::%s\n" % pod_path())
    (entry / "stat").write_text("4300001 (sh) S 1 %s 101 0" % " ".join("0" * 17))
    assert k3s.reinspect(box.container, str(proc.root)) is None


def registered(gateway: str, *names: str) -> nemoclaw.Found:
    entries = tuple(nemoclaw.Entry(name, "openclaw", nemoclaw.Inference("p", gateway), (), gateway) for name in names)
    return nemoclaw.Found("/home/%s" % gateway, None, nemoclaw.Registry(entries))


def test_a_pod_joins_the_registry_of_its_own_gateway(proc: Proc) -> None:
    """Two gateways, each with a sandbox of the same name: the gateway tells which is which."""
    proc.add(4_300_001, pod_path(), hostname="a", sessions=True)
    proc.add(4_300_002, pod_path(UID2, container=OTHER), hostname="a", sessions=True)
    pods, _warnings = Pods(str(proc.root)).find([CLUSTER, Cluster("openshell-cluster-nemoclaw-9090", OTHER, "unix:///x")])
    boxes, warnings = nemoclaw.merge(pods, [registered("nemoclaw", "a", "b"), registered("nemoclaw-9090", "a")])
    assert warnings == []
    assert {box.uid: box.inference.model for box in boxes} == {
        "k3s:%s:%s" % (ID, UID): "nemoclaw",
        "k3s:%s:%s" % (OTHER, UID2): "nemoclaw-9090",
        "registry:nemoclaw:b": "nemoclaw",
    }


def test_two_pods_that_claim_one_name_gain_nothing(proc: Proc) -> None:
    proc.add(4_300_001, pod_path(), hostname="a", sessions=True)
    proc.add(4_300_002, pod_path(UID2), hostname="a", sessions=True)
    pods, _warnings = Pods(str(proc.root)).find([CLUSTER])
    boxes, warnings = nemoclaw.merge(pods, [registered("nemoclaw", "a")])
    assert len(warnings) == 1 and [box.inference.model for box in boxes if box.uid.startswith("k3s:")] == [None, None]
