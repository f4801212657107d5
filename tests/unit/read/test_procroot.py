# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""S18: a pid is only a number until it is pinned, and the pin knows when its process is gone."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawmetry_sync.errors import Unreadable
from clawmetry_sync.read import procroot


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL) as child:
        yield child
        child.kill()


def test_no_process_no_root() -> None:
    for pid in (0, -1):
        with pytest.raises(Unreadable, match="not running"):
            procroot.pin(pid, "container x")


def test_a_pid_that_is_not_there() -> None:
    with pytest.raises(Unreadable, match="is gone"):
        procroot.pin(2**22 + 1, "container x")


@pytest.mark.root
@pytest.mark.spawns
def test_holds_the_root_and_notices_the_end(process: subprocess.Popen[bytes]) -> None:
    pinned = procroot.pin(process.pid, "container x")
    try:
        assert pinned.alive()
        assert os.fstat(pinned.root.fd).st_ino == os.stat("/").st_ino
        process.kill()
        process.wait()
        assert not pinned.alive()
        # What is held stays readable: a dead sandbox is drained.
        assert pinned.root.names()[0]
    finally:
        pinned.close()
    assert not pinned.alive()
    pinned.close()


@pytest.mark.root
@pytest.mark.spawns
def test_r20_without_a_descriptor_it_is_not_taken_for_dead(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let go of because of that, its last lines would be lost when it ends meanwhile."""
    pinned = procroot.pin(process.pid, "container x")

    def no_more(*_args: object, **_more: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", no_more)
        assert pinned.alive()
    pinned.close()
    assert not pinned.alive()


@pytest.mark.root
@pytest.mark.spawns
def test_s18_a_zombie_is_not_taken_for_its_successor(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """The descriptor of a dead process answers no, whoever has the number now."""
    pinned = procroot.pin(process.pid, "container x")
    process.kill()
    process.wait()
    successor = tmp_path / str(process.pid)
    successor.mkdir()
    (successor / "stat").write_bytes(b"1 (other) S")
    try:
        assert not pinned.alive()
    finally:
        pinned.close()


def test_what_may_not_be_opened_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7").mkdir()
    real_open = os.open

    def refuse(path: str, flags: int, *rest: int, **options: int) -> int:
        if path == "root":
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(Unreadable, match="CAP_SYS_PTRACE"):
        procroot.pin(7, "container x", proc=str(tmp_path))
    assert set(os.listdir("/proc/self/fd")) <= before
