# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where are we? Hosts, containers, sandboxes and their look-alikes, as made-up roots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync import cloud, hostinfo

ID = "0123456789abcdef" * 4
PLAIN = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n"
# What a Docker host's own mountinfo shows while containers run: their overlays, mounted elsewhere.
DOCKER_HOST = PLAIN + "".join(
    "%d 27 0:%d / /var/lib/docker/overlay2/%s/merged rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A\n" % (n, n, ID)
    for n in (40, 41)
)
OVERLAY2 = (
    "500 400 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A:/var/lib/docker/overlay2/l/B,upperdir=x\n"
)
LIVE_CD = "27 1 0:24 / / rw,relatime - overlay overlay rw,lowerdir=/run/live/rootfs/filesystem.squashfs,upperdir=/run/live/overlay\n"
INITIAL, OWN = "pid:[4026531836]", "pid:[4026532718]"


def make(
    root: Path,
    *,
    cgroup: str = "0::/\n",
    mountinfo: str = PLAIN,
    namespace: str = INITIAL,
    comm: str = "systemd",
    files: tuple[str, ...] = (),
) -> str:
    for which in ("1", "self"):
        (root / "proc" / which / "ns").mkdir(parents=True)
        (root / "proc" / which / "cgroup").write_text(cgroup)
        (root / "proc" / which / "mountinfo").write_text(mountinfo)
    (root / "proc/self/ns/pid").symlink_to(namespace)
    (root / "proc/1/comm").write_text(comm + "\n")
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    return str(root)


def inside(root: str) -> object:
    return hostinfo.container(root)[0]


def test_plain_host_is_no_container(tmp_path: Path) -> None:
    assert inside(make(tmp_path)) is False


def test_docker_host_itself_is_not_a_container(tmp_path: Path) -> None:
    assert inside(make(tmp_path, mountinfo=DOCKER_HOST, files=(".dockerenv",))) is False


def test_docker_host_s_service_cgroups_are_no_container(tmp_path: Path) -> None:
    assert inside(make(tmp_path, cgroup="0::/system.slice/docker.service\n", mountinfo=DOCKER_HOST)) is False


def test_live_system_on_an_overlay_root_is_no_container(tmp_path: Path) -> None:
    assert inside(make(tmp_path, mountinfo=LIVE_CD, files=(".dockerenv",))) is False


@pytest.mark.parametrize(
    "cgroup",
    [
        "12:pids:/docker/%s\n0::/docker/%s/init.scope\n" % (ID, ID),
        "0::/system.slice/docker-%s.scope\n" % ID,
        "0::/machine.slice/libpod-%s.scope/container\n" % ID,
        "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-%s.scope\n" % ID,
        "1:name=systemd:/lxc.payload.box/init.scope\n",
    ],
)
def test_engine_s_cgroup_is_a_container(tmp_path: Path, cgroup: str) -> None:
    assert inside(make(tmp_path, cgroup=cgroup, namespace=OWN)) is True


@pytest.mark.parametrize(
    "mountinfo",
    [
        OVERLAY2,
        "500 400 0:50 / / rw - overlay overlay rw,lowerdir=/home/a/.local/share/containers/storage/overlay/l/A\n",
        "500 400 254:0 /var/lib/docker/vfs/dir/%s / rw - ext4 /dev/vda rw\n" % ID,
    ],
)
def test_engine_s_root_filesystem_is_a_container_even_with_a_private_cgroup_namespace(tmp_path: Path, mountinfo: str) -> None:
    assert inside(make(tmp_path, mountinfo=mountinfo, namespace=OWN)) is True


@pytest.mark.parametrize("mark", ["run/.containerenv"])
def test_podman_s_mark_is_a_container(tmp_path: Path, mark: str) -> None:
    assert inside(make(tmp_path, namespace=OWN, files=(mark,))) is True


def test_docker_in_docker_host_is_a_container_but_no_sandbox(tmp_path: Path) -> None:
    root = make(tmp_path, mountinfo=OVERLAY2 + DOCKER_HOST.partition("\n")[2], namespace=OWN)
    assert inside(root) is True and hostinfo.sandbox(root, {}, True)[0] is False


WSL2 = "5.15.167.4-microsoft-standard-WSL2\n"


def on_kernel(root: str, release: str) -> str:
    place = Path(root) / "proc/sys/kernel"
    place.mkdir(parents=True)
    (place / "osrelease").write_text(release)
    return root


@pytest.mark.parametrize("systemd", [True, False])
def test_wsl_distribution_is_a_host(tmp_path: Path, systemd: bool) -> None:
    """It has a pid namespace of its own, and its systemd calls it a container."""
    root = on_kernel(make(tmp_path, namespace=OWN, files=(".dockerenv", "run/WSL/2_interop")), WSL2)
    if systemd:
        (tmp_path / "run/systemd").mkdir()
        (tmp_path / "run/systemd/container").write_text("wsl\n")
    host = hostinfo.gather(root=root, env={}, system="Linux")
    assert host.in_container is False and host.in_sandbox is False and "WSL" in " ".join(host.evidence)


