# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R25: the host's clock, and the times of files, jump by years in both directions; no decision changes."""

from __future__ import annotations

import email.utils
import os
import time
from pathlib import Path
from typing import Iterator

import pytest

from support.ingest import EVENTS, Fault, Ingest
from support.node import Node, until

YEAR = 365 * 86400.0
# Wall clock = real one + what the file says; the monotonic clock stays what it is. State is swept all the time.
PRELUDE = """
import time
from clawmetry_sync import daemon
from clawmetry_sync.ship import shipper
real = time.time
def shifted():
    with open(%r) as stream:
        return real() + float(stream.read() or 0)
time.time = shifted
shipper.BACKOFF_BASE_S = 0.1
daemon.TRIM_INTERVAL_S = 0.2
daemon.FORGET_AFTER_START_S = 0.0
"""


class ClockNode(Node):
    def __init__(self, directory: Path, ingest: Ingest) -> None:
        super().__init__(directory, ingest)
        self.offset = directory / "offset"
        self.jump(0)
        self.daemon.prelude = PRELUDE % str(self.offset)

    def jump(self, seconds: float) -> None:
        moved = self.offset.with_suffix(".new")
        moved.write_text(str(seconds))
        moved.rename(self.offset)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ClockNode]:
    with Ingest() as ingest:
        node = ClockNode(tmp_path, ingest)
        yield node
        node.daemon.kill()


JUMPS = [10 * YEAR, -20 * YEAR, 8 * 86400.0, -3600.0, 0.0]


def test_r25_jumps_while_it_runs(node: ClockNode) -> None:
    node.append("one", 5)
    node.daemon.start()
    node.arrived()
    for jump in JUMPS:
        node.jump(jump)
        node.append("one", 3)
        node.append("of %d" % jump, 1)
        node.arrived()
        # Its time is not what tells that a file has changed.
        os.utime(node.path("one"), (time.time() + jump, time.time() + jump))
        node.append("one", 1)
        os.utime(node.path("one"), (0, 0))
        node.arrived()
    status = node.daemon.status()
    assert status["state"] == "ok" and 0 < status["uptime_s"] < 600
    assert all(source["lag_s"] == 0 for source in status["sources"])
    node.no_more(0.5)


def test_r25_jumps_between_two_lives(node: ClockNode) -> None:
    node.append("one", 5)
    for jump in JUMPS:
        node.jump(jump)
        node.daemon.start()
        node.append("one", 2)
        node.arrived()
        assert node.daemon.terminate() == 0
    node.no_more(0)


def test_r25_a_sandbox_that_is_away_is_not_forgotten_by_a_jump(node: ClockNode) -> None:
    """Gone for a second; by the clock, for ten years. When it is back, nothing of it is sent again."""
    node.append("one", 5)
    node.daemon.start()
    node.arrived()
    state, away = node.home / ".openclaw", node.home / "away"
    state.rename(away)
    until(lambda: not node.daemon.status()["sandboxes"], 30, "release of the sandbox")
    for jump in JUMPS[:3]:
        node.jump(jump)
        time.sleep(0.5)
    assert node.daemon.terminate() == 0
    node.daemon.start()
    time.sleep(0.5)
    away.rename(state)
    node.append("one", 2)
    node.arrived()
    node.no_more(0.5)


def test_r25_retries_wait_by_elapsed_time(node: ClockNode) -> None:
    """In a backoff the clock goes back by twenty years; and a moment to come back at is told by the clock of who says it."""
    node.jump(-20 * YEAR)
    moment = email.utils.formatdate(time.time() + 1, usegmt=True)
    node.ingest.script(EVENTS, *[Fault(status=503)] * 3, Fault(status=503, headers={"Retry-After": moment}))
    node.append("one", 2)
    node.daemon.start()
    node.ingest.wait(lambda me: me.count(EVENTS) >= 2, 20, "retries")
    node.jump(20 * YEAR)
    node.arrived(20)
    node.jump(0)
    node.append("one", 2)
    node.arrived(20)
    assert node.ingest.count(EVENTS) == 6
