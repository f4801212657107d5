# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A user's rootless Podman: its socket, and a real process in a real user namespace whose files have shifted ids.

Podman itself is played; the namespace, its id map, the cgroup and the files are the kernel's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clawmetry_sync import holding
from clawmetry_sync.config import Settings
from clawmetry_sync.discover import discover
from clawmetry_sync.errors import Refused, Unreadable
from clawmetry_sync.model import Sandbox
from clawmetry_sync.read import routes
from support import agentdb
from support.fakeengine import FakeEngine
from support.sandbox import until

pytestmark = pytest.mark.root
ALICE, SHIFT = 61_244, 6_100_000
SANDBOX_USER = SHIFT + 997  # uid 998 in the container
SESSIONS = "sandbox/.openclaw/agents/main/sessions"
PROCESS = """
import ctypes, os, sys
os.setgroups([])
os.setresgid(%(uid)d, %(uid)d, %(uid)d)
os.setresuid(%(uid)d, %(uid)d, %(uid)d)
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
    sys.exit(os.strerror(ctypes.get_errno()))
print("ready", flush=True)
sys.stdin.readline()
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.chroot(%(root)r)
os.chdir("/")
os.execv("/bin/busybox", ["sleep", "600"])
"""


def own(top: Path, uid: int) -> None:
    for path in (top, *top.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def start(files: Path) -> subprocess.Popen[bytes]:
    """Start a process of ALICE's in a user and mount namespace of its own, with FILES as its root."""
    program = PROCESS % {"uid": ALICE, "root": str(files)}
    process = subprocess.Popen([sys.executable, "-I", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    for name in ("gid_map", "uid_map"):
        Path("/proc/%d/%s" % (process.pid, name)).write_text("0 %d 1\n1 %d 65536\n" % (ALICE, SHIFT))
    process.stdin.write(b"go\n")
    process.stdin.close()
    until(lambda: os.readlink("/proc/%d/exe" % process.pid).endswith("/bin/busybox"), what="the container's process")
    return process


def put_into_a_cgroup(pid: int, container_id: str, cleanup: contextlib.ExitStack) -> None:
    """Name the process's cgroup as Podman would, in the first hierarchy that lets us."""
    for top in ("/sys/fs/cgroup/freezer", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        place = Path(top) / ("libpod-%s.scope" % container_id)
        with contextlib.suppress(OSError):
            place.mkdir()
            cleanup.callback(place.rmdir)
            (place / "cgroup.procs").write_text(str(pid))
        if container_id in Path("/proc/%d/cgroup" % pid).read_text():
            return
    raise AssertionError("no cgroup could be made")


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def engine(cleanup: contextlib.ExitStack) -> FakeEngine:
    """ALICE's Podman with one container, on a made-up host of hers."""
    fake = FakeEngine("podman-openshell-0.0.72.json")
    cleanup.callback(shutil.rmtree, fake.root, ignore_errors=True)
    fake.root.chmod(0o755)
    (fake.root / "etc").mkdir()
    (fake.root / "etc/passwd").write_text("alice:x:%d:%d::/home/alice:/bin/sh\n" % (ALICE, ALICE))
    (fake.root / "home/alice").mkdir(parents=True)
    fake.socket = fake.root / ("run/user/%d/podman/podman.sock" % ALICE)
    cleanup.callback(fake.stop)
    fake.start()
    os.chown(fake.socket, ALICE, ALICE)
    return fake


@pytest.fixture
def files(cleanup: contextlib.ExitStack) -> Path:
    """The container's root: files of its own root and of its sandbox user, a transcript and a database."""
    files = Path(tempfile.mkdtemp(prefix="rootless-"))
    cleanup.callback(shutil.rmtree, files, ignore_errors=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    (files / "bin").mkdir()
    shutil.copy(busybox, files / "bin/busybox")
    (files / SESSIONS).mkdir(parents=True)
    (files / SESSIONS / "a.jsonl").write_bytes(b'{"a":1}\n')
    database = agentdb.AgentDatabase(files / "sandbox/.openclaw/agents/main/agent" / agentdb.NAME)
    database.session("b")
    database.add("b", [agentdb.line(agentdb.numbered(1))])
    database.close()
    own(files, ALICE)
    own(files / "sandbox", SANDBOX_USER)
    files.chmod(0o755)
    return files


def found(engine: FakeEngine) -> Sandbox:
    (sandbox,) = discover(root=str(engine.root), homes=["/home/alice"], enabled=["podman", "openshell"]).sandboxes
    return sandbox


def test_it_is_read_through_its_process_with_its_shifted_ids(engine: FakeEngine, files: Path, cleanup: contextlib.ExitStack) -> None:
    # What a user got hold of, and what the user's container has no business with.
    (files / SESSIONS / "host.jsonl").write_bytes(b'{"canary":1}\n')  # root's
    process = start(files)
    (detail,) = engine.inspect.values()
    detail["State"]["Pid"] = process.pid
    put_into_a_cgroup(process.pid, detail["Id"], cleanup)
    cleanup.callback(end, process)
    sandbox = found(engine)
    assert sandbox.uid == "podman:%d:%s" % (ALICE, detail["Id"]) and sandbox.container is not None and sandbox.container.owner == ALICE
    held = holding.hold(sandbox, Settings(routes=("proc",)))
    try:
        told = routes.survey(held)
        assert (told.readable, told.route, told.store, told.session_count, told.reason) == (True, "proc", "both", 3, None)
        with held.root.open_dir(os.fsencode(SESSIONS)) as directory:
            os.close(directory.open_file(b"a.jsonl"))
            with pytest.raises(Refused, match="uid 0"):
                directory.open_file(b"host.jsonl")
        assert os.stat(files / SESSIONS / "a.jsonl").st_uid == SANDBOX_USER
    finally:
        held.close()


def test_another_process_that_the_engine_names_is_not_read(engine: FakeEngine, files: Path, cleanup: contextlib.ExitStack) -> None:
    """The same files and the same cgroup, but a process of root's: a user may put what she likes into her answer."""
    (detail,) = engine.inspect.values()
    process = subprocess.Popen(["/bin/sleep", "600"], stdin=subprocess.DEVNULL)
    detail["State"]["Pid"] = process.pid
    put_into_a_cgroup(process.pid, detail["Id"], cleanup)
    cleanup.callback(end, process)
    with pytest.raises(Unreadable, match="not uid %d's rootless container" % ALICE):
        holding.hold(found(engine), Settings(routes=("proc",)))
