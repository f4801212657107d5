# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several engines on one host: which are asked, and what a user's own engine may say."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawmetry_sync.discover import Discoverer, docker, podman
from clawmetry_sync.discover.accounts import Account, Accounts
from clawmetry_sync.discover.podman import Socket
from clawmetry_sync.dockerapi import Engine
from clawmetry_sync.errors import Refused, Unreadable
from clawmetry_sync.model import ContainerPlace, Sandbox
from clawmetry_sync.read import procroot, routes
from clawmetry_sync.read.opener import HeldDir
from support.fakeengine import FakeEngine

pytestmark = pytest.mark.network
ALICE = 1000


def accounts(*uids: int) -> Accounts:
    return Accounts(tuple(Account("u%d" % uid, uid, "/home/u%d" % uid, "/nowhere") for uid in uids), True)


@contextlib.contextmanager
def podman_at(root: Path, path: str, name: str = "podman-openshell-0.0.72.json") -> Iterator[FakeEngine]:
    """A Podman whose socket lies at PATH below ROOT."""
    fake = FakeEngine(name)
    fake.socket = root / path.lstrip("/")
    fake.url = "unix://%s" % fake.socket
    with fake:
        yield fake


@pytest.mark.root
def test_sockets_of_whom_they_should_be(tmp_path: Path) -> None:
    def place(path: str, mode: int, owner: int) -> None:
        (tmp_path / path).parent.mkdir(parents=True)
        os.mknod(tmp_path / path, mode)
        os.chown(tmp_path / path, owner, owner)

    place("run/podman/podman.sock", stat.S_IFSOCK | 0o600, 0)
    place("run/user/1000/podman/podman.sock", stat.S_IFSOCK | 0o600, 1000)
    place("run/user/1001/podman/podman.sock", stat.S_IFSOCK | 0o600, 1000)
    place("run/user/1002/podman/podman.sock", stat.S_IFREG | 0o600, 1002)
    (tmp_path / "run/user/1003/podman").mkdir(parents=True)
    (tmp_path / "run/user/1003/podman/podman.sock").symlink_to("/run/podman/podman.sock")
    found = podman.sockets(str(tmp_path), accounts(0, 1000, 1001, 1002, 1003))
    assert found == [Socket("/run/podman/podman.sock"), Socket("/run/user/1000/podman/podman.sock", 1000)]


def test_docker_and_podman_in_one_discovery() -> None:
    with FakeEngine("docker-openshell-0.0.72.json") as fake, podman_at(fake.root, podman.SYSTEM_SOCKET):
        found = Discoverer(root=str(fake.root), homes=[]).discover()
    boxes = {box.name: box for box in found.sandboxes}
    assert {"my-assistant", "researcher", "notes"} <= set(boxes)
    assert boxes["notes"].uid.startswith("podman:") and boxes["my-assistant"].uid.startswith("docker:")
    place = boxes["notes"].container
    assert place is not None and place.engine == "unix://%s/run/podman/podman.sock" % fake.root and place.owner is None
    runtimes = {runtime.name: runtime.present for runtime in found.runtimes}
    assert (runtimes["docker"], runtimes["podman"]) == (True, True)


@pytest.mark.root
@pytest.mark.parametrize("path", [*("/home/alice/" + each for each in podman.DOCKER_SOCKETS), "/run/user/%d/docker.sock" % ALICE])
def test_docker_of_a_user_where_the_system_has_none(path: str) -> None:
    """Colima, Docker Desktop and rootless Docker; whose socket it is counts."""
    with FakeEngine("docker-openshell-0.0.72.json") as fake:
        fake.stop()
        fake.socket.unlink()
        (fake.root / "etc").mkdir()
        (fake.root / "etc/passwd").write_text("alice:x:%d:%d::/home/alice:/bin/sh\n" % (ALICE, ALICE))
        (fake.root / "home/alice").mkdir(parents=True)
        with podman_at(fake.root, path, "docker-openshell-0.0.72.json") as theirs:
            os.chown(theirs.socket, ALICE, ALICE)
            found = Discoverer(root=str(fake.root), homes=["/home/alice"]).discover()
            os.chown(theirs.socket, ALICE + 1, ALICE + 1)
            nothing = Discoverer(root=str(fake.root), homes=["/home/alice"]).discover()
    boxes = {box.name: box for box in found.sandboxes}
    assert {"my-assistant", "researcher"} <= set(boxes) and boxes["my-assistant"].uid.startswith("docker:%d:" % ALICE)
    place = boxes["my-assistant"].container
    assert place is not None and place.engine == "unix://%s%s" % (fake.root, path) and place.owner == ALICE and place.mounts == ()
    runtime = next(runtime for runtime in found.runtimes if runtime.name == "docker")
    assert (runtime.present, runtime.version, runtime.evidence[0]) == (True, "28.2.2", "unix://%s answers" % path)
    assert found.topology[1].details == (("kind", "docker"), ("version", "28.2.2"), ("running", True))
    assert nothing.sandboxes == ()


