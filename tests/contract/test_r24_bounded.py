# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R24: transcripts come and go by the thousand; rows, bytes, descriptors and memory are what they were before.

Here in three waves of 1,500; tests/bench/churn.py does a hundred thousand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.churn import churning
from support.node import until


def test_r24_files_that_come_and_go_leave_nothing(tmp_path: Path, record_property: Any) -> None:
    with churning(tmp_path, files=4500, at_once=1500) as churn:
        figures = churn.run()
        record_property("R24", figures)
        before, first, after = figures["before"], figures["after the first"], figures["after"]
        assert after["rows"] == before["rows"]
        assert after["fds"] <= before["fds"] + 1
        # Whatever the first wave has made of the process, three of them make no more of it.
        assert after["rss_kib"] < first["rss_kib"] + 8192 and figures["peak_rss_kib"] < 80 * 1024
        status = churn.node.daemon.status()
        assert status["quarantined"] == 0 and status["state"] == "ok", "what was put aside of a file goes with it"
        churn.node.append("stays", 2)
        until(lambda: churn.node.daemon.status()["sources"][0]["records"] == 5, 20, "going on")
