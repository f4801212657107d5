# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""``clawmetry stop``: the holder of the lock is ended, and nobody else ever is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawmetry_sync.ending import command_line, end

pytestmark = pytest.mark.spawns

HOLDER = """
import fcntl, os, signal, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, b"%d\\n" % os.getpid(), 0)
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("holds", flush=True)
time.sleep(60)
"""


def holder(state: Path, manner: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-Ic", HOLDER, state / "lock", manner], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    return process


@pytest.mark.parametrize(("manner", "code"), [("polite", -15), ("deaf", -9)])
def test_the_holder_is_asked_and_then_killed(tmp_path: Path, manner: str, code: int) -> None:
    with holder(tmp_path, manner) as process:
        assert end(str(tmp_path), 0.5)
        assert process.wait(5) == code


def test_a_number_that_nobody_holds_names_nobody(tmp_path: Path) -> None:
    assert end(str(tmp_path), 0.5)
    (tmp_path / "lock").write_text("%d\n" % os.getpid())
    assert end(str(tmp_path), 0.5)


def test_one_that_is_only_starting_is_ended_by_its_command_line(tmp_path: Path) -> None:
    argv = [sys.executable, "-Ic", "import sys, time; print('holds', flush=True); time.sleep(60)", "--config", str(tmp_path), "run"]
    other = [*argv[:-2], str(tmp_path / "other"), "run"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as starting, subprocess.Popen(other, stdout=subprocess.PIPE) as another:
        for process in (starting, another):
            assert process.stdout is not None and process.stdout.readline() == b"holds\n"
        assert end(str(tmp_path), 0.5, starting=[word.encode() for word in argv])
        assert starting.wait(5) == -15
        assert another.poll() is None
        another.kill()


def test_own_command_line_with_the_other_verb(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cmdline").write_bytes(b"python\0-I\0x.pyz\0--config\0/stop\0stop\0--timeout\x003\0")
    assert command_line(b"stop", b"run", str(tmp_path)) == (b"python", b"-I", b"x.pyz", b"--config", b"/stop", b"run")
    assert command_line(b"halt", b"run", str(tmp_path)) == ()
    assert command_line(b"stop", b"run", str(tmp_path / "none")) == ()