def test_the_primary_by_another_name_is_not_asked_twice() -> None:
    with FakeEngine("podman-openshell-0.0.72.json") as fake:
        (fake.root / "run/podman").mkdir(parents=True)
        (fake.root / "run/podman/podman.sock").symlink_to(fake.socket)
        engines = podman.Engines(str(fake.root), Engine(fake.url), None, 0)
        primary = docker.find(Engine(fake.url))
        fake.asked.clear()
        assert engines.add_to(primary, [Socket("/run/podman/podman.sock")]) == primary
        assert fake.asked == []


def test_a_user_s_engine_speaks_for_nobody_else(tmp_path: Path) -> None:
    """It can say any id, pid and path: the ids are its own, the paths are not followed."""
    with FakeEngine("podman-openshell-0.0.72.json") as fake, podman_at(fake.root, "/run/user/1000/podman/podman.sock") as rootless:
        for detail in rootless.inspect.values():
            detail["Mounts"] = [{"Type": "bind", "Source": "/root", "Destination": "/sandbox"}]
        rows = podman.Engines(str(fake.root), Engine(fake.url), None, 0)
        found = rows.add_to(docker.find(Engine(fake.url)), [Socket("/run/user/1000/podman/podman.sock", ALICE)])
    uids = sorted(box.uid for box in found.sandboxes)
    assert len(set(uids)) == len(uids) == 2 and uids[1].startswith("podman:1000:")
    (theirs,) = [box.container for box in found.sandboxes if box.uid == uids[1]]
    assert theirs is not None and theirs.owner == ALICE and theirs.mounts == ()


def test_our_own_rootless_engine_is_as_good_as_ourselves() -> None:
    with FakeEngine("docker-openshell-0.0.72.json") as fake, podman_at(fake.root, "/run/user/1000/podman/podman.sock"):
        rows = podman.Engines(str(fake.root), Engine(fake.url), None, ALICE)
        found = rows.add_to(docker.Containers(), [Socket("/run/user/1000/podman/podman.sock", ALICE)])
    assert [box.container.owner for box in found.sandboxes if box.container] == [None]


def test_podman_is_asked_seldom_and_forgotten_with_its_socket() -> None:
    now = [0.0]
    with FakeEngine("docker-openshell-0.0.72.json") as fake, podman_at(fake.root, podman.SYSTEM_SOCKET) as other:
        rows = podman.Engines(str(fake.root), Engine(fake.url), None, 0, lambda: now[0])
        socket = [Socket(podman.SYSTEM_SOCKET)]
        assert len(rows.add_to(docker.Containers(), socket).sandboxes) == 1
        asked = len(other.asked)
        now[0] = podman.INTERVAL_S - 1
        assert len(rows.add_to(docker.Containers(), socket).sandboxes) == 1 and len(other.asked) == asked
        now[0] += 2
        rows.add_to(docker.Containers(), socket)
        assert len(other.asked) > asked
        assert rows.add_to(docker.Containers(), []).sandboxes == ()


@pytest.mark.root
def test_what_is_not_the_user_s_is_refused_below_a_rootless_root(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "root").write_bytes(b"x")
    for name in ("mine", "dir"):
        os.chown(tmp_path / name, 100_005, 100_005)
    with HeldDir.hold(os.fsencode(tmp_path)) as held:
        held.owners = (range(ALICE, ALICE + 1), range(100_000, 165_536))
        os.close(held.open_file(b"mine"))
        with held.open_dir(b"dir") as below:
            assert below.owners == held.owners
        with pytest.raises(Refused, match="uid 0"):
            held.open_file(b"root")


@pytest.mark.root
def test_a_rootless_container_with_the_host_s_own_ids_is_no_rootless_container() -> None:
    """A user's engine names a process of the host: its namespace maps root, so it is not that user's."""
    pinned = procroot.pin(os.getpid(), "ours")
    assert any(0 in ids for ids in pinned.own_ids())
    pinned.close()
    place = ContainerPlace("unix:///x", "0" * 64, pid=os.getpid(), started_at="x", running=True, owner=ALICE)
    box = Sandbox("podman:1000:" + "0" * 64, "mine", "nemoclaw", container=place, confirmed=True)
    with pytest.raises(Unreadable, match="not uid 1000's rootless container"):
        routes.open_sandbox(box, routes=("proc",), reinspect=lambda asked: asked)
