# Copyright (c) 2026, ClawMetry sync contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-FileCopyrightText: 2026, ClawMetry sync contributors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The multiset of lines sent."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clawmetry_sync.read.sent import HASH_BYTES, SentLines, line_hash

NAMES = st.sampled_from([b"a", b"b", b"c", b"", b"a longer line"])


@given(st.lists(st.lists(NAMES)), st.lists(NAMES))
def test_a_line_can_be_taken_as_often_as_it_was_sent(runs: list[list[bytes]], asked: list[bytes]) -> None:
    sent = SentLines(b"".join(line_hash(line) for line in run) for run in runs)
    left = Counter(line for run in runs for line in run)
    assert len(sent) == sum(left.values())
    for line in asked:
        assert sent.take(line_hash(line)) == (left[line] > 0)
        left[line] -= 1


def test_damaged_run_is_cut_to_whole_hashes() -> None:
    sent = SentLines([line_hash(b"a") + b"xyz"])
    assert len(sent) == 1 and sent.take(line_hash(b"a")) and not sent.take(line_hash(b"a"))


def test_hash_is_short_and_spread() -> None:
    assert len(line_hash(b"a")) == HASH_BYTES
    assert len({line_hash(b"%d" % number) for number in range(10_000)}) == 10_000
