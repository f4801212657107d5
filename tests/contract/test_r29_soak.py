# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""R29: random faults for a minute; half an hour of the same is tests/bench/soak.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.soak import soak


def test_r29_random_faults_lose_nothing_and_leave_nothing_behind(tmp_path: Path, record_property: Any) -> None:
    with soak(tmp_path, seconds=60, seed=29) as run:
        figures = run.run()
    record_property("R29", figures)
    assert figures["lines"] > 5000 and sum(figures["faults"].values()) >= 15 and figures["faults"]["kill"]
    # What one life used when it was young, it uses when it is old; a minute is too short for a slope.
    assert figures["rss_kib_last_quarter"] - figures["rss_kib_first_quarter"] < 4096
    assert figures["rss_kib_peak"] < 80 * 1024
    (young, _middle, _most), (old, _middle, most) = figures["fds_calm"]
    assert abs(old - young) <= 1 and most - young <= 4
