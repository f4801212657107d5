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

from clawmetry_sync.queue import end_holder

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
        assert end_holder(str(tmp_path), 0.5)
        assert process.wait(5) == code


def test_a_number_that_nobody_holds_names_nobody(tmp_path: Path) -> None:
    assert end_holder(str(tmp_path), 0.5)
    (tmp_path / "lock").write_text("%d\n" % os.getpid())
    assert end_holder(str(tmp_path), 0.5)