def test_container_on_the_kernel_of_wsl_is_a_container(tmp_path: Path) -> None:
    root = on_kernel(make(tmp_path, mountinfo=OVERLAY2, namespace=OWN, files=("run/WSL/2_interop",)), WSL2)
    assert inside(root) is True
    bare = on_kernel(make(tmp_path / "b", namespace=OWN), WSL2)
    assert inside(bare) is None


def test_first_wsl_is_a_host(tmp_path: Path) -> None:
    assert inside(on_kernel(make(tmp_path, namespace=OWN), "4.4.0-19041-Microsoft\n")) is False


@pytest.mark.parametrize(
    ("mountinfo", "first", "expected"),
    [
        (PLAIN, "..", False),
        (PLAIN, "elsewhere", True),
        ("30 27 254:0 /srv/jail/proc /proc rw - proc proc rw\n", "..", True),
        (PLAIN, "nothing", None),
    ],
)
def test_chroot_is_told_by_what_lies_on_the_root(tmp_path: Path, mountinfo: str, first: str, expected: object) -> None:
    root = make(tmp_path, mountinfo=mountinfo)
    (tmp_path / "proc/elsewhere").mkdir()
    (tmp_path / "proc/1/root").symlink_to(tmp_path if first == ".." else tmp_path / "proc" / first)
    host = hostinfo.gather(root=root, env={}, system="Linux")
    assert host.in_chroot is expected and host.in_container is False


@pytest.mark.root
@pytest.mark.spawns
def test_real_chroot_is_seen_from_inside(tmp_path: Path) -> None:
    """As the kernel shows it: /proc of the host, another root."""
    child = os.fork()
    if child == 0:
        status = 9
        try:
            proc = os.open("/proc", os.O_RDONLY)
            os.chroot(tmp_path)
            os.chdir("/")
            ours = os.readlink("self", dir_fd=proc)
            with open(os.open("%s/mountinfo" % ours, os.O_RDONLY, dir_fd=proc)) as stream:
                status = 0 if hostinfo.root_mount(stream.read()) is None else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_pid_namespace_without_any_mark_is_unknown(tmp_path: Path) -> None:
    value, evidence = hostinfo.container(make(tmp_path, namespace=OWN, files=(".dockerenv",)))
    assert value is None and "alone proves nothing" in evidence[-1]


def test_host_whose_proc_is_hidden_is_unknown(tmp_path: Path) -> None:
    assert inside(str(tmp_path)) is None


def test_other_systems_have_no_linux_containers(tmp_path: Path) -> None:
    assert hostinfo.container(str(tmp_path), "Darwin")[0] is False


def test_sandbox_is_told_by_its_first_process(tmp_path: Path) -> None:
    root = make(tmp_path, mountinfo=OVERLAY2, namespace=OWN, comm="openshell-sandb")
    host = hostinfo.gather(root=root, env={}, system="Linux")
    assert host.in_container is True and host.in_sandbox is True


def test_environment_variable_on_a_host_makes_no_sandbox(tmp_path: Path) -> None:
    host = hostinfo.gather(root=make(tmp_path), env={"OPENSHELL_SANDBOX": "1"}, system="Linux")
    assert host.in_sandbox is False


def test_environment_variable_in_a_container_is_a_sandbox(tmp_path: Path) -> None:
    root = make(tmp_path, mountinfo=OVERLAY2, namespace=OWN)
    assert hostinfo.gather(root=root, env={"OPENSHELL_SANDBOX_ID": "1"}, system="Linux").in_sandbox is True


def test_single_sign_where_the_container_is_unknown_is_unknown(tmp_path: Path) -> None:
    assert hostinfo.sandbox(str(tmp_path), {"OPENSHELL_SANDBOX": "1"}, None)[0] is None


def test_machine_id_is_never_shown_itself(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    machine_id = "4c4c4544003956108052b4c04f384833"
    (tmp_path / "etc/machine-id").write_text(machine_id + "\n")
    host = hostinfo.gather(root=make(tmp_path), env={}, system="Linux")
    assert host.machine_id_hash is not None and len(host.machine_id_hash) == 32 and machine_id not in repr(host)
    assert host.machine_id_hash == hostinfo.gather(root=str(tmp_path), env={}, system="Linux").machine_id_hash


@pytest.mark.parametrize("text", ["", "uninitialized\n", "short", "Z" * 32])
def test_machine_id_that_is_none_gives_no_hash(text: str) -> None:
    assert hostinfo.machine_id_hash(text) is None


def test_usage_reads_memory_and_uptime_and_leaves_unknown_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    400 kB\n")
    (tmp_path / "proc/uptime").write_text("3661.50 7000.00\n")
    usage = cloud.usage(str(tmp_path))
    assert (usage.ram_total, usage.ram_used, usage.uptime_s) == (1024000, 614400, 3661.5)
    assert usage.disk_total and usage.disk_used is not None
    empty = cloud.usage(str(tmp_path / "none"))
    assert empty.disk_total is None and empty.ram_total is None


@given(st.text(max_size=300))
def test_any_mountinfo_is_parsed(text: str) -> None:
    hostinfo.root_mount(text)
    hostinfo.root_mount(PLAIN + text.replace("\n", " "))
